//! What each tenant and each user has of what lasts: connections, requests lately, bytes of requests under way.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};
use tokio::time::Instant;

use jetway_config::{Identity, TenantId, tenants::Tenant};

/// A request of no more is not counted by its bytes: as many as may be under way take little.
pub(crate) const SMALL: usize = 64 << 10;

/// After so long without a request a rate is as new.
const FULL_AGAIN: Duration = Duration::from_secs(1);

/// How many entries are looked through in vain at most, for each that is made.
const SWEEP: usize = 64;

/// Everybody's.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Use, ahash::RandomState>,
    users: HashMap<Identity, Use, ahash::RandomState>,
    /// How many there may be before those that count for nothing go.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Use {
    connections: usize,
    /// Of requests, and of frames that are not complete.
    bytes: usize,
    incoming: usize,
    rate: Option<(NonZeroU32, DefaultDirectRateLimiter)>,
    last: Option<Instant>,
}

/// Something that somebody has, until this is dropped.
#[derive(Debug)]
pub(crate) struct Has {
    usage: Arc<Usage>,
    who: Identity,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Connection,
    Bytes(usize),
    Incoming(usize),
}

/// There is no more to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMore;

impl Usage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection.
    pub(crate) fn connect(self: &Arc<Self>, who: &Identity, limits: &Tenant) -> Result<Has, NoMore> {
        self.take(who, limits, limits.max_connections, What::Connection)
    }

    /// So many bytes of a request.
    pub(crate) fn hold(
        self: &Arc<Self>,
        who: &Identity,
        bytes: usize,
        limits: &Tenant,
    ) -> Result<Has, NoMore> {
        self.take(who, limits, limits.max_bytes_in_flight, What::Bytes(bytes))
    }

    /// So many bytes of a frame that is not complete. Apart from those of requests, so that a request that is one
    /// too many is refused as one, and only a crowd of unfinished frames costs their connections.
    pub(crate) fn receive(
        self: &Arc<Self>,
        who: &Identity,
        bytes: usize,
        limits: &Tenant,
    ) -> Result<Has, NoMore> {
        self.take(who, limits, limits.max_bytes_in_flight, What::Incoming(bytes))
    }

    fn take(
        self: &Arc<Self>,
        who: &Identity,
        limits: &Tenant,
        most: usize,
        what: What,
    ) -> Result<Has, NoMore> {
        let mut state = self.lock();
        let (tenant, user) = state.of(who);
        let fits = |used: &Use, most: usize| match what {
            What::Connection => used.connections < most,
            What::Bytes(bytes) => used.bytes.saturating_add(bytes) <= most,
            What::Incoming(bytes) => used.incoming.saturating_add(bytes) <= most,
        };
        if !fits(tenant, most) || !fits(user, limits.user_share.of(most)) {
            return Err(NoMore);
        }
        for used in [tenant, user] {
            match what {
                What::Connection => used.connections += 1,
                What::Bytes(bytes) => used.bytes += bytes,
                What::Incoming(bytes) => used.incoming += bytes,
            }
        }
        Ok(Has { usage: self.clone(), who: who.clone(), what })
    }

    /// One more request; how long to wait for it, if it is one too many.
    pub(crate) fn request(&self, who: &Identity, limits: &Tenant) -> Result<(), Duration> {
        let now = Instant::now();
        let rate =
            |n: usize| NonZeroU32::new(u32::try_from(n).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let all = rate(limits.requests_per_second as usize);
        let own = rate(limits.user_share.of(limits.requests_per_second as usize));
        let mut state = self.lock();
        let (tenant, user) = state.of(who);
        // The user's first: what it may not do is not on its tenant's account.
        user.request(own, now)?;
        tenant.request(all, now)
    }
}

impl State {
    fn of(&mut self, who: &Identity) -> (&mut Use, &mut Use) {
        if self.users.len() > self.sweep_at {
            let now = Instant::now();
            self.tenants.retain(|_, used| used.counts(now));
            self.users.retain(|_, used| used.counts(now));
            self.sweep_at = self.users.len() * 2 + SWEEP;
        }
        (self.tenants.entry(who.tenant.clone()).or_default(), self.users.entry(who.clone()).or_default())
    }
}

impl Use {
    fn request(&mut self, rate: NonZeroU32, now: Instant) -> Result<(), Duration> {
        self.last = Some(now);
        if self.rate.as_ref().is_none_or(|(set, _)| *set != rate) {
            self.rate = Some((rate, RateLimiter::direct(Quota::per_second(rate))));
        }
        let Some((_, limiter)) = &self.rate else { return Ok(()) };
        limiter.check().map_err(|early| early.wait_time_from(limiter.clock().now()))
    }

    fn counts(&self, now: Instant) -> bool {
        self.connections + self.bytes + self.incoming > 0
            || self.last.is_some_and(|last| now - last < FULL_AGAIN)
    }
}

impl Drop for Has {
    fn drop(&mut self) {
        let mut state = self.usage.lock();
        let State { tenants, users, .. } = &mut *state;
        for used in [tenants.get_mut(&self.who.tenant), users.get_mut(&self.who)].into_iter().flatten() {
            match self.what {
                What::Connection => used.connections -= 1,
                What::Bytes(bytes) => used.bytes -= bytes,
                What::Incoming(bytes) => used.incoming -= bytes,
            }
        }
    }
}
