//! One CLI process of a user's own: started, proved, waited for, stopped.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use jetway_config::{Identity, SecretString};
use nix::sys::signal::Signal;
use tokio::{net::TcpStream, process::Command, time::timeout_at};

use crate::{
    accounts::Accounts,
    command::{Cli, GITHUB_TOKEN},
    error::{Limit, Phase},
    limits::{Held, Limits, Meter},
    output::Output,
    probe::{self, ProbeError, Proved},
    sandbox::{self, Door, Inside, Walls},
    server::Way,
    spawner::{Group, Spawner},
    state_dir::{self, Home},
    strays::MARK,
};

/// Where processes listen.
const LOOPBACK: &str = "127.0.0.1";

/// What a CLI may take to end after SIGTERM; it needs 30 to 150 ms, 3.1 s have been seen under load.
const GRACE: Duration = Duration::from_secs(5);

/// How users' processes are started.
pub(crate) struct Launcher {
    pub(crate) cli: Cli,
    pub(crate) walls: Walls,
    pub(crate) accounts: Option<Accounts>,
    pub(crate) limits: Limits,
    /// Absolute: it becomes part of HOME.
    pub(crate) state_dir: PathBuf,
    pub(crate) start_timeout: Duration,
    pub(crate) spawner: Spawner,
}

/// Why a process did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("cannot prepare {}: {cause}", path.display())]
    Prepare { path: PathBuf, cause: io::Error },
    #[error("cannot start {}: {cause}", program.display())]
    Spawn { program: PathBuf, cause: io::Error },
    #[error("cannot limit what it uses: {0}")]
    Limits(io::Error),
    #[error("its sandbox does not answer: {0}")]
    Sandbox(io::Error),
    #[error("it ended ({status}){words}")]
    Ended { status: String, words: String },
    #[error("{0}")]
    Probe(#[from] ProbeError),
    #[error("not ready in time, waiting {phase}")]
    Timeout { phase: Phase },
}

impl LaunchError {
    /// Whether the same could go better a moment later.
    pub(crate) fn is_worth_retrying(&self) -> bool {
        match self {
            Self::Ended { .. } | Self::Sandbox(_) => true,
            Self::Probe(error) => !matches!(error, ProbeError::Protocol(_)),
            // A host that is too slow does not get faster by more of the same.
            Self::Timeout { .. } | Self::Prepare { .. } | Self::Spawn { .. } | Self::Limits(_) => false,
        }
    }
}

/// A process that is ready.
pub(crate) struct Process {
    group: Group,
    output: Output,
    inside: Option<Inside>,
    held: Held,
    pub(crate) meter: Arc<Meter>,
    pub(crate) pid: Option<u32>,
    pub(crate) way: Way,
    pub(crate) token: SecretString,
    pub(crate) version: Option<String>,
    /// The connection over which it has proved itself.
    pub(crate) proved: Option<Proved>,
    /// A connection that nobody has used.
    pub(crate) spare: Option<TcpStream>,
}

/// Why a process is not used any more.
pub(crate) enum Over {
    /// Its status.
    Ended(String),
    Exceeded(Limit),
    /// It answers no more.
    Silent,
}

impl Launcher {
    /// Starts a process for `who`, whose children can be told by `mark`, and waits until it has proved itself.
    /// Dropping the future kills it.
    pub(crate) async fn launch(&self, who: &Identity, mark: &OsStr) -> Result<Process, LaunchError> {
        let deadline = (Instant::now() + self.start_timeout).into();
        let token = random_token();
        let home = Home::of(who, &self.state_dir);
        let (command, door) = self.command(who, &home, mark, &token)?;
        let (held, entrances) = self.limits.hold(who, &home).map_err(LaunchError::Limits)?;
        let mut group = self
            .spawner
            .spawn(command, entrances)
            .await
            .map_err(|cause| LaunchError::Spawn { program: self.cli.program.clone(), cause })?;
        let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
        let (mut output, announced) = Output::read(stdout, stderr, who, self.secrets(&token));
        let token = SecretString::new(token);

        let listening = async {
            let inside = match door {
                Some(door) => self.walls.open(door, who).await.map_err(LaunchError::Sandbox)?,
                None => None,
            };
            match announced.await {
                Ok(port) => Ok::<_, LaunchError>((inside, port)),
                // Its output has ended: so will it.
                Err(_) => std::future::pending().await,
            }
        };
        let (inside, port) = tokio::select! {
            biased;
            status = group.ended() => return Err(ended(status, &mut output).await),
            listening = listening => listening?,
            () = tokio::time::sleep_until(deadline) => {
                return Err(LaunchError::Timeout { phase: Phase::Announcement });
            }
        };
        let door = inside.as_ref().and_then(|inside| inside.door.clone());
        let has_door = door.is_some();
        let way = match door {
            Some(door) => Way::Inside { door, port },
            None => Way::Tcp { host: LOOPBACK.into(), port },
        };
        let prove = async {
            // `copilot-runtime` looks for new connections every 20 ms and takes all that wait: two now cost no
            // more than one, and save the first user of the process that wait.
            let (first, spare) = tokio::try_join!(way.dial(), way.dial())?;
            Ok::<_, ProbeError>((probe::prove(first, Some(&token)).await?, spare))
        };
        let proved = tokio::select! {
            proved = timeout_at(deadline, prove) => proved,
            status = group.ended() => return Err(ended(status, &mut output).await),
        };
        let (proved, spare) = proved.map_err(|_| LaunchError::Timeout { phase: Phase::Probe })??;
        let started = group.child.id();
        let pid = if has_door { started.and_then(sandbox::innermost) } else { started };
        let meter = Arc::new(held.meter(pid));
        Ok(Process {
            meter,
            group,
            output,
            inside,
            held,
            pid,
            way,
            token,
            version: proved.version.clone(),
            proved: Some(proved),
            spare: Some(spare),
        })
    }

