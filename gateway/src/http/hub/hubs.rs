//! All sessions that the HTTP face holds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, interval};

use jetway_config::{Identity, SessionId};

use super::{Hub, Over, ring::EventId};
use crate::http::{
    Face,
    fault::{Fault, Kind},
    profile::Profile,
};

/// How many sessions are held at most: each costs some KiB, and its buffer while it is used.
const MOST: usize = 10_000;
/// How long the events of a session that nobody uses are kept for those who come back.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How often such sessions are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Numbers events across all sessions, so that a session's only grow, whatever is forgotten in between.
#[derive(Debug)]
pub(in crate::http) struct Numbers {
    boot: u32,
    last: AtomicU64,
}

impl Numbers {
    pub(in crate::http) fn new() -> Self {
        Self { boot: rand_boot(), last: AtomicU64::new(0) }
    }

    pub(in crate::http) fn next(&self) -> EventId {
        EventId { boot: self.boot, n: self.last.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    pub(in crate::http) fn latest(&self) -> EventId {
        EventId { boot: self.boot, n: self.last.load(Ordering::Relaxed) }
    }
}

/// Tells one life of a gateway from another.
fn rand_boot() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}

/// The sessions, by owner and id.
pub(in crate::http) struct Hubs {
    held: Mutex<HashMap<(Identity, SessionId), Held>>,
    numbers: Arc<Numbers>,
}

struct Held {
    hub: Arc<Hub>,
    used: Instant,
}

impl Hubs {
    pub(in crate::http) fn new() -> Self {
        Self { held: Mutex::default(), numbers: Arc::new(Numbers::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Identity, SessionId), Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hold on a session; a new one has not attached it yet.
    pub(in crate::http) fn hold(
        &self,
        face: &Arc<Face>,
        owner: &Identity,
        id: &SessionId,
        profile: impl FnOnce() -> Profile,
    ) -> Result<Arc<Hub>, Fault> {
        let now = Instant::now();
        let mut held = self.lock();
        let key = (owner.clone(), id.clone());
        if let Some(held) = held.get_mut(&key) {
            held.used = now;
            return Ok(held.hub.clone());
        }
        if held.len() >= MOST {
            let quiet = held.iter().filter(|(_, h)| h.hub.is_quiet()).min_by_key(|(_, h)| h.used);
            let oldest = quiet.map(|(key, _)| key.clone()).ok_or_else(|| {
                Fault::new(Kind::Overloaded, "Too many sessions are in use over HTTP")
                    .retry_after(Duration::from_secs(1))
            })?;
            held.remove(&oldest);
        }
        let hub = Hub::new(face, owner.clone(), Some(id.clone()), profile(), self.numbers.clone());
        held.insert(key, Held { hub: hub.clone(), used: now });
        Ok(hub)
    }

    /// The hold on a session that has no name yet. Until it is [kept](Self::keep) nobody else has it.
    pub(in crate::http) fn nameless(&self, face: &Arc<Face>, owner: &Identity, profile: Profile) -> Arc<Hub> {
        Hub::new(face, owner.clone(), None, profile, self.numbers.clone())
    }

    /// Keeps the hold on a session that has its name now; unless somebody was faster: then that one's is kept.
    pub(in crate::http) fn keep(&self, owner: &Identity, id: &SessionId, hub: Arc<Hub>) -> Arc<Hub> {
        let held = Held { hub, used: Instant::now() };
        self.lock().entry((owner.clone(), id.clone())).or_insert(held).hub.clone()
    }

    /// The hold on a session, if there is one.
    pub(in crate::http) fn held(&self, owner: &Identity, id: &SessionId) -> Option<Arc<Hub>> {
        self.lock().get(&(owner.clone(), id.clone())).map(|held| held.hub.clone())
    }

    /// Lets a session go that is no more.
    pub(in crate::http) fn release(&self, owner: &Identity, id: &SessionId) {
        let held = self.lock().remove(&(owner.clone(), id.clone()));
        if let Some(held) = held {
            held.hub.close(Over::Ended);
        }
    }

    fn sweep(&self, now: Instant) {
        for held in self.lock().values_mut() {
            if held.hub.is_quiet() {
                if now - held.used > REMEMBERED {
                    held.hub.with(|state| state.ring.clear());
                }
            } else {
                held.used = now;
            }
        }
    }

    fn close(&self) {
        let all: Vec<_> = self.lock().drain().map(|(_, held)| held.hub).collect();
        all.iter().for_each(|hub| hub.close(Over::Stopping));
    }
}

/// Forgets what nobody uses, until connections are to be closed; then tells every reader.
pub(in crate::http) async fn watch(face: Arc<Face>) {
    let closing = face.core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        face.hubs.sweep(Instant::now());
    }
    face.hubs.close();
}
