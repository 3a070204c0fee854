//! Which session belongs to whom, and on which CLI server it lives.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;
use tracing::info;

use jetway_config::{Identity, SessionId};
use jetway_pool::ServerId;
use jetway_wire::event::Turn;

use super::turn::{Ended, Outcome, TurnId, Turns};
use crate::metrics;

/// A session: its owner named it, so two owners may choose the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    pub(crate) owner: Identity,
    pub(crate) id: SessionId,
}

/// What Jetway knows of a session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    state: Mutex<State>,
    /// A turn has begun and no delta of its answer was seen.
    silent: AtomicBool,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    server: ServerId,
    /// Connections to the CLI server that are attached to it.
    attached: usize,
    turns: Turns,
}

#[derive(Debug, Default)]
struct Counters {
    next_turn: AtomicU64,
    running_turns: AtomicUsize,
}

/// Every session that Jetway knows.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: Mutex<Tables>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Tables {
    by_key: HashMap<SessionKey, Arc<Session>>,
    /// On a server that several users share, an id is one session, whoever asks.
    on_shared: HashMap<(ServerId, SessionId), SessionKey>,
}

/// The id is another user's on the same CLI server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken;

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's session of that name.
    pub(crate) fn find(&self, who: &Identity, id: &SessionId) -> Option<Arc<Session>> {
        self.lock().by_key.get(&SessionKey { owner: who.clone(), id: id.clone() }).cloned()
    }

    /// Whether a session of that name on that server is the caller's. On another server it is another session.
    pub(crate) fn owns(&self, who: &Identity, id: &str, server: &ServerId) -> bool {
        id.parse().is_ok_and(|id| self.find(who, &id).is_some_and(|session| session.server() == *server))
    }

    /// Gives the caller that name on `server`, and its session of it: the one it has, wherever that lives until
    /// [`Session::moved`], or a new one there.
    pub(crate) fn claim(
        &self,
        who: &Identity,
        id: &SessionId,
        server: &ServerId,
        exclusive: bool,
    ) -> Result<Arc<Session>, Taken> {
        let key = SessionKey { owner: who.clone(), id: id.clone() };
        let mut tables = self.lock();
        if !exclusive {
            match tables.on_shared.entry((server.clone(), id.clone())) {
                Entry::Occupied(holder) if *holder.get() != key => return Err(Taken),
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(key.clone());
                }
            }
        }
        let session = tables.by_key.entry(key.clone()).or_insert_with(|| {
            let state = State { server: server.clone(), attached: 0, turns: Turns::default() };
            let silent = AtomicBool::new(false);
            Arc::new(Session { key, state: Mutex::new(state), silent, counters: self.counters.clone() })
        });
        Ok(session.clone())
    }

    /// Forgets a session that is no more.
    pub(crate) fn forget(&self, key: &SessionKey) {
        let mut tables = self.lock();
        if let Some(session) = tables.by_key.remove(key) {
            let server = session.server();
            tables.on_shared.remove(&(server, key.id.clone()));
        }
    }

    /// Frees the session's name on a server where it does not live after all.
    pub(crate) fn release(&self, session: &Session, server: &ServerId) {
        if session.server() != *server {
            let claim = (server.clone(), session.key.id.clone());
            self.lock().on_shared.remove(&claim);
        }
    }

    /// How many turns have begun and not ended.
    pub(crate) fn running_turns(&self) -> usize {
        self.counters.running_turns.load(Ordering::Relaxed)
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CLI server on which it lives, or lived last.
    pub(crate) fn server(&self) -> ServerId {
        self.lock().server.clone()
    }

    /// A CLI server has attached it: there it lives.
    pub(crate) fn moved(&self, server: &ServerId) {
        self.lock().server = server.clone();
    }

    /// One more connection to the CLI server is attached.
    pub(crate) fn attach(&self) {
        self.lock().attached += 1;
    }

    /// One less is. When none is left the CLI stops the session, and its turns with it.
    pub(crate) fn detach(&self, why: Outcome) {
        let mut state = self.lock();
        state.attached = state.attached.saturating_sub(1);
        if state.attached == 0 {
            let ended = state.turns.end_all(why, Instant::now());
            self.report(&state.server, ended);
        }
    }

    /// A prompt is on its way; `None` when nobody is attached who would see the turn end.
    pub(crate) fn begin_turn(&self) -> Option<TurnId> {
        let mut state = self.lock();
        if state.attached == 0 {
            return None;
        }
        let id = TurnId(self.counters.next_turn.fetch_add(1, Ordering::Relaxed) + 1);
        state.turns.begin(id, Instant::now());
        self.silent.store(true, Ordering::Relaxed);
        let running = self.counters.running_turns.fetch_add(1, Ordering::Relaxed) + 1;
        metrics::turns_running(running);
        Some(id)
    }

    pub(crate) fn turn_refused(&self, id: TurnId) {
        let mut state = self.lock();
        let ended = state.turns.refused(id, Instant::now());
        self.report(&state.server, ended);
    }

    /// One of its events came.
    pub(crate) fn follow(&self, turn: Turn) {
        match turn {
            // One load for all but a turn's first delta.
            Turn::Delta => {
                if self.silent.load(Ordering::Relaxed) && self.silent.swap(false, Ordering::Relaxed) {
                    self.lock().turns.delta(Instant::now());
                }
            }
            Turn::Failed => self.lock().turns.failed(),
            Turn::Idle => self.idle(),
            Turn::Other => {}
        }
    }

    pub(crate) fn aborting(&self) {
        self.lock().turns.aborting();
    }

    fn idle(&self) {
        let mut state = self.lock();
        let ended = state.turns.idle(Instant::now());
        self.report(&state.server, ended);
    }

    /// Whether a turn is running; asked when its CLI server is lost.
    pub(crate) fn is_running(&self) -> bool {
        !self.lock().turns.is_idle()
    }

    fn report(&self, server: &ServerId, ended: impl IntoIterator<Item = Ended>) {
        for turn in ended {
            let running = self.counters.running_turns.fetch_sub(1, Ordering::Relaxed) - 1;
            metrics::turn_ended(&turn, running);
            info!(
                tenant = %self.key.owner.tenant,
                user = %self.key.owner.user,
                session = %self.key.id,
                backend = %server,
                turn = %turn.id,
                outcome = turn.outcome.as_str(),
                duration_ms = turn.took.as_millis() as u64,
                first_delta_ms = turn.first.map(|f| f.as_millis() as u64),
                "turn ended"
            );
        }
    }
}
