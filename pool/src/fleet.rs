//! CLI servers that run already: the shell around [`Homes`] and [`Circuit`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jetway_config::{
    Identity,
    pool::{Backend, Health},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    circuit::{Change, Circuit, Policy},
    drain::{Departed, Departures, DrainReason},
    error::{Gone, PoolError},
    homes::Homes,
    probe::{self, ProbeError, Proved},
    server::{
        Account, Attachment, Failure, Keeper, Readiness, Server, ServerId, ServerState, ServerStatus, Way,
    },
    telemetry,
};

/// After a failure the next probe comes soon: most often it settles whether the server is dead.
const RECHECK: Duration = Duration::from_millis(250);

pub(crate) struct Fleet {
    backends: Vec<Backend>,
    ids: Vec<ServerId>,
    index: HashMap<ServerId, usize>,
    health: Health,
    state: Mutex<State>,
    departures: Departures,
    tasks: TaskTracker,
    closing: CancellationToken,
}

struct State {
    homes: Homes,
    lives: Vec<Life>,
    incarnations: u64,
}

/// What is known of one server.
struct Life {
    circuit: Circuit,
    /// While the circuit is closed.
    server: Option<Arc<Server>>,
    times_up: u64,
    rtt: Option<Duration>,
    problem: Option<String>,
    /// It is to be left, over all its lives.
    draining: Option<DrainReason>,
    /// Nobody listened there when it was last tried.
    refused: bool,
}

impl Life {
    /// Whether somebody new may be placed there.
    fn is_open(&self) -> bool {
        self.server.is_some() && self.draining.is_none()
    }
}

/// What a probe found.
struct Answer {
    rtt: Duration,
    version: Option<String>,
}

