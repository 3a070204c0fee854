//! What is done about processes from time to time: measured, stopped when nobody uses them, replaced when they are worn,
//! cleaned up after.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jetway_config::{Identity, TenantId};
use tokio::time::timeout_at;
use tracing::info;

use super::{PerUser, Running, Ticket, ticket};
use crate::{
    drain::DrainReason,
    error::StopReason,
    memory::{self, Memory},
    recycle::{Step, Vitals},
    server::Server,
    slots::{Slot, Slots},
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

    /// Stops processes that nobody uses of tenants that have more than `most`; returns which tenants have too many
    /// still, and how many.
    pub(crate) fn trim(&self, most: impl Fn(&TenantId) -> usize) -> Vec<(TenantId, usize)> {
        let (stopped, over) = self.slots().trim(most, Instant::now(), ticket);
        for evicted in stopped {
            evicted.stop.send_replace(Some(StopReason::Evicted));
        }
        self.moved.notify_one();
        over
    }

    /// Looks at what the processes hold.
    fn measure(&self) -> Memory {
        let running = |slot: &Slot<Running, Ticket>| match slot {
            Slot::Running { server, .. } => Some(server.server.clone()),
            _ => None,
        };
        let servers: Vec<_> = self.slots().iter().filter_map(|(_, slot)| running(slot)).collect();
        let (mut used, mut shared) = (0, 0);
        for server in &servers {
            let bytes = server.pid.map_or(0, memory::private_bytes);
            server.tally.memory.store(bytes, Ordering::Relaxed);
            used += bytes;
            shared = shared.max(server.pid.map_or(0, memory::shared_bytes));
        }
        let used = used + shared;
        self.memory_used.store(used, Ordering::Relaxed);
        telemetry::memory(used, self.memory_budget);
        let memory = Memory { used, processes: servers.len(), budget: self.memory_budget };
        self.slots().limit(self.max.min(memory.fits()));
        memory
    }

    /// Has worn processes stopped when they are quiet.
    fn recycle(&self, slots: &mut Slots<Running, Ticket>, now: Instant) {
        let running = |(who, slot): (&Identity, &Slot<Running, Ticket>)| match slot {
            Slot::Running { server, attachments, draining, .. } => {
                let vitals = self.vitals(&server.server, *attachments > 0, *draining, now);
                Some((server.server.incarnation, (who.clone(), vitals)))
            }
            _ => None,
        };
        let running: BTreeMap<_, _> = slots.iter().filter_map(running).collect();
        let vitals: Vec<_> = running.iter().map(|(life, (_, vitals))| (*life, *vitals)).collect();
        for step in self.recycler().look(&vitals, now) {
            // None is spared: the next use makes a fresh one.
            let Step::Leave(life, cause) = step else { continue };
            let (who, _) = &running[&life];
            telemetry::recycling(cause);
            info!(tenant = %who.tenant, user = %who.user, reason = %cause, "a CLI process is worn and is left");
            self.leave(slots, who, DrainReason::Recycle);
        }
    }

    fn vitals(&self, server: &Server, used: bool, draining: Option<DrainReason>, now: Instant) -> Vitals {
        Vitals {
            hung: server.tally.silence(|silence| silence.is_hung(self.failures)),
            memory: server.memory(),
            slower: server.tally.slower(),
            age: now.saturating_duration_since(server.since),
            turns: server.tally.turns.load(Ordering::Relaxed),
            sessions: server.tally.sessions.load(Ordering::Relaxed),
            used,
            open: draining.is_none(),
            draining,
        }
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
        pool.recycle(&mut slots, now);
        slots.forget(now);
        // What only time changes: processes that have come up are not used, or take long.
        pool.advance(&mut slots);
    }
}

/// Starts processes as soon as something makes that possible.
pub(super) async fn move_line(pool: Arc<PerUser>) {
    let mut due = None;
    let moved = async |due: Option<Instant>| match due {
        Some(due) => timeout_at(due.into(), pool.moved.notified()).await.unwrap_or(()),
        None => pool.moved.notified().await,
    };
    while pool.closing.run_until_cancelled(moved(due)).await.is_some() {
        due = pool.advance(&mut pool.slots());
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
