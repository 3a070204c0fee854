//! Which users have a process, who is next to have one, and who must make room. Pure: no processes, no clock, no waiting.
//!
//! A slot is `Waiting → Starting → Running → Stopping → gone`, or falls out of any of these when its process ends.
//! `S` is a running server, `T` a ticket that tells those who wait when a slot leaves its state.
//!
//! Only so many are started at a time. A host that is asked for more processes than it has processors for would start
//! all of them, none in time, and stop idle ones for them that are asked for next.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use jetway_config::{Identity, TenantId, limits};

use crate::{backoff::Backoff, drain::DrainReason, error::Whose};

/// After how long a process that starts does not keep others from starting.
const LONG_START: Duration = Duration::from_secs(2);

/// How long a process that has just come up waits for those who wanted it, before it may be taken from them.
const FRESH: Duration = Duration::from_secs(1);

pub(crate) struct Slots<S, T> {
    max: usize,
    /// How many may be starting at a time.
    starts: usize,
    slots: HashMap<Identity, Slot<S, T>>,
    /// Those whose slots are waiting. Within a tenant it is first come, first served.
    line: VecDeque<Identity>,
    /// Users whose CLI died lately: forgotten by [`Slots::forget`].
    deaths: HashMap<Identity, Backoff>,
}

pub(crate) enum Slot<S, T> {
    /// In line for a process of at most `of_tenant` of the tenant.
    Waiting {
        ticket: T,
        of_tenant: usize,
        since: Instant,
    },
    Starting {
        ticket: T,
        since: Instant,
    },
    /// `fresh`: those who waited for it have not attached yet.
    Running {
        server: S,
        attachments: usize,
        used: Instant,
        fresh: bool,
        /// It is to be stopped as soon as nobody uses it.
        draining: Option<DrainReason>,
    },
    Stopping {
        ticket: T,
    },
}

/// What a user who wants a server gets.
pub(crate) enum Want<S, T> {
    /// It runs, and one more attachment is counted.
    Attached(S),
    /// Ask again once the ticket tells.
    Wait(T),
    /// It died too often.
    Backoff { failures: u32, remaining: Duration },
    /// Too many wait for theirs.
    Full,
}

/// What can be done for those in line.
pub(crate) enum Next<S> {
    /// One is to be started; the slot is taken. `evicted` is to be stopped: until it has ended there is one process too
    /// many.
    Start { who: Identity, since: Instant, evicted: Option<S> },
    /// Nothing, until something changes.
    Nothing(Lack),
}

/// What those in line wait for.
#[derive(Debug, Default)]
pub(crate) struct Lack {
    /// Of these tenants, or of anybody (`None`), somebody has to let go of a process.
    pub(crate) short: Vec<Option<TenantId>>,
    /// Then it may be the turn of somebody whose CLI died lately.
    pub(crate) due: Option<Instant>,
}

/// What keeps somebody in line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Every process that could make room is in use.
    Full(Whose),
    /// Others are started first.
    Behind,
}

/// When a server that is to be drained is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// At once.
    Now,
    /// With its last use.
    Later,
}

impl<S, T> Slot<S, T> {
    fn ticket(self) -> Option<T> {
        match self {
            Self::Waiting { ticket, .. } | Self::Starting { ticket, .. } | Self::Stopping { ticket } => {
                Some(ticket)
            }
            Self::Running { .. } => None,
        }
    }
}

impl<S: Clone, T: Clone> Slots<S, T> {
    pub(crate) fn new(max: usize, starts: usize) -> Self {
        Self { max, starts, slots: HashMap::new(), line: VecDeque::new(), deaths: HashMap::new() }
    }

    /// How many processes there may be from now on. More than that may run already.
    pub(crate) fn limit(&mut self, max: usize) {
        self.max = max;
    }

