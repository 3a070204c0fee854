//! Room for turns: who begins at once, who waits, and who is told to come back later.

mod table;
mod usage;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use self::table::{Asked, Effect, Table, Ticket};
pub(crate) use self::{
    table::{Bounds, Full, Room, Why},
    usage::{Has, SMALL, Usage},
};
use crate::metrics;
use jetway_config::Identity;

/// The turns that run and those that wait, and whom to tell.
#[derive(Default)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Default)]
struct State {
    table: Table,
    told: HashMap<Ticket, (Identity, oneshot::Sender<Permit>), ahash::RandomState>,
}

/// Room for one turn, for as long as this lives.
///
/// It goes with the turn, not with the call that began it, so that it is given back however the turn ends: when
/// its session goes idle, fails, is aborted or left, or its CLI server is lost.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    who: Identity,
    since: Instant,
}

/// What a turn hears that asks for room.
pub(crate) enum Entry {
    /// It may begin.
    Begins(Permit),
    /// It waits.
    Waits(Waiter),
}

/// A turn that waits. Dropping it gives its place up.
pub(crate) struct Waiter {
    admission: Arc<Admission>,
    who: Identity,
    ticket: Ticket,
    since: Instant,
    until: Instant,
    told: oneshot::Receiver<Permit>,
    outcome: &'static str,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

impl Admission {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for room for a turn of `who`.
    pub(crate) fn ask(self: &Arc<Self>, who: &Identity, room: Room) -> Result<Entry, Full> {
        let now = Instant::now();
        let mut state = self.lock();
        match state.table.ask(who, room, now) {
            Asked::Begins => Ok(Entry::Begins(self.permit(who, now))),
            Asked::Refused(full) => Err(full),
            Asked::Waits(ticket, until) => {
                let (tell, told) = oneshot::channel();
                state.told.insert(ticket, (who.clone(), tell));
                metrics::turns_waiting(state.table.waiting());
                let (admission, who, outcome) = (self.clone(), who.clone(), "left");
                Ok(Entry::Waits(Waiter { admission, who, ticket, since: now, until, told, outcome }))
            }
        }
    }

    fn permit(self: &Arc<Self>, who: &Identity, since: Instant) -> Permit {
        Permit { admission: self.clone(), who: who.clone(), since }
    }

    fn end(self: &Arc<Self>, who: &Identity, since: Instant) {
        let now = Instant::now();
        let (mut effects, mut unheard) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        state.table.end(who, now - since, now, &mut effects);
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            let (Effect::Begins(ticket) | Effect::Expired(ticket)) = effect;
            let Some((who, tell)) = state.told.remove(&ticket) else { continue };
            if matches!(effect, Effect::Begins(_)) {
                unheard.extend(tell.send(self.permit(&who, now)).err());
            }
        }
        metrics::turns_waiting(state.table.waiting());
        drop(state);
        // Whoever has just left gives it back, which takes the lock again.
        drop(unheard);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.end(&self.who, self.since);
    }
}

impl Waiter {
    /// Waits until the turn may begin, or its time is over.
    pub(crate) async fn wait(mut self) -> Result<Permit, Full> {
        match timeout_at(self.until, &mut self.told).await {
            Ok(Ok(permit)) => {
                self.outcome = "begun";
                Ok(permit)
            }
            Ok(Err(_)) | Err(_) => {
                self.outcome = "expired";
                self.leave();
                let clears_in = self.admission.lock().table.clears_in(&self.who);
                Err(Full { why: Why::Wait, clears_in })
            }
        }
    }

    fn leave(&self) {
        let mut state = self.admission.lock();
        if state.told.remove(&self.ticket).is_some() {
            state.table.leave(&self.who, self.ticket);
            metrics::turns_waiting(state.table.waiting());
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        metrics::turn_waited(self.outcome, self.since.elapsed());
        self.leave();
    }
}
