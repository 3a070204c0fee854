//! Walls around users' CLI processes. What holds on this host is found out by trying, once, at start.
//!
//! * `bwrap`: what there is in a sandbox. `init`: its first process, which is Jetway's own program.
//! * `door`, `fds`: the line between the two, and the sockets that cross it.
//! * `landlock`, `syscalls`: rules for processes that have no sandbox of their own.
//! * `outside`: what they have of the world.

mod bwrap;
mod door;
mod fds;
mod init;
mod landlock;
mod outside;
mod proc;
mod syscalls;

use std::{
    ffi::OsStr,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use jetway_config::{
    Identity,
    pool::Process as Settings,
    sandbox::{Level, Uids},
};
use tokio::{process::Command, task::AbortHandle, time::timeout};
use tracing::{info, warn};

pub(crate) use self::door::Door;
use self::{bwrap::Bwrap, landlock::Landlock, proc::Proc};
pub use self::{
    init::{Own, init},
    landlock::{Reach, restrict},
    outside::{Outside, Serving},
};
use crate::{
    accounts,
    command::{self, Cli},
    error::StartError,
    spawner::Spawner,
    state_dir::{self, Home},
};

/// The hidden command of Jetway's own program under which it is the first process of a sandbox.
pub const INIT_COMMAND: &str = "sandbox-init";

/// And under which it becomes the CLI, held to rules.
pub const RESTRICT_COMMAND: &str = "sandbox-restrict";

/// Where the way out is asked for inside.
const EXIT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// What tells programs of it.
const PROXY: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
/// What has them pass it by.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Operators' variables that name files which a CLI must read.
const FILES: [&str; 4] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", command::PACKAGE_CACHE];

/// How long a sandbox may take to show that it can be had: 20 ms are usual.
const PATIENCE: Duration = Duration::from_secs(20);

/// What users' processes are walled in with.
pub(crate) enum Walls {
    None,
    Landlock { landlock: Landlock, outside: Arc<dyn Outside> },
    Bwrap { bwrap: Bwrap, outside: Arc<dyn Outside> },
}

/// What keeps a sandbox in touch with the world, for as long as this lives.
pub(crate) struct Inside {
    /// Where it has a network of its own.
    pub(crate) door: Option<Arc<Door>>,
    exit: AbortHandle,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.exit.abort();
    }
}

