//! One CLI server as its users see it, and the right to use it.

use std::{
    convert::Infallible,
    fmt, io,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jetway_config::{Identity, pool::StateName, sandbox::Level, secret::SecretString};
use tokio::{net::TcpStream, sync::watch};

use crate::{
    drain::DrainReason,
    error::{Gone, PoolError},
    limits::Meter,
    probe,
    recycle::Cause,
    sandbox::Door,
    tally::Tally,
};

/// How long a connection to a server that is thought to be up may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection that was made in advance is kept: who needed the server dials at once.
const SPARE_FOR: Duration = Duration::from_secs(10);

/// A server's name: `<tenant>/<user>` for a user's own process, `<host>:<port>` in a fleet. It stays the same
/// over restarts; [`Server::incarnation`] does not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// A name from where it was kept; whether it names a server is seen when it is used.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name of the process of `who`.
    pub fn of_user(who: &Identity) -> Self {
        Self(who.to_string().into())
    }

    /// Whose process it names, if it can name one.
    pub(crate) fn user(&self) -> Option<Identity> {
        let (tenant, user) = self.0.split_once('/')?;
        Some(Identity { tenant: tenant.parse().ok()?, user: user.parse().ok()? })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Tcp {
        host: String,
        port: u16,
    },
    /// In a network of its own.
    Inside {
        door: Arc<Door>,
        port: u16,
    },
}

impl Way {
    /// A connection, without Nagle's delay. Without a limit in time: wrap it in one.
    pub(crate) async fn dial(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp { host, port } => probe::dial(host, *port).await,
            Self::Inside { door, port } => door.dial(*port).await,
        }
    }
}

/// One life of a CLI server: a process until it ends, or a fleet's server from when it is up until it is down.
#[derive(Debug)]
pub struct Server {
    pub(crate) id: ServerId,
    pub(crate) incarnation: u64,
    pub(crate) way: Way,
    pub(crate) token: Option<SecretString>,
    /// Of a process.
    pub(crate) meter: Option<Arc<Meter>>,
    pub(crate) state: Option<StateName>,
    pub(crate) pid: Option<u32>,
    pub(crate) version: Option<String>,
    pub(crate) since: Instant,
    /// A connection for the first who dials soon.
    pub(crate) spare: Mutex<Option<TcpStream>>,
    pub(crate) gone: watch::Sender<Option<Gone>>,
    pub(crate) tally: Arc<Tally>,
}

impl Server {
    /// Its name.
    pub fn id(&self) -> &ServerId {
        &self.id
    }

    /// Different for every life of a server of this pool: what was loaded in another one is no longer in memory.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What to send as `token` in `connect`.
    pub fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// The name of the state directory that it shares with other servers, if it shares one.
    pub fn state(&self) -> Option<&StateName> {
        self.state.as_ref()
    }

    /// `host:port`, on this host or another; for a sandboxed process, the port in its own network.
    pub fn address(&self) -> String {
        match &self.way {
            Way::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Way::Tcp { host, port } => format!("{host}:{port}"),
            Way::Inside { port, .. } => format!("sandbox:{port}"),
        }
    }

    /// The process id, where it is a process of Jetway's.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The CLI's version, as it told.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it is to be left: nobody new is placed there, and its sessions go when they are quiet.
    pub fn is_draining(&self) -> bool {
        self.tally.draining.load(Ordering::Relaxed)
    }

    /// One more session was attached there.
    pub fn served_session(&self) {
        self.tally.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// It took one more turn.
    pub fn served_turn(&self) {
        self.tally.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// The first delta of a turn came after so long.
    pub fn spoke_after(&self, took: Duration) {
        self.tally.spoke(took);
    }

    /// Bytes that its process held at the last look; `None` for a process that is not ours, or was not looked at.
    pub(crate) fn memory(&self) -> Option<u64> {
        Some(self.tally.memory.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    fn spare(&self) -> Option<TcpStream> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.gone.borrow().is_none().then_some(spare)
    }

    /// Hangs up in time on what nobody has dialled for. Never ends.
    pub(crate) async fn drop_spare_in_time(&self) -> Infallible {
        tokio::time::sleep(SPARE_FOR).await;
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::pending().await
    }

    /// Why it is gone, if it is.
    pub fn gone(&self) -> Option<Gone> {
        self.gone.borrow().clone()
    }
}

/// Who keeps account of a server's use.
pub(crate) trait Keeper: Send + Sync {
    /// An attachment ends. Called from `Drop`: neither waits nor does I/O.
    fn released(&self, server: &Server, user: Option<&Identity>);
    /// How a dial ended.
    fn dialled(&self, server: &Server, failure: Option<&Failure>);
}

/// Why a dial or a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: String,
    /// Nobody listens there: whatever the server held in memory is gone with its process.
    pub(crate) refused: bool,
}

impl Failure {
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), refused: false }
    }

    pub(crate) fn of_dial(error: &io::Error) -> Self {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        Self { cause: format!("cannot connect: {error}"), refused }
    }
}

