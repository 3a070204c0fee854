//! What a process holds and waits for, to be shown to its operator.

use crate::{book::Waiter, fence::Fence, key::Key, lease::Authority, store::Place};
use jetway_config::UserId;
use std::time::Duration;

/// A process's leases and those it waits for.
#[derive(Debug, Clone)]
pub struct Status {
    /// Oldest first.
    pub held: Vec<Held>,
    /// Oldest first.
    pub waiting: Vec<Waiting>,
}

/// A lease that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// Of which session.
    pub key: Key,
    /// Its number.
    pub fence: Fence,
    /// On whose behalf.
    pub who: UserId,
    /// For how long.
    pub time: Duration,
    /// Whether another process waits for it.
    pub wanted: bool,
}

/// A lease that is waited for.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Of which session.
    pub key: Key,
    /// On whose behalf.
    pub who: UserId,
    /// For how long.
    pub time: Duration,
    /// Where in line, as far as the store has said.
    pub place: Option<Place>,
}

impl Held {
    pub(crate) fn of(lease: &Authority) -> Self {
        Self {
            key: lease.key().clone(),
            fence: lease.fence(),
            who: lease.who(),
            time: lease.held_for(),
            wanted: lease.is_wanted(),
        }
    }
}

impl Waiting {
    pub(crate) fn of(waiter: &Waiter) -> Self {
        Self {
            key: waiter.key.clone(),
            who: waiter.who.clone(),
            time: waiter.since.elapsed(),
            place: waiter.place.clone(),
        }
    }
}
