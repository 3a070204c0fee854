//! Why a server is left, and which ones went lately.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jetway_config::limits::DEPARTED_SERVERS;

use crate::{
    error::Gone,
    server::{Server, ServerId},
};

/// Why a server is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DrainReason {
    /// An operator asked for it.
    Operator,
    /// It is to be replaced by a fresh one.
    Recycle,
}

impl DrainReason {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Recycle => "recycle",
        }
    }
}

impl std::fmt::Display for DrainReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A life of a server that is over.
#[derive(Debug, Clone)]
pub struct Departed {
    /// Which server.
    pub id: ServerId,
    /// Of a process.
    pub pid: Option<u32>,
    /// When it ended.
    pub at: Instant,
    /// How long it was up.
    pub uptime: Duration,
    /// Why it ended.
    pub why: Gone,
}

/// The lives that ended last, newest last.
#[derive(Debug, Default)]
pub(crate) struct Departures(Mutex<VecDeque<Departed>>);

impl Departures {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Departed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, server: &Server, why: Gone) {
        let mut all = self.lock();
        if all.len() == DEPARTED_SERVERS {
            all.pop_front();
        }
        let (id, pid, uptime) = (server.id.clone(), server.pid, server.since.elapsed());
        all.push_back(Departed { id, pid, at: Instant::now(), uptime, why });
    }

    /// Newest first.
    pub(crate) fn list(&self) -> Vec<Departed> {
        self.lock().iter().rev().cloned().collect()
    }
}
