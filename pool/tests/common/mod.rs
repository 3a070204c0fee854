//! What the tests of processes and of fleets share.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jetway_config::{
    Identity, MemoryBudget,
    pool::{Backend, Command, Health, Pool as Settings, PoolMode, Process},
    recycle::Recycle,
    sandbox::{Level, ProcessLimits, Sandbox},
};
use jetway_pool::sandbox::{Outside, Serving};

/// More processes of a tenant than any test has.
pub(crate) const MANY: usize = 1000;

/// `tenant/user`.
pub(crate) fn who(name: &str) -> Identity {
    let (tenant, user) = name.split_once('/').unwrap();
    Identity { tenant: tenant.parse().unwrap(), user: user.parse().unwrap() }
}

/// The program that `JETWAY_TEST_RUNTIME` names, else what is found as the product finds it.
pub(crate) fn runtime() -> Command {
    match std::env::var("JETWAY_TEST_RUNTIME") {
        Ok(program) => Command::Program { program, args: Vec::new() },
        Err(_) => Command::Auto,
    }
}

pub(crate) fn settings(command: Command, state_dir: &Path) -> Settings {
    Settings {
        mode: PoolMode::PerUser,
        max_active_sessions: 50,
        keep_turns: Duration::ZERO,
        process: Process {
            command,
            state_dir: state_dir.into(),
            max_processes: 50,
            memory_budget: MemoryBudget::Percent(50),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(10),
            sandbox: Sandbox::None,
            sandbox_min: Level::None,
            sandbox_paths: Vec::new(),
            uids: None,
            upstream_proxy: None,
            limits: ProcessLimits::default(),
            start_timeout: Duration::from_secs(20),
        },
        fleet: Vec::new(),
        recycle: Recycle::default(),
        health: Health {
            interval: Duration::from_millis(200),
            timeout: Duration::from_millis(200),
            failures: 3,
            cooldown: Duration::from_millis(500),
        },
    }
}

pub(crate) fn fleet(backends: Vec<Backend>) -> Settings {
    let fleet = backends;
    Settings { mode: PoolMode::Fleet, fleet, ..settings(Command::Auto, Path::new("/nonexistent")) }
}

/// For pools without sandboxes.
pub(crate) fn nothing_outside() -> Arc<dyn Outside> {
    struct None;
    impl Outside for None {
        fn serve(self: Arc<Self>, _: Identity, _: tokio::net::TcpListener) -> Serving {
            Box::pin(std::future::ready(()))
        }

        fn no_proxy(&self) -> &'static str {
            ""
        }

        fn directories(&self, _: &Identity) -> Vec<PathBuf> {
            Vec::new()
        }
    }
    Arc::new(None)
}

/// A script as the CLI.
pub(crate) fn script(dir: &Path, body: &str) -> Command {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join("cli.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Command::Program { program: path.display().to_string(), args: Vec::new() }
}

/// Waits until `holds`, and fails after ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes whose environment contains `text`: CLIs and what they started, by their state directory.
pub(crate) fn bearing(text: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let bears = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(text)
    };
    pids.filter(bears).collect()
}

/// Whether `pid` runs: neither gone nor a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().is_empty() && !rest.starts_with(" Z"))
}

pub(crate) fn canonical(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap()
}
