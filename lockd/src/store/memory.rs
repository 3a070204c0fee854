//! The lease table of one process, under a mutex.

use super::{Answer, Ear, Enter, Heard, Leave, Node, Notice, Renew, Renewed};
use crate::{
    fence::Fence,
    rules::{Moment, Rules},
    table::Table,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Leases kept in this process; clones share them.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    start: Instant,
    table: Mutex<Table>,
    ears: Mutex<HashMap<Node, Ear>>,
}

impl MemoryStore {
    /// An empty table for leases that live for `ttl`. It grants at once: what a former process held is gone
    /// with that process.
    pub fn new(ttl: Duration) -> Self {
        let table = Table::begin(Rules::new(ttl), Fence::at(SystemTime::now()));
        Self(Arc::new(Shared { start: Instant::now(), table: Mutex::new(table), ears: Mutex::default() }))
    }

    pub(crate) fn attach(&self, node: Node, ear: Ear) {
        self.0.ears.lock().unwrap_or_else(PoisonError::into_inner).insert(node, ear);
    }

    pub(crate) fn detach(&self, node: Node) {
        self.0.ears.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    pub(crate) fn enter(&self, enter: &Enter) -> Answer {
        let (answer, notices) = self.with(|table, now| table.enter(now, enter));
        self.tell(notices);
        answer
    }

    pub(crate) fn leave(&self, leave: &Leave) {
        let notices = self.with(|table, now| table.leave(now, leave));
        self.tell(notices);
    }

    pub(crate) fn renew(&self, lease: &Renew) -> Renewed {
        self.with(|table, now| table.renew(now, lease)).unwrap_or(Renewed::Gone)
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Table, Moment) -> T) -> T {
        let mut table = self.0.table.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&mut table, self.0.start.elapsed())
    }

    fn tell(&self, notices: Vec<Notice>) {
        for notice in notices {
            let ear =
                self.0.ears.lock().unwrap_or_else(PoisonError::into_inner).get(&notice.ticket.node).cloned();
            if let Some(ear) = ear {
                ear(Heard::Notice(notice));
            }
        }
    }
}