impl Walls {
    /// The strongest walls that work here and that `settings` ask for.
    ///
    /// # Errors
    ///
    /// [`StartError::Sandbox`]: they are weaker than asked for.
    pub(crate) async fn build(
        settings: &Settings,
        cli: &Cli,
        spawner: &Spawner,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, StartError> {
        let walls = Self::find(settings, cli, spawner, outside).await?;
        let asked = |name: &&&str| cli.environment.iter().any(|(set, _)| set == OsStr::new(**name));
        if walls.level() > Level::None
            && settings.upstream_proxy.is_none()
            && let Some(name) = PROXY.iter().find(asked)
        {
            warn!("{name} is set, but walled-in processes go out directly; see pool.process.upstream_proxy");
        }
        Ok(walls)
    }

    async fn find(
        settings: &Settings,
        cli: &Cli,
        spawner: &Spawner,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, StartError> {
        let wanted = settings.sandbox.level();
        let may = |level| wanted.is_none_or(|wanted| wanted == level);
        let mut why = Vec::new();
        if may(Level::Bwrap) {
            match bubblewrap(settings, cli, spawner).await {
                Ok(bwrap) => return Ok(Self::Bwrap { bwrap, outside }.told(&why)),
                Err(not) => why.push(not),
            }
        }
        if may(Level::Landlock) && settings.sandbox_min <= Level::Landlock {
            match rules(settings, cli, spawner).await {
                Ok(landlock) => return Ok(Self::Landlock { landlock, outside }.told(&why)),
                Err(not) => why.push(not),
            }
        }
        if !may(Level::None) || settings.sandbox_min > Level::None {
            return Err(StartError::Sandbox { why: why.join("; ") });
        }
        Ok(Self::None.told(&why))
    }

    /// Says in the log what they are, and why they are not more.
    fn told(self, why: &[String]) -> Self {
        let (sandbox, why) = (self.level().as_str(), why.join("; "));
        match &self {
            // As it was asked for.
            Self::None if why.is_empty() => {}
            Self::None => {
                warn!(sandbox, why, "users' CLI processes run without walls: one can read another's files");
            }
            Self::Landlock { .. } => info!(sandbox, why, "users' CLI processes are held to rules"),
            Self::Bwrap { .. } => info!(sandbox, "users' CLI processes are walled in"),
        }
        self
    }

    pub(crate) fn level(&self) -> Level {
        match self {
            Self::None => Level::None,
            Self::Landlock { .. } => Level::Landlock,
            Self::Bwrap { .. } => Level::Bwrap,
        }
    }

    /// What starts `cli` for `who`, in the environment that it names, and the door if there are walls.
    pub(crate) fn command(
        &self,
        cli: &Cli,
        who: &Identity,
        home: &Home,
    ) -> io::Result<(Command, Option<Door>)> {
        let variables = cli.environment.iter().map(|(name, value)| (name, value));
        // Links on the way to it may lie outside.
        let program = || cli.program.canonicalize();
        let (mut command, outside) = match self {
            Self::None => {
                let mut command = Command::new(&cli.program);
                command.current_dir(&home.workspace).stdin(Stdio::null()).env_clear().envs(variables);
                return Ok((command, None));
            }
            Self::Landlock { landlock, outside } => {
                let mut command = Command::new(&landlock.program);
                command.args(landlock.arguments(home, &outside.directories(who))).arg(program()?);
                command.current_dir(&home.workspace);
                (command, outside)
            }
            Self::Bwrap { bwrap, outside } => {
                let mut command = Command::new(&bwrap.program);
                command.args(bwrap.arguments(home, &outside.directories(who))).arg(program()?);
                (command, outside)
            }
        };
        let (door, theirs) = Door::new()?;
        command.stdin(theirs).env_clear().envs(variables);
        command.envs(PROXY.map(|name| (name, format!("http://{EXIT}"))));
        command.envs(NO_PROXY.map(|name| (name, outside.no_proxy())));
        Ok((command, Some(door)))
    }

    /// Opens the way out of a sandbox whose processes are `who`'s. Without a limit in time: wrap it in one.
    pub(crate) async fn open(&self, door: Door, who: &Identity) -> io::Result<Option<Inside>> {
        let (outside, own_network) = match self {
            Self::None => return Ok(None),
            Self::Landlock { outside, .. } => (outside, false),
            Self::Bwrap { outside, .. } => (outside, true),
        };
        let listener = door.exit().await?;
        let exit = tokio::spawn(outside.clone().serve(who.clone(), listener)).abort_handle();
        Ok(Some(Inside { door: own_network.then(|| Arc::new(door)), exit }))
    }
}

/// The CLI of a sandbox that bubblewrap, `pid`, has built: its first process's child.
pub(crate) fn innermost(pid: u32) -> Option<u32> {
    child(child(pid)?)
}

/// The oldest child of a process.
fn child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// What the CLI needs to read, and what the operator adds.
fn readable(settings: &Settings, cli: &Cli) -> Vec<PathBuf> {
    let named = settings.sandbox_paths.iter().map(|path| PathBuf::from(path.as_str()));
    let files = cli.environment.iter().filter(|(name, _)| FILES.iter().any(|file| name == OsStr::new(file)));
    let files = files.map(|(_, path)| PathBuf::from(path)).filter(|path| path.is_absolute());
    // `node /srv/copilot/index.js`: the program is the system's, its argument is not.
    let arguments = cli.arguments.iter().map(Path::new).filter(|path| path.is_absolute() && path.is_file());
    let programs = [&*cli.program].into_iter().chain(arguments).filter_map(bwrap::surroundings);
    // What an account of its own cannot reach bubblewrap cannot show it.
    let reached = |path: &PathBuf| settings.uids.is_none() || accounts::closed(path).is_none();
    programs.chain(files).chain(named).filter(reached).collect()
}

/// Whether bubblewrap can give what a sandbox needs here, found out by having it.
async fn bubblewrap(settings: &Settings, cli: &Cli, spawner: &Spawner) -> Result<Bwrap, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("bwrap")).find(|p| command::is_executable(p));
    let program =
        found.ok_or("there is no bwrap in PATH; install bubblewrap (`apt-get install bubblewrap`)")?;
    let bwrap = Bwrap {
        program,
        init: own_program()?,
        readable: readable(settings, cli),
        limits: settings.limits,
        proc: Proc::look(Path::new("/proc")),
    };
    let nowhere = std::env::temp_dir();
    let home = Home { state_dir: nowhere.clone(), path: nowhere.clone(), workspace: nowhere };
    let mut command = Command::new(&bwrap.program);
    command.args(bwrap.arguments(&home, &[]));
    match try_out(command, settings.uids, spawner).await {
        Ok(()) => Ok(bwrap),
        Err(why) => {
            let bwrap = bwrap.program.display();
            Err(format!("{bwrap} does not work here: {why}; it needs user namespaces, or root's rights"))
        }
    }
}

