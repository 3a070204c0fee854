//! Walls around users' CLI processes. What holds on this host is found out by trying, once, at start.
//!
//! * `bwrap`: what there is in a sandbox. `init`: its first process, which is Jetway's own program.
//! * `door`, `fds`: the line between the two, and the sockets that cross it.
//! * `outside`: what they have of the world.

mod bwrap;
mod door;
mod fds;
mod init;
mod outside;

use std::{
    ffi::OsStr,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use jetway_config::{Identity, pool::Process as Settings, sandbox::Level};
use tokio::{process::Command, task::AbortHandle, time::timeout};
use tracing::{info, warn};

use self::bwrap::Bwrap;
pub(crate) use self::door::Door;
pub use self::{
    init::{Own, init},
    outside::{Outside, Serving},
};
use crate::{
    command::{self, Cli},
    error::StartError,
    spawner::Spawner,
    state_dir::Home,
};

/// The hidden command of Jetway's own program under which it is the first process of a sandbox.
pub const INIT_COMMAND: &str = "sandbox-init";

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
    Bwrap { bwrap: Bwrap, outside: Arc<dyn Outside> },
}

/// What keeps a sandbox in touch with the world, for as long as this lives.
pub(crate) struct Inside {
    pub(crate) door: Arc<Door>,
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
        let wanted = settings.sandbox.level();
        if wanted == Some(Level::None) {
            return Ok(Self::None);
        }
        let why = match bubblewrap(settings, cli, spawner).await {
            Ok(bwrap) => {
                info!(sandbox = Level::Bwrap.as_str(), "users' CLI processes are walled in");
                return Ok(Self::Bwrap { bwrap, outside });
            }
            Err(why) => why,
        };
        if wanted.is_some() || settings.sandbox_min > Level::None {
            return Err(StartError::Sandbox { why });
        }
        warn!(
            sandbox = Level::None.as_str(),
            why, "users' CLI processes run without walls: one can read another's files"
        );
        Ok(Self::None)
    }

    pub(crate) fn level(&self) -> Level {
        match self {
            Self::None => Level::None,
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
        let Self::Bwrap { bwrap, outside } = self else {
            let mut command = Command::new(&cli.program);
            command.current_dir(&home.workspace).stdin(Stdio::null()).env_clear().envs(variables);
            return Ok((command, None));
        };
        let (door, theirs) = Door::new()?;
        let mut command = Command::new(&bwrap.program);
        // Links on the way to it may lie outside.
        let program = cli.program.canonicalize()?;
        command.args(bwrap.arguments(home, &outside.directories(who))).arg(program);
        command.stdin(theirs).env_clear().envs(variables);
        command.envs(PROXY.map(|name| (name, format!("http://{EXIT}"))));
        command.envs(NO_PROXY.map(|name| (name, outside.no_proxy())));
        Ok((command, Some(door)))
    }

    /// Opens the way out of a sandbox whose processes are `who`'s. Without a limit in time: wrap it in one.
    pub(crate) async fn open(&self, door: Door, who: &Identity) -> io::Result<Option<Inside>> {
        let Self::Bwrap { outside, .. } = self else { return Ok(None) };
        let listener = door.exit().await?;
        let exit = tokio::spawn(outside.clone().serve(who.clone(), listener)).abort_handle();
        Ok(Some(Inside { door: Arc::new(door), exit }))
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
    programs.chain(files).chain(named).collect()
}

/// Whether bubblewrap can give what a sandbox needs here, found out by having it.
async fn bubblewrap(settings: &Settings, cli: &Cli, spawner: &Spawner) -> Result<Bwrap, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("bwrap")).find(|p| command::is_executable(p));
    let program =
        found.ok_or("there is no bwrap in PATH; install bubblewrap (`apt-get install bubblewrap`)")?;
    let init = std::env::current_exe().map_err(|e| format!("Jetway's own program cannot be found: {e}"))?;
    let bwrap = Bwrap { program, init, readable: readable(settings, cli), limits: settings.limits };
    match timeout(PATIENCE, try_out(&bwrap, spawner)).await {
        Ok(Ok(())) => Ok(bwrap),
        Ok(Err(why)) => Err(format!("{} does not work here: {why}", bwrap.program.display())),
        Err(_) => Err(format!("{} does nothing for {PATIENCE:?}", bwrap.program.display())),
    }
}

async fn try_out(bwrap: &Bwrap, spawner: &Spawner) -> Result<(), String> {
    let told = |e: io::Error| e.to_string();
    let temporary = std::env::temp_dir();
    let home = Home { state_dir: temporary.clone(), path: temporary.clone(), workspace: temporary };
    let (door, theirs) = Door::new().map_err(told)?;
    let mut command = Command::new(&bwrap.program);
    command.args(bwrap.arguments(&home, &[])).env_clear();
    command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut group = spawner.spawn(command, Vec::new()).await.map_err(told)?;
    let stderr = group.child.stderr.take();
    let status = group.ended().await.map_err(told)?;
    if status.success() && door.exit().await.is_ok() {
        return Ok(());
    }
    let words = match stderr {
        Some(stderr) => first_line(stderr).await,
        None => String::new(),
    };
    Err(format!("{} ({status}); it needs user namespaces, or root's rights", words.trim_end()))
}

async fn first_line(pipe: impl tokio::io::AsyncRead + Unpin) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut text = Vec::new();
    // What it says is one line; who holds the pipe open has nothing to say.
    let _ = timeout(Duration::from_secs(1), pipe.take(300).read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
