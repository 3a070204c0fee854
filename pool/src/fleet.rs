//! CLI servers that run already: the shell around [`Homes`], [`Circuit`] and [`Recycler`].

mod recycling;
mod status;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jetway_config::{
    Identity,
    pool::{Backend, Health},
    recycle::Recycle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    circuit::Circuit,
    drain::{Departures, DrainReason},
    error::PoolError,
    homes::Homes,
    recycle::Recycler,
    server::{Attachment, Failure, Keeper, Server, ServerId},
    tally::Tally,
};

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
    recycler: Recycler<usize>,
    incarnations: u64,
}

/// What is known of one server.
struct Life {
    circuit: Circuit,
    /// While the circuit is closed.
    server: Option<Arc<Server>>,
    times_up: u64,
    problem: Option<String>,
    /// What its process has done, as far as was seen here: over times at which it could not be reached.
    tally: Arc<Tally>,
    /// When that process was seen first.
    born: Option<Instant>,
    /// That process has ended, by all signs: it hung up on its probe, or nobody listened there.
    ended: bool,
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

    fn set_draining(&mut self, draining: Option<DrainReason>) {
        self.draining = draining;
        self.tally.draining.store(draining.is_some(), Ordering::Relaxed);
    }
}

impl Fleet {
    /// Returns once every server has answered or failed its first probe.
    pub(crate) async fn start(backends: &[Backend], health: &Health, recycle: &Recycle) -> Arc<Self> {
        let ids: Vec<_> = backends.iter().map(|b| ServerId::new(b.address.to_string())).collect();
        let homes = Homes::new(ids.iter().map(ServerId::as_str).zip(backends.iter().map(|b| b.weight)));
        let untried = || Life {
            circuit: Circuit::Trying,
            server: None,
            times_up: 0,
            problem: None,
            tally: Arc::default(),
            born: None,
            ended: false,
            draining: None,
            refused: false,
        };
        let lives = ids.iter().map(|_| untried()).collect();
        let fleet = Arc::new(Self {
            backends: backends.to_vec(),
            index: ids.iter().cloned().zip(0..).collect(),
            ids,
            health: health.clone(),
            state: Mutex::new(State { homes, lives, recycler: Recycler::of_fleet(recycle), incarnations: 0 }),
            departures: Departures::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let tried = Arc::new(tokio::sync::Semaphore::new(0));
        for server in 0..fleet.backends.len() {
            fleet.tasks.spawn(watch::watch_over(fleet.clone(), server, tried.clone()));
        }
        // Each probe is bounded by its timeout, and so is this; the semaphore is never closed.
        let _ = tried.acquire_many(fleet.backends.len() as u32).await;
        fleet.tasks.spawn(recycling::tend(fleet.clone()));
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
        state.lives[index].set_draining(draining);
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

    fn open(&self) -> Result<(), PoolError> {
        if self.closing.is_cancelled() { Err(PoolError::ShuttingDown) } else { Ok(()) }
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