impl Fleet {
    /// Returns once every server has answered or failed its first probe.
    pub(crate) async fn start(backends: &[Backend], health: &Health) -> Arc<Self> {
        let ids: Vec<_> = backends.iter().map(|b| ServerId::new(b.address.to_string())).collect();
        let homes = Homes::new(ids.iter().map(ServerId::as_str).zip(backends.iter().map(|b| b.weight)));
        let untried = || Life {
            circuit: Circuit::Trying,
            server: None,
            times_up: 0,
            rtt: None,
            problem: None,
            draining: None,
            refused: false,
        };
        let lives = ids.iter().map(|_| untried()).collect();
        let fleet = Arc::new(Self {
            backends: backends.to_vec(),
            index: ids.iter().cloned().zip(0..).collect(),
            ids,
            health: health.clone(),
            state: Mutex::new(State { homes, lives, incarnations: 0 }),
            departures: Departures::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let tried = Arc::new(tokio::sync::Semaphore::new(0));
        for server in 0..fleet.backends.len() {
            fleet.tasks.spawn(watch_over(fleet.clone(), server, tried.clone()));
        }
        // Each probe is bounded by its timeout, and so is this; the semaphore is never closed.
        let _ = tried.acquire_many(fleet.backends.len() as u32).await;
        fleet
    }

    pub(crate) fn home(self: &Arc<Self>, who: &Identity) -> Result<Attachment, PoolError> {
        self.open()?;
        let mut state = self.state();
        let State { homes, lives, .. } = &mut *state;
        let placed = homes.place(who, |server| lives[server].is_open());
        match placed.and_then(|server| lives[server].server.clone()) {
            Some(server) => Ok(Attachment::new(server, Some(who.clone()), self.clone())),
            None => {
                let now = Instant::now();
                let soonest = lives.iter().map(|life| match life.circuit {
                    Circuit::Open { until } => until.saturating_duration_since(now),
                    _ => Duration::ZERO,
                });
                let retry_after = soonest.min().unwrap_or_default() + self.health.timeout;
                Err(PoolError::NoServer { configured: lives.len(), retry_after })
            }
        }
    }

    pub(crate) fn attach(self: &Arc<Self>, id: &ServerId) -> Result<Attachment, PoolError> {
        self.open()?;
        let index = *self.index.get(id).ok_or_else(|| PoolError::NotRunning(id.clone()))?;
        let mut state = self.state();
        let State { homes, lives, .. } = &mut *state;
        let Life { server, problem, .. } = &lives[index];
        let server = server.clone().ok_or_else(|| PoolError::Unreachable {
            server: id.clone(),
            cause: problem.clone().unwrap_or_else(|| "not tried yet".to_owned()),
            after: Duration::ZERO,
        })?;
        homes.visit(index);
        Ok(Attachment::new(server, None, self.clone()))
    }

    /// See [`Pool::place_of`](crate::Pool::place_of).
    pub(crate) fn place_of(self: &Arc<Self>, id: &ServerId, who: &Identity) -> Result<Attachment, PoolError> {
        self.open()?;
        let index = *self.index.get(id).ok_or_else(|| PoolError::NotRunning(id.clone()))?;
        let mut state = self.state();
        let State { homes, lives, .. } = &mut *state;
        let (life, group) = (&lives[index], &self.backends[index].state);
        let may_be_left = life.refused || (life.draining.is_some() && life.server.is_some());
        if may_be_left && group.is_some() {
            let open = |server: usize| lives[server].is_open() && !lives[server].refused;
            let same = |server: usize| open(server) && self.backends[server].state == *group;
            let other = homes.call_on(who, same).and_then(|server| lives[server].server.clone());
            if let Some(server) = other {
                return Ok(Attachment::new(server, None, self.clone()));
            }
        }
        drop(state);
        self.attach(id)
    }

    /// Places nobody new on that server.
    pub(crate) fn drain(&self, id: &ServerId, reason: DrainReason) -> Result<(), PoolError> {
        self.set_draining(id, Some(reason))
    }

    /// Takes that back.
    pub(crate) fn undrain(&self, id: &ServerId) -> Result<(), PoolError> {
        self.set_draining(id, None)
    }

    fn set_draining(&self, id: &ServerId, draining: Option<DrainReason>) -> Result<(), PoolError> {
        let index = *self.index.get(id).ok_or_else(|| PoolError::NotRunning(id.clone()))?;
        let mut state = self.state();
        let life = &mut state.lives[index];
        life.draining = draining;
        if let Some(server) = &life.server {
            server.account.draining.store(draining.is_some(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether nobody listened there when it was last tried.
    pub(crate) fn has_ended(&self, id: &ServerId) -> bool {
        self.index.get(id).is_some_and(|index| self.state().lives[*index].refused)
    }

    /// Whether another one that shares its state is open.
    pub(crate) fn has_successor(&self, id: &ServerId) -> bool {
        let Some(index) = self.index.get(id) else { return false };
        let group = &self.backends[*index].state;
        let state = self.state();
        let mut others = state.lives.iter().zip(&self.backends).enumerate().filter(|(n, _)| n != index);
        group.is_some()
            && others.any(|(_, (life, backend))| life.is_open() && !life.refused && backend.state == *group)
    }

    /// Those that were up and are not.
    pub(crate) fn down(&self) -> Vec<ServerId> {
        let state = self.state();
        let down = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.server.is_none());
        down.map(|(_, id)| id.clone()).collect()
    }

    /// Those that are being left.
    pub(crate) fn draining(&self) -> Vec<ServerId> {
        let state = self.state();
        let draining = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.draining.is_some());
        draining.map(|(_, id)| id.clone()).collect()
    }

    pub(crate) fn departed(&self) -> Vec<Departed> {
        self.departures.list()
    }

    fn open(&self) -> Result<(), PoolError> {
        if self.closing.is_cancelled() { Err(PoolError::ShuttingDown) } else { Ok(()) }
    }

    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        let state = self.state();
        let one = |(index, life): (usize, &Life)| {
            let (attachments, users) = state.homes.load(index);
            ServerStatus {
                id: self.ids[index].clone(),
                state: match life.circuit {
                    Circuit::Trying => ServerState::Trying,
                    Circuit::Closed { .. } => {
                        ServerState::of_up(life.draining.is_some(), attachments as usize)
                    }
                    Circuit::Open { .. } => ServerState::Down,
                },
                address: Some(self.backends[index].address.to_string()),
                pid: None,
                version: life.server.as_ref().and_then(|s| s.version.clone()),
                users,
                attachments: attachments as usize,
                uptime: life.server.as_ref().map(|s| s.since.elapsed()),
                restarts: life.times_up.saturating_sub(1),
                rtt: life.rtt,
                memory: None,
                served: life.server.as_ref().map_or(0, |s| s.served()),
                draining: life.draining,
                sandbox: None,
                group: self.backends[index].state.clone(),
                problem: life.problem.clone(),
            }
        };
        state.lives.iter().enumerate().map(|(index, life)| one((index, life))).collect()
    }

    pub(crate) fn ready(&self) -> Readiness {
        let state = self.state();
        let closing = self.closing.is_cancelled().then(|| "shutting down".to_owned());
        let down = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.server.is_none());
        let reasons = down.map(|(life, id)| {
            format!("{id} is down: {}", life.problem.as_deref().unwrap_or("not tried yet"))
        });
        let draining = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.draining.is_some());
        let reasons = reasons.chain(draining.map(|(_, id)| format!("{id} is being drained")));
        let ready = closing.is_none() && state.lives.iter().any(Life::is_open);
        Readiness { ready, reasons: closing.into_iter().chain(reasons).collect() }
    }

    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
    }

    /// The servers are not ours: only their watching ends.
    pub(crate) async fn shutdown(&self) {
        self.close();
        self.tasks.wait().await;
    }

