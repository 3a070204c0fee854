//! Starts and stops the programs under test, each by its own process id.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The connection token of the direct runtime; through Jetway the token is the user's name.
const DIRECT_TOKEN: &str = "conformance-token";

/// A running program, with a directory of its own. Its output goes to a file there, so that it never blocks on us.
struct Program {
    child: Child,
    dir: TempDir,
}

impl Program {
    /// Starts it with nothing of our environment but `PATH`, and `prepare`d in its directory.
    fn start(program: &Path, prepare: impl FnOnce(&mut Command, &Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("jetway-sdk-rs-").tempdir().expect("a temporary directory");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("a home");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", &home);
        prepare(&mut command, dir.path());
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { child, dir }
    }

    /// The word after `announcement` in its output.
    fn announced(&mut self, announcement: &str) -> String {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let output = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            // Only whole lines: an address may still be half written.
            let lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            for line in lines {
                if let Some((_, rest)) = line.split_once(announcement) {
                    return rest.split_whitespace().next().unwrap_or_default().to_owned();
                }
            }
            let ended = self.child.try_wait().expect("its status");
            assert!(ended.is_none() && Instant::now() < deadline, "did not start ({ended:?}):\n{output}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The scripted model: see `loadtest/src/model/mod.rs` for what a prompt makes it do.
pub struct Model {
    /// What a provider's `baseUrl` is.
    pub base_url: String,
    _program: Program,
}

impl Model {
    /// Starts it.
    pub fn start() -> Self {
        let mut program = Program::start(&built("SCRIPTED_MODEL_BIN", "scripted-model"), |_, _| {});
        Self { base_url: program.announced("listening on "), _program: program }
    }
}

/// Something that an SDK can connect to.
pub struct Target {
    /// `direct` or `jetway`.
    pub name: &'static str,
    /// Where it listens on loopback.
    pub port: u16,
    program: Program,
}

impl Target {
    /// The targets named in `TARGETS`, by default both.
    pub fn all() -> Vec<Self> {
        let names = env::var("TARGETS").unwrap_or_else(|_| "direct,jetway".to_owned());
        names.split(',').map(Self::start).collect()
    }

    fn start(name: &str) -> Self {
        match name {
            "direct" => Self::direct(),
            "jetway" => Self::jetway(),
            other => panic!("TARGETS: {other} is neither direct nor jetway"),
        }
    }

    /// A CLI server of its own, without Jetway.
    fn direct() -> Self {
        let mut program = Program::start(&runtime(), |command, dir| {
            command.args(["--headless", "--port", "0"]);
            command
                .env("COPILOT_HOME", dir.join("home/copilot"))
                .env("COPILOT_CONNECTION_TOKEN", DIRECT_TOKEN);
        });
        let port = program.announced("listening on port ").parse().expect("a port");
        Self { name: "direct", port, program }
    }

    /// Jetway on its defaults, anonymous, with state of its own.
    fn jetway() -> Self {
        let mut program = Program::start(&built("JETWAY_BIN", "jetway"), |command, dir| {
            let (config, state, runtime) = (dir.join("jetway.toml"), dir.join("state"), runtime());
            let text = format!(
                "[listen]\nsdk = '127.0.0.1:0'\nhttp = 'off'\nadmin = 'off'\n[auth]\nanonymous = true\n\
                 [tenants.default]\nrequests_per_second = 10000\n\
                 [pool.process]\nstate_dir = '{}'\ncommand = ['{}']\n\
                 [tenants.default.policy]\nallow_paths = ['{}']\n",
                state.display(),
                runtime.display(),
                dir.display()
            );
            fs::write(&config, text).expect("a configuration");
            command.args(["serve", "--config"]).arg(config);
        });
        let address = program.announced("sdk listening on ");
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { name: "jetway", port, program }
    }

    /// The connection token of `user`.
    pub fn token(&self, user: &str) -> String {
        if self.name == "direct" { DIRECT_TOKEN } else { user }.to_owned()
    }

    /// A directory that goes with the target.
    pub fn dir(&self) -> &Path {
        self.program.dir.path()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn built(variable: &str, name: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| root().join("target/debug").join(name), PathBuf::from)
}

/// The runtime that the installed npm packages bring for this platform.
fn runtime() -> PathBuf {
    if let Some(path) = env::var_os("COPILOT_RUNTIME_BIN") {
        return path.into();
    }
    let platform = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
    let package = format!("@github/copilot-sdk-{platform}/prebuilds/{platform}/copilot-runtime");
    let path = root().join("loadtest/node_modules").join(package);
    assert!(path.exists(), "no {}: run deploy/setup test", path.display());
    path
}
