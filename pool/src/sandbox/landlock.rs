//! Landlock: the kernel's rules for what a process and its children may open, connect to and signal, where they share
//! files, network and process table with everybody else. `syscalls` shuts what it has no rules for.
//!
//! The program that is started is Jetway's own, which takes the rules upon itself and then becomes the CLI.

use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use jetway_config::sandbox::ProcessLimits;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::{
    PROXY, bwrap,
    fds::{self, Message},
    init::{self, Own},
    syscalls,
};
use crate::state_dir::Home;

/// What the kernel must have: of the versions before, 4 and later know ports, 6 knows signals and abstract sockets.
const NEEDED: ABI = ABI::V6;

/// The directory for temporary files in a home. There is no `/tmp` of one's own without a file system of one's own.
const TEMPORARY: &str = ".tmp";

/// What of `/proc` is about nobody. The rest tells of others' processes.
const PROC: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel",
    "/proc/uptime",
    "/proc/version",
];

/// Devices that hold nothing of anybody's.
const DEVICES: [&str; 5] = ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// How its processes are started.
#[derive(Debug, Clone)]
pub(crate) struct Landlock {
    /// Jetway's own program.
    pub(super) program: PathBuf,
    /// What may be read beyond the system's programs and libraries.
    pub(super) readable: Vec<PathBuf>,
    pub(super) limits: ProcessLimits,
}

impl Landlock {
    /// The arguments of Jetway's own program, up to the one that it becomes, which may write in `home` and `shared`.
    pub(super) fn arguments(&self, home: &Home, shared: &[PathBuf]) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![super::RESTRICT_COMMAND.into()];
        let apart = |path: &&PathBuf| {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            // Rules add up: of what holds all users' state nothing could be taken away again.
            !home.state_dir.starts_with(&path) && !path.starts_with(&home.state_dir)
        };
        for path in self.readable.iter().filter(apart) {
            all.extend(["--read".into(), path.into()]);
        }
        for path in shared.iter().filter(apart) {
            all.extend(["--write".into(), path.into()]);
        }
        all.extend(["--home".into(), home.path.clone().into()]);
        all.extend([self.limits.processes.to_string(), self.limits.disk.0.to_string()].map(OsString::from));
        all.push("--".into());
        all
    }
}

/// What a process may reach in the file system, beside the system's own programs and libraries.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The user's own.
    pub home: PathBuf,
    /// What else may be read and run.
    pub read: Vec<PathBuf>,
    /// What else may be written.
    pub write: Vec<PathBuf>,
}

/// Becomes `command`, held to `reach`. Without a command it only shows that this can be had. Jetway is at the other
/// end of standard input.
pub fn restrict(own: Own, reach: &Reach, command: impl IntoIterator<Item = OsString>) -> ExitCode {
    match become_restricted(own, reach, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => init::unavailable(&error),
    }
}

/// Returns without a command, or without success.
fn become_restricted(own: Own, reach: &Reach, command: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let temporary = reach.home.join(TEMPORARY);
    // What the last process left there. Links are removed, not followed.
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir(&temporary)?;
    let exit = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let way_out = exit.local_addr()?;
    fds::send(io::stdin().as_fd(), Message::Exit, Some(exit.as_fd()))?;
    drop(exit);
    init::lower_all(own)?;
    rules(reach, way_out).map_err(io::Error::other)?;
    drop_capabilities()?;
    syscalls::shut()?;
    let mut command = command.into_iter();
    let Some(program) = command.next() else { return Ok(()) };
    let mut cli = Command::new(program);
    cli.args(command).stdin(Stdio::null());
    cli.envs(PROXY.map(|name| (name, format!("http://{way_out}"))));
    cli.envs(["TMPDIR", "TMP", "TEMP"].map(|name| (name, &temporary)));
    Err(cli.exec())
}

fn rules(reach: &Reach, way_out: SocketAddr) -> Result<(), RulesetError> {
    let (all, read) = (AccessFs::from_all(NEEDED), AccessFs::from_read(NEEDED));
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let system = [Path::new("/usr")].into_iter().chain(bwrap::SYSTEM.map(Path::new));
    let known = bwrap::ETC.into_iter().chain(PROC).map(Path::new);
    let readable = system.chain(known).chain(reach.read.iter().map(PathBuf::as_path));
    let writable = [&reach.home].into_iter().chain(&reach.write);
    Ruleset::default()
        // All of it or nothing: half of these walls are none.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEEDED))?
        .scope(Scope::from_all(NEEDED))?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(writable, all))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rule(NetPort::new(way_out.port(), AccessNet::ConnectTcp))?
        // Any free port, as the kernel chooses it.
        .add_rule(NetPort::new(0, AccessNet::BindTcp))?
        .restrict_self()
        .map(drop)
}

/// Of root's rights nothing is left, nor to be had again.
fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all() {
        // Not without the right to, nor of what this kernel does not know; `no_new_privs`, which stands, does as much.
        let _ = thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(thread::set_capabilities(None, none)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_all_homes_is_left_out() {
        let landlock = Landlock {
            program: "/opt/jetway".into(),
            readable: ["/", "/srv/tools", "/state/acme/bob"].map(PathBuf::from).into(),
            limits: ProcessLimits::default(),
        };
        let home = Home {
            state_dir: "/state".into(),
            path: "/state/acme/ada".into(),
            workspace: "/state/acme/ada/workspace".into(),
        };
        let words = landlock.arguments(&home, &["/state".into(), "/srv/acme".into()]);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let bound = |option| words.windows(2).filter(move |w| w[0] == option).map(|w| w[1]);
        assert_eq!(bound("--read").collect::<Vec<_>>(), ["/srv/tools"]);
        assert_eq!(bound("--write").collect::<Vec<_>>(), ["/srv/acme"]);
        assert_eq!(bound("--home").collect::<Vec<_>>(), ["/state/acme/ada"]);
        assert_eq!((words[0], words[words.len() - 1]), (super::super::RESTRICT_COMMAND, "--"));
    }
}
