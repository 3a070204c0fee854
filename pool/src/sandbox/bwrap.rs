//! Bubblewrap's arguments: what there is in a sandbox.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use jetway_config::{
    limits::{SANDBOX_SHM_BYTES, SANDBOX_TMP_BYTES},
    sandbox::ProcessLimits,
};

use super::proc::Proc;
use crate::state_dir::Home;

/// Where Jetway's own program is inside.
const INIT: &str = "/jetway";

/// Who its processes are inside, on whatever account outside.
const UID: &str = "1000";

/// Where a merged `/usr` has links, and others directories.
pub(super) const SYSTEM: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Of `/etc` only what programs need to run and what is nobody's secret: these processes may have the rights of its
/// owner.
pub(super) const ETC: [&str; 14] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/ssl",
];

/// How bubblewrap is called.
#[derive(Debug, Clone)]
pub(crate) struct Bwrap {
    pub(super) program: PathBuf,
    /// Jetway's own program.
    pub(super) init: PathBuf,
    /// What may be read beyond the system's programs and libraries.
    pub(super) readable: Vec<PathBuf>,
    pub(super) limits: ProcessLimits,
    pub(super) proc: Proc,
}

impl Bwrap {
    /// Bubblewrap's arguments for a sandbox in which only `home` and `shared` can be written, up to the program
    /// that runs in it.
    pub(super) fn arguments(&self, home: &Home, shared: &[PathBuf]) -> Vec<OsString> {
        let mut all: Vec<OsString> = [
            // Own users, processes, network (its loopback up), IPC, host name and control groups.
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--uid",
            UID,
            "--gid",
            UID,
            "--cap-drop",
            "ALL",
            "--hostname",
            "jetway",
            // Also on SIGKILL of Jetway: then of its first process, and with that of all.
            "--die-with-parent",
            "--as-pid-1",
        ]
        .map(OsString::from)
        .into();
        let mut mount = |words: &[&dyn AsRef<std::ffi::OsStr>]| {
            all.extend(words.iter().map(|word| word.as_ref().to_owned()));
        };
        mount(&[&"--ro-bind", &"/usr", &"/usr"]);
        for path in SYSTEM {
            match fs::read_link(path) {
                Ok(target) => mount(&[&"--symlink", &target, &path]),
                Err(_) => mount(&[&"--ro-bind-try", &path, &path]),
            }
        }
        for path in ETC {
            mount(&[&"--ro-bind-try", &path, &path]);
        }
        mount(&[&"--proc", &"/proc", &"--dev", &"/dev"]);
        self.proc.arguments().for_each(|word| mount(&[&word]));
        mount(&[&"--size", &SANDBOX_SHM_BYTES.to_string(), &"--tmpfs", &"/dev/shm"]);
        mount(&[&"--size", &SANDBOX_TMP_BYTES.to_string(), &"--tmpfs", &"/tmp"]);
        for path in &self.readable {
            mount(&[&"--ro-bind-try", path, path]);
        }
        for path in shared {
            mount(&[&"--bind-try", path, path]);
        }
        // Wherever the state of all users lies, also below what is shared: of it there is only the one home.
        mount(&[&"--tmpfs", &home.state_dir, &"--bind", &home.path, &home.path]);
        mount(&[&"--ro-bind", &self.init, &INIT]);
        for path in [Path::new("/dev"), &home.state_dir, Path::new("/")] {
            mount(&[&"--remount-ro", &path]);
        }
        mount(&[&"--chdir", &home.workspace]);
        mount(&[&"--", &INIT, &super::INIT_COMMAND]);
        mount(&[&self.limits.processes.to_string(), &self.limits.disk.0.to_string()]);
        all
    }
}

/// What must be readable for `program` to run: the npm package that it lies in, else its directory. Nothing for what
/// the system's own directories hold.
pub(super) fn surroundings(program: &Path) -> Option<PathBuf> {
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let system = program.starts_with("/usr") || SYSTEM.iter().any(|dir| program.starts_with(dir));
    let scope = |dir: &Path| dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    let is_package = |dir: &&Path| {
        let parent = dir.parent();
        let holder = parent.filter(|parent| scope(parent)).and_then(Path::parent).or(parent);
        !scope(dir) && holder.is_some_and(|holder| holder.ends_with("node_modules"))
    };
    let package = program.ancestors().skip(1).find(is_package).or(program.parent());
    package.filter(|_| !system).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_seen_with_its_package() {
        let of = |program: &str| surroundings(Path::new(program)).map(|path| path.display().to_string());
        let package = "/x/node_modules/@github/copilot-sdk-linux-x64";
        let nested = format!("{package}/prebuilds/linux-x64/copilot-runtime");
        assert_eq!(of(&nested).as_deref(), Some(package));
        assert_eq!(of("/x/node_modules/copilot/bin/cli").as_deref(), Some("/x/node_modules/copilot"));
        assert_eq!(of("/srv/cli/run").as_deref(), Some("/srv/cli"));
        assert_eq!(of("/usr/bin/no-such-copilot"), None);
    }

    #[test]
    fn only_the_home_is_writable() {
        let bwrap = Bwrap {
            program: "/usr/bin/bwrap".into(),
            init: "/opt/jetway".into(),
            readable: vec!["/srv/tools".into()],
            limits: ProcessLimits::default(),
            proc: Proc::default(),
        };
        let home = Home {
            state_dir: "/state".into(),
            path: "/state/acme/ada".into(),
            workspace: "/state/acme/ada/workspace".into(),
        };
        let words = bwrap.arguments(&home, &["/srv/acme".into()]);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let bound = |option| words.windows(2).filter(move |w| w[0] == option).map(|w| w[1]);
        assert_eq!(bound("--bind").collect::<Vec<_>>(), ["/state/acme/ada"]);
        assert_eq!(bound("--bind-try").collect::<Vec<_>>(), ["/srv/acme"]);
        assert!(bound("--ro-bind-try").any(|path| path == "/srv/tools"));
        assert!(!words.iter().any(|word| word.starts_with("/etc/shadow") || *word == "/etc"));
        assert_eq!(words[words.len() - 3], super::super::INIT_COMMAND);
    }
}