/// Use of a server: it counts as load, and keeps an idle process from being stopped, while it lives.
pub struct Attachment {
    server: Arc<Server>,
    user: Option<Identity>,
    keeper: Arc<dyn Keeper>,
}

impl Attachment {
    /// The keeper has counted it already.
    pub(crate) fn new(server: Arc<Server>, user: Option<Identity>, keeper: Arc<dyn Keeper>) -> Self {
        Self { server, user, keeper }
    }

    /// The server, which may be looked at for longer than it is used.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// A connection, before its `connect` request, without Nagle's delay.
    ///
    /// # Errors
    ///
    /// [`PoolError::Unreachable`]; for a server of a fleet it counts towards opening the circuit.
    pub async fn dial(&self) -> Result<TcpStream, PoolError> {
        if let Some(spare) = self.server.spare() {
            return Ok(spare);
        }
        let begun = Instant::now();
        let dial = self.way.dial();
        let outcome = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(outcome) => outcome.map_err(|e| Failure::of_dial(&e)),
            Err(_) => Err(Failure::new("no answer to a connection attempt")),
        };
        self.keeper.dialled(&self.server, outcome.as_ref().err());
        outcome.map_err(|failure| PoolError::Unreachable {
            server: self.id.clone(),
            cause: failure.cause,
            after: begun.elapsed(),
        })
    }

    /// Waits until the server is gone, and tells why. Cancel safe.
    pub async fn closed(&self) -> Gone {
        let mut gone = self.server.gone.subscribe();
        match gone.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone(),
            Err(_) => None,
        }
        // The sender is in the server, which this attachment holds.
        .unwrap_or(Gone::Stopped(crate::StopReason::Shutdown))
    }
}

impl Deref for Attachment {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.keeper.released(&self.server, self.user.as_ref());
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("server", &self.server.id).field("user", &self.user).finish()
    }
}

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// A user's process that is to be started when there is room for it and others have been.
    Waiting,
    /// A process that has been started and is not ready yet.
    Starting,
    /// Can be used.
    Up,
    /// To be left: nobody new is placed there, and what uses it goes as soon as it is quiet.
    Draining,
    /// The same, and nothing uses it any more.
    Drained,
    /// A fleet's server that failed too often and is left alone.
    Down,
    /// A fleet's server that is tried again.
    Trying,
    /// A process that was told to end.
    Stopping,
    /// A process that died again and again, and is left alone for a while.
    BackingOff,
}

impl ServerState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Starting,
        Self::Up,
        Self::Draining,
        Self::Drained,
        Self::Down,
        Self::Trying,
        Self::Stopping,
        Self::BackingOff,
    ];

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Down => "down",
            Self::Trying => "trying",
            Self::Stopping => "stopping",
            Self::BackingOff => "backing_off",
        }
    }

    /// That of a server which is up, by whether it is being left.
    pub(crate) fn of_up(draining: bool, attachments: usize) -> Self {
        match (draining, attachments) {
            (false, _) => Self::Up,
            (true, 0) => Self::Drained,
            (true, _) => Self::Draining,
        }
    }
}

/// One server, for `/admin/v1` and `jetway status`.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// Its name.
    pub id: ServerId,
    /// What it is doing.
    pub state: ServerState,
    /// `host:port`, once it is known.
    pub address: Option<String>,
    /// Of a process.
    pub pid: Option<u32>,
    /// The CLI's version, as it told.
    pub version: Option<String>,
    /// Users who are attached and at home there.
    pub users: usize,
    /// Attachments.
    pub attachments: usize,
    /// Since it came up.
    pub uptime: Option<Duration>,
    /// How often it has come up again.
    pub restarts: u64,
    /// The last `ping`.
    pub rtt: Option<Duration>,
    /// Bytes that it holds for itself alone, of a process.
    pub memory: Option<u64>,
    /// Sessions that were attached there since it came up.
    pub served: u64,
    /// Turns that it took since then.
    pub turns: u64,
    /// Why it is being left, if it is.
    pub draining: Option<DrainReason>,
    /// Why it is to be replaced by a fresh one, if it is, whether it is being left for that or cannot be.
    pub worn: Option<Cause>,
    /// What a process is walled in with.
    pub sandbox: Option<Level>,
    /// The state directory that it shares with others: to them its sessions can move.
    pub group: Option<StateName>,
    /// What failed last, of a server that is down or whose process keeps dying.
    pub problem: Option<String>,
}

/// Whether work can be taken, for `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not; when ready, what is still wrong.
    pub reasons: Vec<String>,
}
