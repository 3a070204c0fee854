//! The whole application, with its parts as arguments: tests run it as `main` does.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use jetway_config::{Config, Fixed, Identity, Live, Sources, TenantId, listen::Port, pool::PoolMode};
use jetway_lockd::{Lockd, Turns};
use jetway_pool::{Attachment, Pool, PoolError};
use jetway_wire::catalogue::Surface;

use crate::{
    admin,
    admission::{Admission, Usage},
    audit::{Audit, Event},
    auth::{self, Rules},
    directory::{self, Directory, New, Place},
    drain::{self, Count, Drain},
    egress::Exit,
    http,
    net::{tls::Tls, workers::Workers},
    policy::Reach,
    reload::{self, Reload},
    sdk,
    sessions::{
        bounds, draining,
        idle::{self, Clients},
        kept::Kept,
        lease, leaving,
        registry::{Registry, Session},
        scribe::Scribe,
    },
};

/// How long listeners may take to end once everything is closed; drains are to be over a second after their time.
const LISTENERS_END: Duration = Duration::from_millis(500);

/// How often what is known of sessions that nobody uses is let go: looking it up again takes a millisecond.
const SWEEP: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted, as `TcpListener::bind` has it.
const BACKLOG: u32 = 1024;

/// How long a gateway keeps a shared session without a turn, so that the next one here costs no trip to the
/// lock store: longer than people take to write a line.
const TENURE: Duration = Duration::from_secs(60);

/// What every part of a running gateway shares.
pub(crate) struct Core {
    /// What holds from start to end.
    pub(crate) config: Fixed,
    rules: Arc<ArcSwap<Rules>>,
    /// Wakes whoever has to look again whether somebody is still welcome.
    standing: watch::Sender<()>,
    pub(crate) pool: Pool,
    /// The way out of sandboxed CLI servers.
    pub(crate) exit: Arc<Exit>,
    pub(crate) registry: Registry,
    pub(crate) directory: Arc<Directory>,
    /// Leases on shared sessions, and the turns under them.
    pub(crate) lockd: Lockd,
    pub(crate) turns: Turns,
    pub(crate) scribe: Arc<Scribe>,
    pub(crate) clients: Clients,
    /// Turns whose client has vanished.
    pub(crate) kept: Kept,
    /// Connections on all listeners.
    pub(crate) connections: Arc<Count>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) usage: Arc<Usage>,
    /// Calls that wait for their CLI server.
    pub(crate) placing: Arc<Count>,
    pub(crate) audit: Audit,
    pub(crate) tls: Tls,
    pub(crate) drain: Drain,
    /// When the gateway was started.
    pub(crate) since: Instant,
    /// Connections and legs: what a drain waits for.
    pub(crate) tracker: TaskTracker,
}

