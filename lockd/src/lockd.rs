//! The handle of a process: takes leases, waits for them, gives them back.

use crate::{
    attempt::{Attempt, Step},
    book::Book,
    error::AcquireError,
    fence::Fence,
    key::Key,
    lease::{Authority, Lease},
    line::InLine,
    metrics::{self, Level},
    redis::RedisStore,
    rules::{Moment, Rules},
    status::{Held, Status, Waiting},
    store::{Answer, Ear, Enter, Heard, Leave, MemoryStore, Node, Place, Store, StoreError, Ticket},
    watchdog,
};
use futures_util::future::{BoxFuture, FutureExt};
use jetway_config::{
    UserId,
    stores::{self, LockStore, Locks},
};
use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Between two tries to give a lease back.
const RETRY: Duration = Duration::from_millis(200);

/// Reads the highest fence that is durably stored for a session; [`Fence::NONE`] if there is none. A new
/// lease's fence is above it, whatever the store of leases remembers.
pub type Floors = Arc<dyn Fn(&Key) -> BoxFuture<'static, io::Result<Fence>> + Send + Sync>;

/// For sessions whose fences nobody stores.
pub fn no_floors() -> Floors {
    Arc::new(|_| async { Ok(Fence::NONE) }.boxed())
}

/// This process's leases; clones are the same. To be [shut down](Lockd::shutdown), not just dropped.
#[derive(Clone, Debug)]
pub struct Lockd(Arc<Inner>);

pub(crate) struct Inner {
    node: Node,
    pub(crate) store: Store,
    pub(crate) rules: Rules,
    floors: Floors,
    max_waiters: usize,
    /// Where this process's moments count from.
    pub(crate) base: Instant,
    seq: AtomicU64,
    book: Mutex<Book>,
    pub(crate) watch_changed: Notify,
    /// What gives leases back, and those who will have to.
    pub(crate) leaving: TaskTracker,
    /// The watchdog and the keeper of the connection.
    background: TaskTracker,
    runtime: Handle,
    /// No more leases are taken.
    closed: CancellationToken,
    /// The watchdog and the connection end.
    pub(crate) stop: CancellationToken,
}

impl Lockd {
    /// Leases in the store that the configuration names.
    ///
    /// # Errors
    /// If Redis cannot be reached or may evict keys.
    pub async fn open(locks: &Locks, redis: &stores::Redis, floors: Floors) -> Result<Self, StoreError> {
        match locks.store {
            LockStore::Memory => Ok(Self::over(&MemoryStore::new(locks.ttl), locks, floors)),
            LockStore::Redis => {
                let (node, slot) = (Node(rand::random()), Arc::default());
                let store = RedisStore::connect(redis, Rules::new(locks.ttl), node, ear(&slot)).await?;
                let mend = store.clone().mend();
                let lockd = Self::start(Store::Redis(store), locks, floors, node, &slot);
                let stop = lockd.0.stop.clone();
                lockd.0.background.spawn(async move { stop.run_until_cancelled(mend).await });
                Ok(lockd)
            }
        }
    }

    /// Leases in a store of this process, which other handles may share.
    pub fn over(store: &MemoryStore, locks: &Locks, floors: Floors) -> Self {
        let (node, slot) = (Node(rand::random()), Arc::default());
        store.attach(node, ear(&slot));
        Self::start(Store::Memory(store.clone()), locks, floors, node, &slot)
    }

    fn start(store: Store, locks: &Locks, floors: Floors, node: Node, slot: &OnceLock<Weak<Inner>>) -> Self {
        let rules = Rules::new(locks.ttl);
        let inner = Arc::new(Inner {
            node,
            store,
            rules,
            floors,
            max_waiters: locks.max_waiters,
            base: Instant::now(),
            seq: AtomicU64::new(1),
            book: Mutex::new(Book::new(rules)),
            watch_changed: Notify::new(),
            leaving: TaskTracker::new(),
            background: TaskTracker::new(),
            runtime: Handle::current(),
            closed: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        // Set once: nobody else has the slot.
        let _ = slot.set(Arc::downgrade(&inner));
        inner.background.spawn(watchdog::run(Arc::clone(&inner)));
        Self(inner)
    }

    /// Takes the lease of a session on behalf of `who`, first come first served; waits in line until
    /// `deadline`, or not at all if that has passed. Dropping the future leaves the line.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, key: &Key, who: &UserId, deadline: Instant) -> Result<Lease, AcquireError> {
        let begun = Instant::now();
        let outcome = tokio::select! {
            biased;
            () = self.0.closed.cancelled() => Err(AcquireError::Closed),
            outcome = self.0.acquire(key, who, begun, deadline) => outcome,
        };
        let name = outcome.as_ref().map_or_else(AcquireError::as_str, |_| "held");
        metrics::waited(Level::Lease, name, begun.elapsed());
        outcome
    }

    /// Where this process stands in line for a session's lease, if it does.
    pub fn place(&self, key: &Key) -> Option<Place> {
        self.0.book().waiters.values().find(|waiter| waiter.key == *key)?.place.clone()
    }

    /// What this process holds and waits for.
    pub fn status(&self) -> Status {
        let book = self.0.book();
        let held = book.leases.values().map(Held::of).collect();
        let waiting = book.waiters.values().map(Waiting::of).collect();
        Status { held, waiting }
    }

    /// Takes no more leases, waits until those that have been dropped are given back, and stops renewing.
    /// Leases still held are lost to their holders when their time is up: drop them before.
    pub async fn shutdown(&self) {
        self.0.closed.cancel();
        self.0.leaving.close();
        self.0.leaving.wait().await;
        self.0.stop.cancel();
        self.0.background.close();
        self.0.background.wait().await;
        if let Store::Memory(store) = &self.0.store {
            store.detach(self.0.node);
        }
    }
}

/// Hears for a process that is still being made.
fn ear(slot: &Arc<OnceLock<Weak<Inner>>>) -> Ear {
    let slot = Arc::clone(slot);
    Arc::new(move |heard| {
        if let Some(lockd) = slot.get().and_then(Weak::upgrade) {
            lockd.heard(heard);
        }
    })
}

impl Inner {
    pub(crate) fn now(&self) -> Moment {
        self.base.elapsed()
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, heard: Heard) {
        if self.book().heard(self.now(), heard) {
            self.watch_changed.notify_one();
        }
    }

