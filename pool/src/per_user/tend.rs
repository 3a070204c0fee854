//! What is done about processes from time to time: measured, stopped when nobody uses them, cleaned up after.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::info;

use super::{PerUser, Running, Ticket, ticket};
use crate::{
    error::StopReason,
    memory::{self, Memory},
    slots::Slot,
    telemetry,
};

/// Between two looks for strays: each reads all of /proc.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often the idle ones are looked for.
const TICK: Duration = Duration::from_millis(500);

impl PerUser {
    pub(crate) fn memory(&self) -> Memory {
        let used = self.memory_used.load(Ordering::Relaxed);
        let processes = self.slots().iter().filter(|(_, slot)| matches!(slot, Slot::Running { .. })).count();
        Memory { used, processes, budget: self.memory_budget }
    }

    /// Looks at what the processes hold.
    fn measure(&self) -> Memory {
        let running = |slot: &Slot<Running, Ticket>| match slot {
            Slot::Running { server, .. } => Some(server.server.clone()),
            _ => None,
        };
        let servers: Vec<_> = self.slots().iter().filter_map(|(_, slot)| running(slot)).collect();
        let mut used = 0;
        for server in &servers {
            let bytes = server.pid.map_or(0, memory::private_bytes);
            server.account.memory.store(bytes, Ordering::Relaxed);
            used += bytes;
        }
        self.memory_used.store(used, Ordering::Relaxed);
        telemetry::memory(used, self.memory_budget);
        let memory = Memory { used, processes: servers.len(), budget: self.memory_budget };
        self.slots().limit(self.max.min(memory.fits()));
        memory
    }

    pub(super) async fn sweep(&self) {
        let marks = self.marks.clone();
        match tokio::task::spawn_blocking(move || marks.sweep()).await {
            Ok(0) | Err(_) => {}
            Ok(strays) => info!(strays, "killed what ended CLI processes had left running"),
        }
    }
}

/// Stops processes that nobody uses: after a while, and sooner when memory is short.
pub(super) async fn tend(pool: Arc<PerUser>) {
    let mut tick = tokio::time::interval(TICK);
    while pool.closing.run_until_cancelled(tick.tick()).await.is_some() {
        let now = Instant::now();
        let excess = pool.measure().excess();
        let mut slots = pool.slots();
        for idle in slots.stop_idle(pool.idle_timeout, now, ticket) {
            idle.stop.send_replace(Some(StopReason::Idle));
        }
        for evicted in slots.stop_least_recently_used(excess, now, ticket) {
            evicted.stop.send_replace(Some(StopReason::Evicted));
        }
        slots.forget(now);
    }
}

pub(super) async fn sweep_strays(pool: Arc<PerUser>) {
    let needed = async {
        loop {
            pool.strays.notified().await;
            pool.sweep().await;
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    };
    pool.closing.run_until_cancelled(needed).await;
}
