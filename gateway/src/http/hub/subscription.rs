//! Reading a session's events at one's own pace.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    Hub, Pulse,
    ring::{Event, EventId},
};

/// How many events are taken at a time, under the session's lock.
const BATCH: usize = 256;

/// A reader's place in a session's events.
pub(in crate::http) struct Subscription {
    hub: Arc<Hub>,
    at: Option<EventId>,
    pulse: watch::Receiver<Pulse>,
}

/// What comes next.
pub(in crate::http) enum Next {
    Events(Vec<Arc<Event>>),
    /// What came after the reader's place is not here any more; this is how things stand.
    Snapshot(EventId, Value),
    /// There will be no more.
    Closed,
}

impl Hub {
    /// The place of the latest event.
    pub(in crate::http) fn place(&self) -> EventId {
        self.with(|s| s.ring.last())
    }

    /// Begins to read after `place`: now, if that is `None`; by a snapshot, if it is unknown.
    pub(in crate::http) fn subscribe(self: &Arc<Self>, place: Option<Place>) -> Subscription {
        let pulse = self.pulse.subscribe();
        let at = match place {
            None => Some(self.with(|s| s.ring.last())),
            Some(Place::After(id)) => Some(id),
            Some(Place::Unknown) => None,
        };
        Subscription { hub: self.clone(), at, pulse }
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Place {
    After(EventId),
    /// A place of which nothing is known.
    Unknown,
}

impl Subscription {
    /// Waits for what comes next. Cancelling it loses nothing.
    pub(in crate::http) async fn next(&mut self) -> Next {
        loop {
            // Before looking: what comes after the look wakes the wait.
            let closed = self.pulse.borrow_and_update().closed;
            if let Some(next) = self.look() {
                return next;
            }
            if closed || self.pulse.changed().await.is_err() {
                return Next::Closed;
            }
        }
    }

    fn look(&mut self) -> Option<Next> {
        let (next, at) = self.hub.with(|state| {
            let found = self.at.ok_or(super::ring::Moved).and_then(|at| state.ring.after(at, BATCH));
            match found {
                Ok(events) => {
                    let at = events.last()?.id;
                    Some((Next::Events(events), at))
                }
                Err(_) => {
                    let (at, mut snapshot) = (state.ring.last(), state.snapshot());
                    snapshot["messages_url"] = json!(format!("/api/v1/sessions/{}/messages", self.hub.id));
                    Some((Next::Snapshot(at, snapshot), at))
                }
            }
        })?;
        self.at = Some(at);
        Some(next)
    }
}
