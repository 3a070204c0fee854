//! A lease that is held, and what it allows.

use crate::{
    fence::Fence,
    key::Key,
    lockd::Inner,
    metrics::{self, Level},
    rules::Moment,
    store::{Leave, Ticket},
    watch::Cause,
};
use jetway_config::UserId;
use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The right to act for a session: clones can be given to whoever must not act without it. It ends with
/// its lease, however that ends.
#[derive(Clone)]
pub struct Authority(Arc<State>);

struct State {
    key: Key,
    ticket: Ticket,
    fence: Fence,
    base: Instant,
    since: Instant,
    who: Mutex<UserId>,
    /// Nanoseconds after `base`; 0 once the lease is over.
    until: AtomicU64,
    /// The same, but kept when it is over.
    deadline: AtomicU64,
    signals: watch::Sender<Signals>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Signals {
    wanted: bool,
    over: Option<Option<Cause>>,
}

impl Authority {
    pub(crate) fn new(key: Key, ticket: Ticket, fence: Fence, who: UserId, base: Instant) -> Self {
        Self(Arc::new(State {
            key,
            ticket,
            fence,
            base,
            since: Instant::now(),
            who: Mutex::new(who),
            until: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            signals: watch::Sender::new(Signals::default()),
        }))
    }

    /// What is held.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Its number: to be stored where the session's state is, and refused there when it is not the highest.
    pub fn fence(&self) -> Fence {
        self.0.fence
    }

    /// On whose behalf.
    pub fn who(&self) -> UserId {
        self.0.who.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until when one may act; it moves with every renewal, and into the past when the lease is over.
    pub fn valid_until(&self) -> Instant {
        self.0.base + Duration::from_nanos(self.0.until.load(Ordering::Acquire))
    }

    /// Until when one could have acted had the lease not ended before.
    pub fn deadline(&self) -> Instant {
        self.0.base + Duration::from_nanos(self.0.deadline.load(Ordering::Acquire))
    }

    /// Whether one may act. To be asked before every single thing that is done.
    pub fn is_live(&self, now: Instant) -> bool {
        now < self.valid_until()
    }

    /// Completes when the lease is over: with the cause if it was lost, with none if it was given back.
    pub async fn over(&self) -> Option<Cause> {
        let mut signals = self.0.signals.subscribe();
        // The sender is alive as long as `self` is.
        signals.wait_for(|signals| signals.over.is_some()).await.ok().and_then(|signals| signals.over?)
    }

    /// Completes when another process waits for the lease.
    pub async fn wanted(&self) {
        let mut signals = self.0.signals.subscribe();
        let _ = signals.wait_for(|signals| signals.wanted).await;
    }

    /// Whether another process waits for the lease.
    pub fn is_wanted(&self) -> bool {
        self.0.signals.borrow().wanted
    }

    /// For how long the lease has been held.
    pub fn held_for(&self) -> Duration {
        self.0.since.elapsed()
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.0.ticket
    }

    pub(crate) fn set_who(&self, who: UserId) {
        *self.0.who.lock().unwrap_or_else(PoisonError::into_inner) = who;
    }

    /// Only forward, and not once it is over.
    pub(crate) fn extend(&self, until: Moment) {
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.0.signals.send_if_modified(|signals| {
            if signals.over.is_none() {
                self.0.deadline.fetch_max(until, Ordering::AcqRel);
                self.0.until.fetch_max(until, Ordering::AcqRel);
            }
            false
        });
    }

    pub(crate) fn set_wanted(&self) {
        self.0.signals.send_if_modified(|signals| !std::mem::replace(&mut signals.wanted, true));
    }

    /// Ends it, once: false if it had ended before.
    pub(crate) fn end(&self, cause: Option<Cause>) -> bool {
        self.0.signals.send_if_modified(|signals| {
            let first = signals.over.is_none();
            if first {
                signals.over = Some(cause);
                self.0.until.store(0, Ordering::Release);
            }
            first
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("key", &self.0.key).field("fence", &self.0.fence).finish()
    }
}

/// A session that no other process acts for. Dropping it gives it back; see [`Lease::release`].
#[must_use = "a lease that is dropped is given back"]
#[derive(Debug)]
pub struct Lease {
    authority: Authority,
    /// What the store is told at the end; none once it is being told.
    leave: Option<Leave>,
    lockd: Arc<Inner>,
}

impl Lease {
    pub(crate) fn new(authority: Authority, leave: Leave, lockd: Arc<Inner>) -> Self {
        Self { authority, leave: Some(leave), lockd }
    }

    /// The right that the lease gives.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// On whose behalf it is held from now on. Others see it after the next renewal.
    pub fn set_who(&self, who: &UserId) {
        self.authority.set_who(who.clone());
    }

    /// Gives the lease back and waits until the store knows, or cannot be told. What is not awaited to its
    /// end is done all the same.
    pub async fn release(mut self) {
        self.lockd.ended(&self.authority);
        if let Some(leave) = &self.leave {
            self.lockd.tell(leave).await;
        }
        self.leave = None;
    }
}

impl Deref for Lease {
    type Target = Authority;

    fn deref(&self) -> &Authority {
        &self.authority
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        metrics::holding(Level::Lease, -1.0);
        metrics::held(Level::Lease, self.authority.held_for());
        if let Some(leave) = self.leave.take() {
            self.lockd.ended(&self.authority);
            self.lockd.leave(leave);
        }
    }
}