    async fn acquire(
        self: &Arc<Self>,
        key: &Key,
        who: &UserId,
        begun: Instant,
        deadline: Instant,
    ) -> Result<Lease, AcquireError> {
        let floor = timeout(self.rules.command, (self.floors)(key)).await;
        let floor = floor.map_err(|_| AcquireError::FloorTimedOut(self.rules.command))?;
        let floor = floor.map_err(|e| AcquireError::Floor(Arc::new(e)))?;

        let ticket = Ticket { node: self.node, seq: self.seq.fetch_add(1, Ordering::Relaxed) };
        let max_waiters = if deadline <= begun { 0 } else { self.max_waiters };
        let enter = Enter { key: key.clone(), ticket, who: who.clone(), floor, max_waiters };
        let attempt = Attempt::new(self.rules, deadline.saturating_duration_since(self.base));
        let mut line = InLine::new(self, &enter);
        let mut failure = None;
        loop {
            let sent = self.now();
            line.sending();
            let answer = timeout(self.rules.command * 2, self.store.enter(&enter)).await;
            let answer = match answer {
                Ok(Ok(answer)) => Some(answer),
                // Why it is down has been said before.
                Ok(Err(StoreError::Down)) if failure.is_some() => None,
                Ok(Err(source)) => {
                    failure = Some(AcquireError::Store { after: begun.elapsed(), source });
                    None
                }
                Err(_) => {
                    failure = Some(AcquireError::StoreTimedOut(self.rules.command * 2));
                    None
                }
            };
            if let Some(Answer::Waiting(place)) = &answer {
                failure = None;
                line.stands_at(place);
            }
            let mut step = attempt.answered(sent, self.now(), answer);
            if let Step::Wait(until) = step {
                line.wait(until).await;
                step = attempt.woken(self.now());
            }
            match step {
                Step::Held { fence, until, wanted } => return Ok(line.held(fence, until, wanted)),
                Step::Full(place) => {
                    line.turned_away();
                    return Err(AcquireError::Busy(place));
                }
                Step::TimedOut => {
                    let in_line =
                        line.place().map(|place| AcquireError::TimedOut { after: begun.elapsed(), place });
                    let silent = AcquireError::StoreTimedOut(begun.elapsed());
                    return Err(failure.or(in_line).unwrap_or(silent));
                }
                Step::Enter | Step::Wait(_) => {}
            }
        }
    }

    /// From now on a lease is over here; the store is to be told.
    pub(crate) fn ended(&self, lease: &Authority) {
        lease.end(None);
        let seq = lease.ticket().seq;
        let mut book = self.book();
        book.leases.remove(&seq);
        book.watch.release(seq);
    }

    /// A task tells the store that a ticket is over.
    pub(crate) fn leave(self: &Arc<Self>, leave: Leave) {
        let this = Arc::clone(self);
        self.leaving.spawn_on(async move { this.tell(&leave).await }, &self.runtime);
    }

    /// Tells the store that a ticket is over, for as long as it would take the store to find out.
    pub(crate) async fn tell(&self, leave: &Leave) {
        let until = Instant::now() + self.rules.ttl;
        loop {
            match timeout(self.rules.command * 2, self.store.leave(leave)).await {
                Ok(Ok(())) => return,
                _ if Instant::now() + RETRY >= until => return,
                _ => sleep(RETRY).await,
            }
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lockd").field("node", &self.node).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Notice, What};
    use jetway_config::Identity;

    #[tokio::test]
    async fn a_lease_can_be_wanted_before_its_holder_knows_of_it() {
        let ttl = Duration::from_secs(10);
        let locks = Locks { store: LockStore::Memory, ttl, wait: ttl, max_waiters: 1 };
        let lockd = Lockd::over(&MemoryStore::new(ttl), &locks, no_floors());
        let inner = &lockd.0;
        let (who, tenant): (UserId, _) = ("ada".parse().unwrap(), "acme".parse().unwrap());
        let key = Key { owner: Identity { tenant, user: who.clone() }, session: "s".parse().unwrap() };
        let [first, second] = [1, 2].map(|seq| Enter {
            key: key.clone(),
            ticket: Ticket { node: Node(1), seq },
            who: who.clone(),
            floor: Fence::NONE,
            max_waiters: 0,
        });
        let (overtaken, other) = (InLine::new(inner, &first), InLine::new(inner, &second));
        inner.book().heard(inner.now(), Heard::Notice(Notice { ticket: first.ticket, what: What::Wanted }));
        let until = inner.now() + ttl;
        assert!(overtaken.held(Fence::from_u64(1), until, false).is_wanted());
        assert!(!other.held(Fence::from_u64(2), until, false).is_wanted());
        lockd.shutdown().await;
    }
}
