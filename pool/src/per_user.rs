//! A process of each user's own: the shell around [`Slots`].

mod life;
mod status;
mod tend;

use std::{
    fs::File,
    num::NonZero,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jetway_config::{
    Identity, TenantId, limits,
    pool::{Health, Process as Settings},
    recycle::Recycle,
    sandbox::{Level, Uids},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    accounts::Accounts,
    command::{Cli, GITHUB_TOKEN, Host},
    drain::{Departures, DrainReason},
    error::{Phase, PoolError, StartError, StopReason, Whose},
    launch::Launcher,
    limits::{Bounds, Limits, Usage},
    memory,
    recycle::Recycler,
    sandbox::{Outside, Walls},
    server::{Attachment, Failure, Keeper, Server, ServerId},
    slots::{Drained, Held, Lack, Next, Slot, Slots, Want},
    spawner::Spawner,
    state_dir::{self, Home},
    strays::Marks,
    telemetry,
    workspace::Workspace,
};

/// A user whose CLI died again and again waits so long without hearing of it; longer waits are refused.
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// What callers are told when every process is in use: about a turn's time.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// Told once, when a process has come up, could not, or has ended.
type Ticket = Arc<watch::Sender<Option<Result<(), PoolError>>>>;

/// Waits for what a ticket tells.
type Told = watch::Receiver<Option<Result<(), PoolError>>>;

fn ticket() -> Ticket {
    Arc::new(watch::Sender::new(None))
}

async fn outcome(told: &mut Told) -> Result<(), PoolError> {
    match told.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(outcome)) => outcome.clone(),
        // The slot is gone: there is nothing to wait for.
        Ok(None) | Err(_) => Ok(()),
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

#[derive(Clone)]
struct Running {
    server: Arc<Server>,
    stop: Arc<watch::Sender<Option<StopReason>>>,
}

pub(crate) struct PerUser {
    launcher: Launcher,
    marks: Marks,
    idle_timeout: Duration,
    ping_interval: Duration,
    /// Pings without an answer in a row that make a process count as hung.
    failures: u32,
    attempts: u32,
    max: usize,
    memory_budget: u64,
    /// Bytes that the processes held at the last look.
    memory_used: AtomicU64,
    slots: Mutex<Slots<Running, Ticket>>,
    /// By incarnation. Locked after `slots`.
    recycler: Mutex<Recycler<u64>>,
    /// Held by every process until it is reaped: `max` holds even while one makes room for another.
    room: Arc<Semaphore>,
    incarnations: AtomicU64,
    /// Whose processes those in line wait for: a tenant's, or (`None`) anybody's.
    short: watch::Sender<Vec<Option<TenantId>>>,
    /// Something changed that those in line may wait for.
    moved: Notify,
    strays: Notify,
    departures: Departures,
    tasks: TaskTracker,
    /// No more launches; what runs is asked to end.
    closing: CancellationToken,
    /// What still runs is killed.
    hurry: CancellationToken,
    /// The lock on the state directory.
    _lock: File,
}

impl PerUser {
    pub(crate) async fn start(
        settings: &Settings,
        health: &Health,
        recycle: &Recycle,
        attempts: u32,
        outside: Arc<dyn Outside>,
    ) -> Result<Arc<Self>, StartError> {
        let host = Host::current();
        let cli = Cli::find(&settings.command, std::env::vars_os(), &host)?;
        if cli.environment.iter().any(|(name, _)| name == GITHUB_TOKEN) {
            warn!("{GITHUB_TOKEN} is set: every user's CLI logs in with it, and users' shells can read it");
        }
        let (state_dir, lock) = state_dir::lock(&settings.state_dir)?;
        let program = cli.program.display();
        info!(%program, state_dir = %state_dir.display(), "a CLI process for every user");
        let spawner = Spawner::new().map_err(StartError::Thread)?;
        let accounts = match settings.uids {
            Some(uids) => Some(accounts(uids, &state_dir, &cli)?),
            None => None,
        };
        let walls = Walls::build(settings, &cli, &spawner, outside).await?;
        telemetry::sandbox(walls.level());
        let limits = Limits::find(&settings.limits);
        let start_timeout = settings.start_timeout;
        let pool = Arc::new(Self {
            marks: Marks::new(&state_dir),
            launcher: Launcher { cli, walls, accounts, limits, state_dir, start_timeout, spawner },
            idle_timeout: settings.idle_timeout,
            ping_interval: settings.ping_interval,
            failures: health.failures,
            attempts,
            max: settings.max_processes,
            memory_budget: settings.memory_budget.of(memory::host_bytes()),
            memory_used: AtomicU64::new(0),
            slots: Mutex::new(Slots::new(settings.max_processes, limits::STARTS_PER_CPU * cpus())),
            recycler: Mutex::new(Recycler::of_processes(recycle)),
            room: Arc::new(Semaphore::new(settings.max_processes)),
            incarnations: AtomicU64::new(1),
            short: watch::Sender::default(),
            moved: Notify::new(),
            strays: Notify::new(),
            departures: Departures::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            hurry: CancellationToken::new(),
            _lock: lock,
        });
        // What an earlier Jetway left when it was killed.
        pool.sweep().await;
        pool.tasks.spawn(tend::tend(pool.clone()));
        pool.tasks.spawn(tend::move_line(pool.clone()));
        pool.tasks.spawn(tend::sweep_strays(pool.clone()));
        Ok(pool)
    }

    /// At most `of_tenant` processes of that tenant's users run at a time.
    pub(crate) async fn home(
        self: &Arc<Self>,
        who: &Identity,
        of_tenant: usize,
    ) -> Result<Attachment, PoolError> {
        // Ends: a process that comes up and dies again and again ends in a refusal within seconds.
        loop {
            let mut told = match self.want(who, of_tenant)? {
                Ok(attachment) => return Ok(attachment),
                Err(told) => told,
            };
            let begun = Instant::now();
            if tokio::time::timeout(self.launcher.start_timeout, outcome(&mut told)).await.is_err()
                && let Some(held) = self.slots().held(who)
            {
                return Err(self.held(&held, of_tenant, begun.elapsed()));
            }
            // Else it is up, or an old one is gone and a new one is to be started.
            outcome(&mut told).await?;
        }
    }

    /// What is told to whom the line has kept for too long.
    fn held(&self, held: &Held, of_tenant: usize, after: Duration) -> PoolError {
        match *held {
            Held::Behind => PoolError::StartTimeout { phase: Phase::Line, after },
            Held::Full(whose) => self.full(whose, of_tenant),
        }
    }

    fn full(&self, whose: Whose, of_tenant: usize) -> PoolError {
        let limit = if whose == Whose::Tenant { of_tenant } else { self.max };
        PoolError::Full { whose, limit, retry_after: FULL_RETRY }
    }

    /// An attachment, or what to wait for.
    fn want(
        self: &Arc<Self>,
        who: &Identity,
        of_tenant: usize,
    ) -> Result<Result<Attachment, Told>, PoolError> {
        let mut slots = self.slots();
        // Under the lock: shutdown waits for what was spawned before it closed the tracker.
        if self.closing.is_cancelled() {
            return Err(PoolError::ShuttingDown);
        }
        match slots.want(who, of_tenant, Instant::now(), LONGEST_DELAY, ticket) {
            Want::Attached(running) => Ok(Ok(self.attachment(running, who))),
            Want::Wait(ticket) => {
                // Before the line moves: it loses those for whom nobody waits.
                let told = ticket.subscribe();
                if self.advance(&mut slots).is_some() {
                    // For the line to move then.
                    self.moved.notify_one();
                }
                Ok(Err(told))
            }
            Want::Backoff { failures, remaining } => {
                Err(PoolError::CrashLoop { failures, retry_after: remaining })
            }
            Want::Full => Err(self.full(Whose::Host, of_tenant)),
        }
    }

    /// Starts the processes of those whose turn it is, and tells whose they wait for. Returns when it may be the turn of
    /// somebody else without anything else happening.
    fn advance(self: &Arc<Self>, slots: &mut Slots<Running, Ticket>) -> Option<Instant> {
        if self.closing.is_cancelled() {
            return None;
        }
        let awaited = |ticket: &Ticket| ticket.receiver_count() > 0;
        let Lack { short, due } = loop {
            match slots.next(Instant::now(), awaited, ticket) {
                Next::Start { who, since, evicted } => {
                    if let Some(evicted) = evicted {
                        evicted.stop.send_replace(Some(StopReason::Evicted));
                    }
                    // A task of its own: whoever waits may go away without taking it from the others.
                    self.tasks.spawn(self.clone().run(who, since));
                }
                Next::Nothing(lack) => break lack,
            }
        };
        self.short.send_if_modified(|last| {
            // Said again, even if it is the same: one more may be wanted.
            let news = !short.is_empty() || !last.is_empty();
            *last = short;
            news
        });
        due
    }

    /// Of which tenants, or of whom at all (`None`), a process is wanted for those in line: told whenever there may be
    /// something new about that.
    pub(crate) fn short(&self) -> watch::Receiver<Vec<Option<TenantId>>> {
        self.short.subscribe()
    }

    pub(crate) fn attach(self: &Arc<Self>, id: &ServerId) -> Result<Attachment, PoolError> {
        let not_running = || PoolError::NotRunning(id.clone());
        let who = id.user().ok_or_else(not_running)?;
        if self.closing.is_cancelled() {
            return Err(PoolError::ShuttingDown);
        }
        let running = self.slots().attach(&who, Instant::now()).ok_or_else(not_running)?;
        Ok(self.attachment(running, &who))
    }

    /// Has the process of that name stopped once nobody uses it; the user's next use starts another.
    pub(crate) fn drain(&self, id: &ServerId, reason: DrainReason) -> Result<(), PoolError> {
        let not_running = || PoolError::NotRunning(id.clone());
        let who = id.user().ok_or_else(not_running)?;
        self.leave(&mut self.slots(), &who, reason).ok_or_else(not_running)
    }

    /// `None` when it does not run.
    fn leave(&self, slots: &mut Slots<Running, Ticket>, who: &Identity, reason: DrainReason) -> Option<()> {
        let (running, when) = slots.drain(who, reason, ticket)?;
        running.server.tally.draining.store(true, Ordering::Relaxed);
        if when == Drained::Now {
            running.stop.send_replace(Some(StopReason::Drained(reason)));
        }
        Some(())
    }

    /// Takes that back, if it has not been stopped.
    pub(crate) fn undrain(&self, id: &ServerId) -> Result<(), PoolError> {
        let not_running = || PoolError::NotRunning(id.clone());
        let who = id.user().ok_or_else(not_running)?;
        let running = self.slots().undrain(&who).ok_or_else(not_running)?;
        running.server.tally.draining.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn attachment(self: &Arc<Self>, running: Running, who: &Identity) -> Attachment {
        Attachment::new(running.server, Some(who.clone()), self.clone())
    }

    /// Holds a user's processes to what sessions ask for.
    pub(crate) fn bind(&self, who: &Identity, bounds: Bounds) {
        self.launcher.limits.bind(who, bounds);
    }

    pub(crate) fn limits_cpu(&self) -> bool {
        self.launcher.limits.limits_cpu()
    }

    /// What a user's processes take, if any run.
    pub(crate) fn usage(&self, who: &Identity) -> Option<Usage> {
        let meter = match self.slots().get(who)? {
            Slot::Running { server, .. } => server.server.meter.clone()?,
            Slot::Waiting { .. } | Slot::Starting { .. } | Slot::Stopping { .. } => return None,
        };
        meter.read()
    }

    /// The files of one session of a user's.
    pub(crate) fn workspace(&self, who: &Identity, name: &str) -> Workspace {
        Workspace::of(&Home::of(who, &self.launcher.state_dir), name)
    }

    pub(crate) fn sandbox(&self) -> Level {
        self.launcher.walls.level()
    }

    /// No more launches, and everything on its way out.
    pub(crate) fn close(&self) {
        let mut slots = self.slots();
        self.closing.cancel();
        self.tasks.close();
        for ticket in slots.dissolve() {
            ticket.send_replace(Some(Err(PoolError::ShuttingDown)));
        }
    }

    pub(crate) async fn shutdown(&self, deadline: Instant) {
        self.close();
        if tokio::time::timeout_at(deadline.into(), self.tasks.wait()).await.is_err() {
            self.hurry.cancel();
            // Nothing survives SIGKILL: this is the time that reaping takes.
            self.tasks.wait().await;
        }
        self.sweep().await;
    }

    fn recycler(&self) -> MutexGuard<'_, Recycler<u64>> {
        self.recycler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Slots<Running, Ticket>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for PerUser {
    fn released(&self, server: &Server, user: Option<&Identity>) {
        if let Some(who) = user {
            let same = |running: &Running| running.server.incarnation == server.incarnation;
            let drained = self.slots().release(who, Instant::now(), same, ticket);
            if let Some((running, reason)) = drained {
                running.stop.send_replace(Some(StopReason::Drained(reason)));
            }
            self.moved.notify_one();
        }
    }

    /// Whether a process lives is seen by its end, not by its dials.
    fn dialled(&self, _: &Server, _: Option<&Failure>) {}
}

/// Accounts of their own for users' processes, which must reach what they are to run.
fn accounts(uids: Uids, state_dir: &Path, cli: &Cli) -> Result<Accounts, StartError> {
    let own = std::env::current_exe().map_err(|cause| StartError::Accounts { why: cause.to_string() })?;
    let program = cli.program.canonicalize().unwrap_or_else(|_| cli.program.clone());
    let accounts = Accounts::open(uids, state_dir, &[&own, &program]);
    accounts.map_err(|why| StartError::Accounts { why })
}