    fn record(&self, index: usize, outcome: Result<Answer, Failure>) {
        let mut state = self.state();
        let State { lives, incarnations, .. } = &mut *state;
        let life = &mut lives[index];
        match outcome {
            Ok(Answer { rtt, version }) => {
                (life.rtt, life.refused) = (Some(rtt), false);
                if life.circuit.succeeded() == Change::CameUp {
                    *incarnations += 1;
                    life.times_up += 1;
                    life.problem = None;
                    let server = self.server(index, *incarnations, version);
                    server.account.draining.store(life.draining.is_some(), Ordering::Relaxed);
                    life.server = Some(Arc::new(server));
                    telemetry::backend(&self.ids[index], true);
                    info!(server = %self.ids[index], "CLI server is up");
                }
            }
            Err(failure) => self.failed(index, life, failure),
        }
    }

    fn failed(&self, index: usize, life: &mut Life, Failure { cause: problem, refused }: Failure) {
        life.refused = refused;
        let policy = Policy { failures: self.health.failures, cooldown: self.health.cooldown };
        let change = life.circuit.failed(policy, Instant::now());
        if change == Change::WentDown
            && let Some(server) = life.server.take()
        {
            let gone = Gone::Down { cause: problem.clone() };
            self.departures.add(&server, gone.clone());
            server.gone.send_replace(Some(gone));
        }
        if change == Change::WentDown || life.problem.as_ref() != Some(&problem) {
            warn!(server = %self.ids[index], problem, down = !life.circuit.is_closed(), "CLI server fails");
        }
        if !life.circuit.is_closed() {
            telemetry::backend(&self.ids[index], false);
        }
        life.problem = Some(problem);
    }

    fn server(&self, index: usize, incarnation: u64, version: Option<String>) -> Server {
        let backend = &self.backends[index];
        Server {
            id: self.ids[index].clone(),
            incarnation,
            way: Way::Tcp { host: backend.address.host.clone(), port: backend.address.port },
            token: backend.token.clone(),
            state: backend.state.clone(),
            pid: None,
            version,
            since: Instant::now(),
            spare: Mutex::default(),
            gone: watch::Sender::new(None),
            account: Account::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Fleet {
    fn released(&self, server: &Server, user: Option<&Identity>) {
        if let Some(index) = self.index.get(&server.id) {
            self.state().homes.release(*index, user);
        }
    }

    /// A dial that failed is as good as a probe; one that succeeded proves only that somebody listens.
    fn dialled(&self, server: &Server, failure: Option<&Failure>) {
        let (Some(index), Some(failure)) = (self.index.get(&server.id), failure) else { return };
        let mut state = self.state();
        let life = &mut state.lives[*index];
        if life.server.as_ref().is_some_and(|now| now.incarnation == server.incarnation) {
            self.failed(*index, life, failure.clone());
        }
    }
}

/// Probes one server over a connection that is kept, until the fleet closes.
async fn watch_over(fleet: Arc<Fleet>, index: usize, tried: Arc<tokio::sync::Semaphore>) {
    let mut kept = None;
    let mut tried = Some(tried);
    let probing = async {
        loop {
            let outcome = check(&fleet, index, &mut kept).await;
            fleet.record(index, outcome);
            if let Some(tried) = tried.take() {
                tried.add_permits(1);
            }
            wait(&fleet, index, &mut kept).await;
        }
    };
    fleet.closing.run_until_cancelled(probing).await;
}

/// One probe; after a failure the connection is not kept.
async fn check(fleet: &Fleet, index: usize, kept: &mut Option<Proved>) -> Result<Answer, Failure> {
    let Backend { address, token, .. } = &fleet.backends[index];
    let begun = Instant::now();
    let probe = async {
        match kept.take() {
            Some(mut proved) => proved.ping().await.map(|()| proved),
            None => {
                let stream = probe::dial(&address.host, address.port).await.map_err(ProbeError::Dial)?;
                probe::prove(stream, token.as_ref()).await
            }
        }
    };
    let proved = match tokio::time::timeout(fleet.health.timeout, probe).await {
        Ok(proved) => proved?,
        Err(_) => return Err(Failure::new(format!("no answer within {:?}", fleet.health.timeout))),
    };
    let answer = Answer { rtt: begun.elapsed(), version: proved.version.clone() };
    *kept = Some(proved);
    Ok(answer)
}

/// Until the next probe is due: at once when the kept connection breaks, after the cooldown when down.
async fn wait(fleet: &Fleet, index: usize, kept: &mut Option<Proved>) {
    let due = match fleet.state().lives[index].circuit {
        Circuit::Closed { failures: 0 } => Instant::now() + fleet.health.interval,
        Circuit::Closed { .. } | Circuit::Trying => Instant::now() + fleet.health.interval.min(RECHECK),
        Circuit::Open { until } => until,
    };
    let broken = async {
        match kept {
            Some(proved) => proved.broken().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(due.into()) => {}
        () = broken => {
            *kept = None;
            // A server that hangs up again and again is not probed in a tight loop.
            tokio::time::sleep(fleet.health.interval.min(RECHECK) / 5).await;
        }
    }
    fleet.state().lives[index].circuit.advance(Instant::now());
}