    /// One more use of the server of `who`, who is put in line for one if need be, as one of at most `of_tenant` of
    /// that tenant. `ticket` is made for a state to be waited for.
    pub(crate) fn want(
        &mut self,
        who: &Identity,
        of_tenant: usize,
        now: Instant,
        longest_delay: Duration,
        ticket: impl FnOnce() -> T,
    ) -> Want<S, T> {
        match self.slots.get_mut(who) {
            Some(Slot::Running { server, attachments, used, fresh, .. }) => {
                *attachments += 1;
                (*used, *fresh) = (now, false);
                return Want::Attached(server.clone());
            }
            Some(
                Slot::Waiting { ticket, .. } | Slot::Starting { ticket, .. } | Slot::Stopping { ticket },
            ) => {
                return Want::Wait(ticket.clone());
            }
            None => {}
        }
        let delay = self.delay(who, now);
        if delay > longest_delay {
            return Want::Backoff { failures: self.deaths[who].failures(), remaining: delay };
        }
        if self.line.len() >= limits::WAITING_FOR_PROCESSES {
            return Want::Full;
        }
        let ticket = ticket();
        let waiting = Slot::Waiting { ticket: ticket.clone(), of_tenant, since: now };
        self.slots.insert(who.clone(), waiting);
        self.line.push_back(who.clone());
        Want::Wait(ticket)
    }