    fn command(
        &self,
        who: &Identity,
        home: &Home,
        mark: &OsStr,
        token: &str,
    ) -> Result<(Command, Option<Door>), LaunchError> {
        let copilot_home = home.path.join(".copilot");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| LaunchError::Prepare { path, cause }
        };
        state_dir::make(&home.path).map_err(failed(&home.path))?;
        let account = self.accounts.as_ref().map(|accounts| accounts.of(home)).transpose();
        let account = account.map_err(failed(&home.path))?;
        for dir in [&home.workspace, &copilot_home] {
            let made = account.map_or_else(|| state_dir::make(dir), |uid| Accounts::make(dir, uid));
            made.map_err(failed(dir))?;
        }
        let (mut command, door) = self.walls.command(&self.cli, who, home).map_err(LaunchError::Sandbox)?;
        if let Some(uid) = account {
            command.uid(uid).gid(uid);
        }
        command
            .args(&self.cli.arguments)
            .env("HOME", &home.path)
            .env("COPILOT_HOME", copilot_home)
            // The keyring is the operator's, not the user's.
            .env("COPILOT_DISABLE_KEYTAR", "1")
            // Never in argv: `ps` shows that to everybody.
            .env("COPILOT_CONNECTION_TOKEN", token)
            .env(MARK, mark)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok((command, door))
    }

    /// What its output must not show.
    fn secrets(&self, token: &str) -> Vec<String> {
        let inherited = self.cli.environment.iter().filter(|(name, _)| name == GITHUB_TOKEN);
        let inherited = inherited.filter_map(|(_, value)| value.to_str().map(str::to_owned));
        inherited.filter(|value| !value.is_empty()).chain([token.to_owned()]).collect()
    }
}

impl Process {
    /// Waits until it has ended, or is to end for what it and its children took. Cancel safe.
    pub(crate) async fn over(&mut self) -> Over {
        tokio::select! {
            status = self.group.ended() => match self.held.met() {
                // The kernel was faster.
                Some(limit) => Over::Exceeded(limit),
                None => Over::Ended(describe(status)),
            },
            limit = self.held.exceeded(self.pid) => Over::Exceeded(limit),
        }
    }

    async fn ended(&mut self) -> String {
        describe(self.group.ended().await)
    }

    /// Asks it to end, insists after a while or at once when `hurry` completes, and reaps it.
    pub(crate) async fn stop(&mut self, hurry: impl Future<Output = ()>) -> String {
        match self.inside.as_ref().and_then(|inside| inside.door.as_ref()) {
            // The signal would end the walls first, and all inside with them.
            Some(door) => door.end(),
            None => self.group.signal(Signal::SIGTERM),
        }
        tokio::select! {
            status = self.ended() => return status,
            () = tokio::time::sleep(GRACE) => {}
            () = hurry => {}
        }
        self.group.signal(Signal::SIGKILL);
        self.ended().await
    }

    /// What it said last.
    pub(crate) async fn last_words(&mut self) -> String {
        self.output.last_words().await
    }
}

async fn ended(status: io::Result<ExitStatus>, output: &mut Output) -> LaunchError {
    let words = output.last_words().await;
    let words = if words.is_empty() { words } else { format!(": {words}") };
    LaunchError::Ended { status: describe(status), words }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|e| e.to_string(), |status| status.to_string())
}

/// 256 random bits in hex.
fn random_token() -> String {
    rand::random::<[u8; 32]>().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