/// Whether the kernel has the rules that processes are to be held to, found out by holding one to them.
async fn rules(settings: &Settings, cli: &Cli, spawner: &Spawner) -> Result<Landlock, String> {
    let landlock =
        Landlock { program: own_program()?, readable: readable(settings, cli), limits: settings.limits };
    let told = |e: io::Error| format!("there is no room for a temporary directory: {e}");
    let nowhere = Scratch::make(settings.uids).map_err(told)?;
    let home =
        Home { state_dir: nowhere.0.join("none"), path: nowhere.0.clone(), workspace: nowhere.0.clone() };
    let mut command = Command::new(&landlock.program);
    command.args(landlock.arguments(&home, &[]));
    match try_out(command, settings.uids, spawner).await {
        Ok(()) => Ok(landlock),
        Err(why) => Err(format!("Landlock does not work here: {why}; it needs Linux 6.12")),
    }
}

/// A directory of our own, for as long as this lives.
struct Scratch(PathBuf);

impl Scratch {
    fn make(uids: Option<Uids>) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("jetway-{:032x}", rand::random::<u128>()));
        state_dir::make(&path)?;
        let uid = uids.map(Uids::first);
        std::os::unix::fs::lchown(&path, uid, uid)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn own_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("Jetway's own program cannot be found: {e}"))
}

/// Has walls by `command`, around nothing.
async fn try_out(mut command: Command, uids: Option<Uids>, spawner: &Spawner) -> Result<(), String> {
    let told = |e: io::Error| e.to_string();
    let (door, theirs) = Door::new().map_err(told)?;
    if let Some(uid) = uids.map(Uids::first) {
        command.uid(uid).gid(uid);
    }
    command.env_clear().stdin(theirs).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut group = spawner.spawn(command, Vec::new()).await.map_err(told)?;
    let stderr = group.child.stderr.take();
    let Ok(status) = timeout(PATIENCE, group.ended()).await else {
        return Err(format!("nothing happens for {PATIENCE:?}"));
    };
    let status = status.map_err(told)?;
    if status.success() && door.exit().await.is_ok() {
        return Ok(());
    }
    let words = match stderr {
        Some(stderr) => first_line(stderr).await,
        None => String::new(),
    };
    Err(format!("{} ({status})", words.trim_end()))
}

async fn first_line(pipe: impl tokio::io::AsyncRead + Unpin) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut text = Vec::new();
    // What it says is one line; who holds the pipe open has nothing to say.
    let _ = timeout(Duration::from_secs(1), pipe.take(300).read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