    /// Whose process is to be started now. Who is not `awaited` any more leaves the line.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        awaited: impl Fn(&T) -> bool,
        ticket: impl FnOnce() -> T,
    ) -> Next<S> {
        let slots = &mut self.slots;
        self.line.retain(|who| {
            let stays = matches!(slots.get(who), Some(Slot::Waiting { ticket, .. }) if awaited(ticket));
            if !stays {
                slots.remove(who);
            }
            stays
        });
        let (place, idlest) = match self.pick(now) {
            Ok(picked) => picked,
            Err(lack) => return Next::Nothing(lack),
        };
        let evicted = idlest.and_then(|idlest| self.stop(&idlest, ticket()));
        let waiting = self.line.remove(place).and_then(|who| self.slots.remove_entry(&who));
        let Some((who, Slot::Waiting { ticket, since, .. })) = waiting else {
            return Next::Nothing(Lack::default());
        };
        self.slots.insert(who.clone(), Slot::Starting { ticket, since: now });
        Next::Start { who, since, evicted }
    }

    /// Whose turn it is, by their place in line, and who makes room for them; else why it is nobody's.
    fn pick(&self, now: Instant) -> Result<(usize, Option<Identity>), Lack> {
        let mut lack = Lack::default();
        // The usual case, with every end of an attachment, does not look at all slots.
        if self.line.is_empty() {
            return Err(lack);
        }
        let starting = self.starting(now);
        if starting.values().sum::<usize>() >= self.starts {
            return Err(lack);
        }
        // Tenants that have fewest on their way first: however many of one come, others are next.
        let mut order: Vec<_> = self.line.iter().enumerate().collect();
        order.sort_by_key(|(_, who)| starting.get(&who.tenant));
        let live = self.live();
        for (place, who) in order {
            let delay = self.delay(who, now);
            if !delay.is_zero() {
                lack.due = Some(lack.due.map_or(now + delay, |due| due.min(now + delay)));
                continue;
            }
            let Some(whose) = self.crowded(who, &live) else { return Ok((place, None)) };
            let among = (whose == Whose::Tenant).then(|| who.tenant.clone());
            // Else one was looked for in vain already.
            if !lack.short.contains(&among) {
                match self.least_recently_used(among.as_ref(), now) {
                    Some(idlest) => return Ok((place, Some(idlest))),
                    None => lack.short.push(among),
                }
            }
        }
        Err(lack)
    }

    /// What keeps `who` in line; `None` for who is not in line.
    pub(crate) fn held(&self, who: &Identity) -> Option<Held> {
        let Slot::Waiting { .. } = self.slots.get(who)? else { return None };
        Some(self.crowded(who, &self.live()).map_or(Held::Behind, Held::Full))
    }

    /// Nobody is started any more; whom to tell.
    pub(crate) fn dissolve(&mut self) -> Vec<T> {
        let line = std::mem::take(&mut self.line);
        line.iter().filter_map(|who| self.slots.remove(who)).filter_map(Slot::ticket).collect()
    }

    /// One more use of the server of `who`, if it runs.
    pub(crate) fn attach(&mut self, who: &Identity, now: Instant) -> Option<S> {
        match self.slots.get_mut(who)? {
            Slot::Running { server, attachments, used, fresh, .. } => {
                *attachments += 1;
                (*used, *fresh) = (now, false);
                Some(server.clone())
            }
            _ => None,
        }
    }

    /// One use less of `server`, which may be gone already. Returns it, on its way out, if it was being drained
    /// and this was the last use.
    pub(crate) fn release(
        &mut self,
        who: &Identity,
        now: Instant,
        same: impl Fn(&S) -> bool,
        ticket: impl FnOnce() -> T,
    ) -> Option<(S, DrainReason)> {
        let Slot::Running { server, attachments, used, draining, .. } = self.slots.get_mut(who)? else {
            return None;
        };
        if !same(server) {
            return None;
        }
        *attachments = attachments.saturating_sub(1);
        *used = now;
        let reason = draining.filter(|_| *attachments == 0)?;
        Some((self.stop(who, ticket())?, reason))
    }

    /// The server of `who` is to be stopped when nobody uses it; it is returned, on its way out, if that is now.
    /// `None` when it does not run.
    pub(crate) fn drain(
        &mut self,
        who: &Identity,
        reason: DrainReason,
        ticket: impl FnOnce() -> T,
    ) -> Option<(S, Drained)> {
        let Slot::Running { server, attachments, draining, .. } = self.slots.get_mut(who)? else {
            return None;
        };
        let (server, used) = (server.clone(), *attachments > 0);
        draining.get_or_insert(reason);
        if used {
            return Some((server, Drained::Later));
        }
        self.stop(who, ticket()).map(|server| (server, Drained::Now))
    }

    /// The server of `who` stays after all; it is returned if it runs.
    pub(crate) fn undrain(&mut self, who: &Identity) -> Option<S> {
        let Slot::Running { server, draining, .. } = self.slots.get_mut(who)? else { return None };
        *draining = None;
        Some(server.clone())
    }

    /// The started process is ready; whom to tell.
    pub(crate) fn started(&mut self, who: &Identity, server: S, now: Instant) -> Option<T> {
        let running = Slot::Running { server, attachments: 0, used: now, fresh: true, draining: None };
        self.slots.insert(who.clone(), running).and_then(Slot::ticket)
    }

    /// The process of `who` has ended, or did not come up; whom to tell.
    pub(crate) fn ended(&mut self, who: &Identity) -> Option<T> {
        self.slots.remove(who).and_then(Slot::ticket)
    }

    /// The process of `who` died; its slot stays as it is.
    pub(crate) fn died(&mut self, who: &Identity, ran_for: Duration, now: Instant) {
        self.deaths.entry(who.clone()).or_insert_with(|| Backoff::new(now)).failed(ran_for, now);
    }

    /// The wait before the next try at starting the process of `who`.
    pub(crate) fn delay(&self, who: &Identity, now: Instant) -> Duration {
        self.deaths.get(who).map_or(Duration::ZERO, |b| b.remaining(now))
    }

    /// Those that nothing has used for `timeout`, on their way out.
    pub(crate) fn stop_idle(
        &mut self,
        timeout: Duration,
        now: Instant,
        mut ticket: impl FnMut() -> T,
    ) -> Vec<S> {
        let idle = |slot: &Slot<S, T>| matches!(slot, Slot::Running { attachments: 0, used, .. } if now.saturating_duration_since(*used) >= timeout);
        let users: Vec<_> =
            self.slots.iter().filter(|(_, slot)| idle(slot)).map(|(u, _)| u.clone()).collect();
        users.iter().filter_map(|who| self.stop(who, ticket())).collect()
    }

    /// Up to `count` of those that nobody uses, least recently used first, on their way out.
    pub(crate) fn stop_least_recently_used(
        &mut self,
        count: usize,
        now: Instant,
        mut ticket: impl FnMut() -> T,
    ) -> Vec<S> {
        let mut next = |slots: &mut Self| {
            let idlest = slots.least_recently_used(None, now)?;
            slots.stop(&idlest, ticket())
        };
        (0..count).map_while(|_| next(self)).collect()
    }

    /// A tenant may have `most` from now on, whoever is in line. Returns those that nobody uses of tenants that have
    /// more, on their way out; and how many too many such tenants have still.
    pub(crate) fn trim(
        &mut self,
        most: impl Fn(&TenantId) -> usize,
        now: Instant,
        mut ticket: impl FnMut() -> T,
    ) -> (Vec<S>, Vec<(TenantId, usize)>) {
        for (who, slot) in &mut self.slots {
            if let Slot::Waiting { of_tenant, .. } = slot {
                *of_tenant = most(&who.tenant);
            }
        }
        let counts: Vec<_> = self.live().into_iter().map(|(tenant, n)| (tenant.clone(), n)).collect();
        let (mut stopped, mut over) = (Vec::new(), Vec::new());
        for (tenant, count) in counts {
            let mut excess = count.saturating_sub(most(&tenant));
            while excess > 0
                && let Some(idlest) = self.least_recently_used(Some(&tenant), now)
            {
                stopped.extend(self.stop(&idlest, ticket()));
                excess -= 1;
            }
            if excess > 0 {
                over.push((tenant, excess));
            }
        }
        (stopped, over)
    }

    /// Drops what is too old to matter.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.deaths.retain(|_, backoff| !backoff.is_over(now));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Identity, &Slot<S, T>)> {
        self.slots.iter()
    }

    pub(crate) fn get(&self, who: &Identity) -> Option<&Slot<S, T>> {
        self.slots.get(who)
    }

    /// How often in a row the process of `who` has died.
    pub(crate) fn deaths(&self, who: &Identity) -> u32 {
        self.deaths.get(who).map_or(0, Backoff::failures)
    }

    /// Whose CLI died so lately that it is left alone: how often in a row, and for how long yet.
    pub(crate) fn backing_off(&self, now: Instant) -> impl Iterator<Item = (&Identity, u32, Duration)> {
        let left = self.deaths.iter().filter(|(who, _)| !self.slots.contains_key(who));
        let left = left.map(move |(who, backoff)| (who, backoff.failures(), backoff.remaining(now)));
        left.filter(|(_, _, remaining)| !remaining.is_zero())
    }

    /// How many there are of each tenant. One that is stopping makes room for somebody already, or is about to be gone.
    fn live(&self) -> HashMap<&TenantId, usize> {
        self.count(|slot| matches!(slot, Slot::Starting { .. } | Slot::Running { .. }))
    }

    /// How many of each tenant are starting. One that takes long is not counted any more: it may never be ready, and
    /// others are to be.
    fn starting(&self, now: Instant) -> HashMap<&TenantId, usize> {
        let young = |since: Instant| now.saturating_duration_since(since) < LONG_START;
        self.count(|slot| matches!(slot, Slot::Starting { since, .. } if young(*since)))
    }

    fn count(&self, which: impl Fn(&Slot<S, T>) -> bool) -> HashMap<&TenantId, usize> {
        let mut counts = HashMap::new();
        for (who, _) in self.slots.iter().filter(|(_, slot)| which(slot)) {
            *counts.entry(&who.tenant).or_default() += 1;
        }
        counts
    }

    /// Whose processes leave none for `who`. Within a tenant that has all it may have its own make room, which is room
    /// on the host as well.
    fn crowded(&self, who: &Identity, live: &HashMap<&TenantId, usize>) -> Option<Whose> {
        let own = live.get(&who.tenant).map_or(0, |count| *count);
        match self.slots.get(who) {
            Some(Slot::Waiting { of_tenant, .. }) if own >= *of_tenant => Some(Whose::Tenant),
            _ => (live.values().sum::<usize>() >= self.max).then_some(Whose::Host),
        }
    }

    fn least_recently_used(&self, tenant: Option<&TenantId>, now: Instant) -> Option<Identity> {
        let own = self.slots.iter().filter(|(who, _)| tenant.is_none_or(|tenant| who.tenant == *tenant));
        let idle = own.filter_map(|(who, slot)| match slot {
            Slot::Running { attachments: 0, used, fresh, .. } if !fresh || now >= *used + FRESH => {
                Some((used, who))
            }
            _ => None,
        });
        idle.min().map(|(_, who)| who.clone())
    }

    fn stop(&mut self, who: &Identity, ticket: T) -> Option<S> {
        let slot = self.slots.get_mut(who)?;
        if !matches!(slot, Slot::Running { .. }) {
            return None;
        }
        match std::mem::replace(slot, Slot::Stopping { ticket }) {
            Slot::Running { server, .. } => Some(server),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
