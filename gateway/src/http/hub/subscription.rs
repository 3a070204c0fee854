//! Reading events at one's own pace.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    Hub,
    ring::{Event, EventId, Moved},
};

/// How many events are taken at a time, under their lock.
const BATCH: usize = 256;

/// What events are read from.
pub(in crate::http) trait Source: Send + Sync {
    /// At most `most` events after `place`, oldest first.
    fn after(&self, place: EventId, most: usize) -> Result<Vec<Arc<Event>>, Moved>;

    /// How things stand, and the latest event that is part of that.
    fn snapshot(&self) -> (EventId, Value);

    /// Wakes readers.
    fn pulse(&self) -> watch::Receiver<Pulse>;
}

/// Something new is there; or nothing more will be, and why.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct Pulse {
    pub(in crate::http) over: Option<Over>,
}

/// Why there will be no more events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Over {
    /// There is nothing more to tell of.
    Ended,
    /// This gateway stops.
    Stopping,
}

/// A reader's place in events.
pub(in crate::http) struct Subscription {
    source: Arc<dyn Source>,
    at: Option<EventId>,
    pulse: watch::Receiver<Pulse>,
}

/// What comes next.
pub(in crate::http) enum Next {
    Events(Vec<Arc<Event>>),
    /// What came after the reader's place is not here any more; this is how things stand.
    Snapshot(EventId, Value),
    /// There will be no more.
    Over(Over),
}

impl Hub {
    /// The place of the latest event.
    pub(in crate::http) fn place(&self) -> EventId {
        self.with(|s| s.ring.last())
    }

    /// Begins to read after `place`: now, if that is `None`; by a snapshot, if it is unknown.
    pub(in crate::http) fn subscribe(self: &Arc<Self>, place: Option<Place>) -> Subscription {
        Subscription::new(self.clone(), place)
    }
}

impl Source for Hub {
    fn after(&self, place: EventId, most: usize) -> Result<Vec<Arc<Event>>, Moved> {
        self.with(|state| state.ring.after(place, most))
    }

    fn snapshot(&self) -> (EventId, Value) {
        let (at, mut snapshot) = self.with(|state| (state.ring.last(), state.snapshot()));
        snapshot["messages_url"] = json!(format!("/api/v1/sessions/{}/messages", self.id()));
        (at, snapshot)
    }

    fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
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
    /// Begins to read after `place`: now, if that is `None`; by a snapshot, if it is unknown.
    pub(in crate::http) fn new(source: Arc<dyn Source>, place: Option<Place>) -> Self {
        let pulse = source.pulse();
        let at = match place {
            None => Some(source.snapshot().0),
            Some(Place::After(id)) => Some(id),
            Some(Place::Unknown) => None,
        };
        Self { source, at, pulse }
    }

    /// Waits for what comes next. Cancelling it loses nothing.
    pub(in crate::http) async fn next(&mut self) -> Next {
        loop {
            // Before looking: what comes after the look wakes the wait.
            let over = self.pulse.borrow_and_update().over;
            if let Some(next) = self.look() {
                return next;
            }
            if let Some(over) = over {
                return Next::Over(over);
            }
            if self.pulse.changed().await.is_err() {
                return Next::Over(Over::Ended);
            }
        }
    }

    fn look(&mut self) -> Option<Next> {
        let found = self.at.ok_or(Moved).and_then(|at| self.source.after(at, BATCH));
        let (next, at) = match found {
            Ok(events) => {
                let at = events.last()?.id;
                (Next::Events(events), at)
            }
            Err(Moved) => {
                let (at, snapshot) = self.source.snapshot();
                (Next::Snapshot(at, snapshot), at)
            }
        };
        self.at = Some(at);
        Some(next)
    }
}