impl Core {
    /// Who may call and how much, at this moment: to be looked at and dropped. Whoever waits meanwhile clones the
    /// `Arc` in it.
    pub(crate) fn live(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Replaces that.
    pub(crate) fn put_into_effect(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
        self.standing_changed();
    }

    /// Somebody may be welcome no more: where, or at all.
    pub(crate) fn standing_changed(&self) {
        self.standing.send_replace(());
    }

    /// Wakes when [that](Self::standing_changed) happens.
    pub(crate) fn standing(&self) -> watch::Receiver<()> {
        self.standing.subscribe()
    }

    /// How many CLI processes a tenant's users may have.
    pub(crate) fn processes_of(&self, tenant: &TenantId) -> usize {
        self.live().tenants.get(tenant).max_processes
    }

    /// The CLI server of `who`, started if need be.
    pub(crate) async fn home(&self, who: &Identity) -> Result<Attachment, PoolError> {
        self.pool.home(who, self.processes_of(&who.tenant)).await
    }

    /// Whether CLI servers belong to one user each.
    pub(crate) fn exclusive(&self) -> bool {
        self.config.pool.mode == PoolMode::PerUser
    }

    /// When this is cancelled, new connections are for other gateways to take, if there are some.
    pub(crate) fn deaf(&self) -> &CancellationToken {
        if self.config.drain.hand_over { self.drain.draining() } else { self.drain.closing() }
    }

    /// How far the caller's calls may reach in a session. On another user's CLI server nobody has more than
    /// on a shared one.
    pub(crate) fn reach_in<'a>(
        &self,
        live: &'a Live,
        who: &'a Identity,
        session: Option<&Session>,
    ) -> Reach<'a> {
        let reach = self.reach(live, who);
        match session {
            Some(session) if self.exclusive() && !session.is_of(who) => {
                Reach { surface: Surface::Shared, ..reach }
            }
            _ => reach,
        }
    }

    /// A session that is to be made there.
    pub(crate) fn new_session(&self, place: Place) -> New {
        New { place, ephemeral: false, most: self.live().limits.max_sessions_per_user }
    }

    /// How far the caller's calls may reach, as things stand.
    pub(crate) fn reach<'a>(&self, live: &'a Live, who: &'a Identity) -> Reach<'a> {
        let full = live.full_surface(&who.tenant, self.config.pool.mode);
        Reach {
            surface: if full { Surface::Full } else { Surface::Shared },
            tenant: &who.tenant,
            rules: live.tenants.get(&who.tenant),
            // Anonymous callers are this machine's own; a model server of theirs lives on loopback.
            loopback: live.auth.anonymous,
        }
    }
}

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address is taken, or not the host's.
    #[error("cannot listen on listen.{port} = \"{address}\": {error}")]
    Listen {
        /// Which listener.
        port: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The host gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    /// The configuration refers to something that is of no use.
    #[error("{0}")]
    Unusable(String),
    /// The audit log cannot be written.
    #[error("log.audit: {0}")]
    Audit(io::Error),
    /// The CLI servers cannot be had.
    #[error(transparent)]
    Pool(#[from] jetway_pool::StartError),
    /// The lock store cannot be had.
    #[error("locks: {0}")]
    Locks(#[from] jetway_lockd::store::StoreError),
    /// The session directory cannot be had.
    #[error(transparent)]
    Directory(#[from] directory::OpenError),
}

/// Where a running gateway listens; `None` is off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    /// JSON-RPC for SDKs.
    pub sdk: Option<SocketAddr>,
    /// REST, server-sent events and WebSocket.
    pub http: Option<SocketAddr>,
    /// Metrics, health and operations.
    pub admin: Option<SocketAddr>,
}

impl Addresses {
    fn ports(&self) -> Vec<u16> {
        [self.sdk, self.http, self.admin].into_iter().flatten().map(|address| address.port()).collect()
    }
}

/// A running gateway.
pub struct App {
    core: Arc<Core>,
    /// What it was started with.
    running: Config,
    addresses: Addresses,
    /// Accept loops; they end when the drain closes.
    listeners: JoinSet<io::Result<()>>,
    /// They outlive the connections that they serve.
    _workers: Arc<Workers>,
}

impl App {
    /// Binds the listeners, then starts the pool, then serves.
    pub async fn start(config: Config, metrics: PrometheusHandle) -> Result<Self, StartError> {
        let sdk = bind(&config, Port::Sdk).await?;
        let http = bind(&config, Port::Http).await?;
        let admin = bind(&config, Port::Admin).await?;
        let tls = Tls::load(&config.listen).map_err(StartError::Unusable)?;
        let audit = Audit::open(&config.log.audit).map_err(StartError::Audit)?;
        let local = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let addresses = Addresses { sdk: local(&sdk), http: local(&http), admin: local(&admin) };
        let directory = Arc::new(Directory::open(&config.directory, &config.redis).await?);
        let lockd = Lockd::open(&config.locks, &config.redis, lease::floors(directory.clone())).await?;
        let turns = Turns::new(lockd.clone(), Arc::new(lease::Nothing), TENURE, config.locks.max_waiters);
        let running = config.clone();
        let (config, live) = config.split();
        let limits = live.limits.clone();
        let tracker = TaskTracker::new();
        let drain = Drain::default();
        let rules = Rules::new(live, None, &tracker, drain.closing()).map_err(StartError::Unusable)?;
        let rules = Arc::new(ArcSwap::from_pointee(rules));
        let upstream = config.pool.process.upstream_proxy.as_ref();
        let exit = Exit::new(rules.clone(), &config.redis, addresses.ports(), upstream);
        let pool = Pool::start(&config.pool, &limits, exit.clone()).await?;
        let scribe = Scribe::start(directory.clone());
        let core = Arc::new(Core {
            config,
            rules,
            standing: watch::Sender::default(),
            pool,
            exit,
            registry: Registry::default(),
            directory,
            lockd,
            turns,
            scribe,
            clients: Clients::default(),
            kept: Kept::default(),
            connections: Arc::default(),
            admission: Arc::default(),
            usage: Arc::default(),
            placing: Arc::default(),
            audit,
            tls,
            drain,
            since: Instant::now(),
            tracker,
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Arc::new(Workers::start(cores).map_err(StartError::Threads)?);
        let mut listeners = JoinSet::new();
        core.tracker.spawn(auth::watch(core.clone()));
        if core.exclusive() {
            core.tracker.spawn(idle::watch(core.clone()));
            core.tracker.spawn(idle::give_way(core.clone()));
            core.tracker.spawn(bounds::watch(core.clone()));
        }
        core.tracker.spawn(sweep(core.clone()));
        core.tracker.spawn(leaving::watch(core.clone()));
        core.tracker.spawn(draining::watch(core.clone()));
        if let Some(listener) = sdk {
            listeners.spawn(sdk::serve(core.clone(), listener, workers.clone()));
        }
        if let Some(listener) = http {
            listeners.spawn(http::serve(core.clone(), listener));
        }
        if let Some(listener) = admin {
            listeners.spawn(admin::serve(core.clone(), listener, metrics));
        }
        Ok(Self { core, running, addresses, listeners, _workers: workers })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Loads the configuration again from `sources`, which it came from, when a file of them changes or when asked.
    pub fn watch(&self, sources: Sources) -> Reload {
        reload::start(&self.core, sources, self.running.clone())
    }

    /// Ends without losing a turn, within `drain.timeout`. When `hurry` resolves, it waits for turns no more.
    ///
    /// Returns how many turns were cut off.
    pub async fn drain(mut self, hurry: impl Future<Output = ()>) -> usize {
        self.core.drain.begin();
        self.core.audit.record(&Event::Operated { act: "stop", target: None, outcome: "draining" });
        let core = self.core.clone();
        let mut draining = std::pin::pin!(drain::run(&core));
        let left = tokio::select! {
            left = &mut draining => left,
            () = hurry => {
                core.drain.hurry();
                draining.await
            }
        };
        // Whoever is in the middle of a request on the admin port may never end it.
        let ended = async { while self.listeners.join_next().await.is_some() {} };
        let _ = timeout(LISTENERS_END, ended).await;
        self.core.audit.close().await;
        left
    }
}

/// Lets go of what is known of sessions that nobody uses, until connections are to be closed.
async fn sweep(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = tokio::time::interval(SWEEP);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        core.registry.sweep();
    }
}

async fn bind(config: &Config, port: Port) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.listen.address(port) else { return Ok(None) };
    let listener = if config.drain.hand_over && port != Port::Admin {
        bind_beside(address)
    } else {
        TcpListener::bind(address).await
    };
    listener.map(Some).map_err(|error| StartError::Listen { port: port.as_str(), address, error })
}

/// Listens where other processes of the same account may listen too; the kernel gives each its part.
fn bind_beside(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
