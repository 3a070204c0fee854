//! Which users have a process, and who must make room. Pure: no processes, no clock, no waiting.
//!
//! A slot is `Starting → Running → Stopping → gone`, or falls out of any of these when its process ends.
//! `S` is a running server, `T` a ticket that tells those who wait when a slot leaves its state.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jetway_config::Identity;

use crate::{backoff::Backoff, drain::DrainReason};

/// How long a process that has just come up waits for those who wanted it, before it may be taken from them.
const FRESH: Duration = Duration::from_secs(1);

pub(crate) struct Slots<S, T> {
    max: usize,
    slots: HashMap<Identity, Slot<S, T>>,
    /// Users whose CLI died lately: forgotten by [`Slots::forget`].
    deaths: HashMap<Identity, Backoff>,
}

pub(crate) enum Slot<S, T> {
    Starting {
        ticket: T,
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
    /// The caller is to start one, after `delay`, and then to wait; the slot is taken. `evicted` is to be
    /// stopped: until it has ended there is one process too many.
    Start { ticket: T, delay: Duration, evicted: Option<S> },
    /// It died too often.
    Backoff { failures: u32, remaining: Duration },
    /// Every process is in use.
    Full,
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
            Self::Starting { ticket } | Self::Stopping { ticket } => Some(ticket),
            Self::Running { .. } => None,
        }
    }
}

impl<S: Clone, T: Clone> Slots<S, T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, slots: HashMap::new(), deaths: HashMap::new() }
    }

    /// How many processes there may be from now on. More than that may run already.
    pub(crate) fn limit(&mut self, max: usize) {
        self.max = max;
    }

    /// One more use of the server of `who`, which is started if need be. `ticket` is made for a state to be
    /// waited for.
    pub(crate) fn want(
        &mut self,
        who: &Identity,
        now: Instant,
        longest_delay: Duration,
        mut ticket: impl FnMut() -> T,
    ) -> Want<S, T> {
        match self.slots.get_mut(who) {
            Some(Slot::Running { server, attachments, used, fresh, .. }) => {
                *attachments += 1;
                (*used, *fresh) = (now, false);
                return Want::Attached(server.clone());
            }
            Some(Slot::Starting { ticket } | Slot::Stopping { ticket }) => return Want::Wait(ticket.clone()),
            None => {}
        }
        let delay = self.deaths.get(who).map_or(Duration::ZERO, |b| b.remaining(now));
        if delay > longest_delay {
            return Want::Backoff { failures: self.deaths[who].failures(), remaining: delay };
        }
        // One that is stopping makes room for somebody already, or is about to be gone.
        let live = self.slots.values().filter(|s| !matches!(s, Slot::Stopping { .. })).count();
        let mut evicted = None;
        if live >= self.max {
            let Some(idlest) = self.least_recently_used(now) else { return Want::Full };
            evicted = self.stop(&idlest, ticket());
        }
        let ticket = ticket();
        self.slots.insert(who.clone(), Slot::Starting { ticket: ticket.clone() });
        Want::Start { ticket, delay, evicted }
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
            let idlest = slots.least_recently_used(now)?;
            slots.stop(&idlest, ticket())
        };
        (0..count).map_while(|_| next(self)).collect()
    }

    /// Drops what is too old to matter.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.deaths.retain(|_, backoff| !backoff.is_over(now));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Identity, &Slot<S, T>)> {
        self.slots.iter()
    }

    /// How often in a row the process of `who` has died.
    pub(crate) fn deaths(&self, who: &Identity) -> u32 {
        self.deaths.get(who).map_or(0, Backoff::failures)
    }

    fn least_recently_used(&self, now: Instant) -> Option<Identity> {
        let idle = self.slots.iter().filter_map(|(who, slot)| match slot {
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 3;
    const TIMEOUT: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(1);

    fn user(n: usize) -> Identity {
        Identity { tenant: "acme".parse().unwrap(), user: format!("user-{n}").parse().unwrap() }
    }

    /// What a naive reader of the rules keeps about a user. Servers are numbers, tickets are users.
    #[derive(Debug, Clone, PartialEq)]
    enum Model {
        Starting,
        Running { server: usize, attachments: usize, used: Instant, fresh: bool, draining: bool },
        Stopping,
    }

    proptest! {
        #[test]
        fn laws(steps in prop::collection::vec((0..9_u8, 0..6_usize, 0..50_u64), 0..300)) {
            let mut now = Instant::now();
            let mut slots: Slots<usize, ()> = Slots::new(MAX);
            let mut model: BTreeMap<usize, Model> = BTreeMap::new();
            let mut servers = 0;
            for (what, n, seconds) in steps {
                let who = user(n);
                match what {
                    0 | 1 => {
                        let live = model.values().filter(|m| **m != Model::Stopping).count();
                        let idlest = model.iter().filter_map(|(n, m)| match m {
                            Model::Running { attachments: 0, used, fresh, .. }
                                if !fresh || now.duration_since(*used) >= FRESH => Some((*used, user(*n), *n)),
                            _ => None,
                        }).min();
                        match (slots.want(&who, now, LONGEST, || ()), model.get_mut(&n)) {
                            (Want::Attached(s), Some(Model::Running { server, attachments, used, fresh, .. })) => {
                                prop_assert_eq!(s, *server);
                                *attachments += 1;
                                (*used, *fresh) = (now, false);
                            }
                            (Want::Wait(()), Some(Model::Starting | Model::Stopping)) => {}
                            (Want::Full, None) => prop_assert!(live == MAX && idlest.is_none()),
                            (Want::Start { delay, evicted, .. }, None) => {
                                prop_assert!(delay <= LONGEST);
                                prop_assert_eq!(evicted.is_some(), live == MAX);
                                if let Some(evicted) = evicted {
                                    let (_, _, idlest) = idlest.unwrap();
                                    let stopping = model.insert(idlest, Model::Stopping);
                                    let same = matches!(stopping, Some(Model::Running { server, .. }) if server == evicted);
                                    prop_assert!(same);
                                }
                                model.insert(n, Model::Starting);
                            }
                            (Want::Backoff { remaining, .. }, None) => prop_assert!(remaining > LONGEST),
                            (_, expected) => prop_assert!(false, "expected {:?}", expected),
                        }
                    }
                    2 => if model.get(&n) == Some(&Model::Starting) {
                        servers += 1;
                        prop_assert!(slots.started(&who, servers, now).is_some());
                        let fresh = Model::Running { server: servers, attachments: 0, used: now, fresh: true, draining: false };
                        model.insert(n, fresh);
                    },
                    3 => if let Some(state) = model.remove(&n) {
                        if state != Model::Stopping {
                            slots.died(&who, Duration::ZERO, now);
                        }
                        let told = slots.ended(&who).is_some();
                        prop_assert_eq!(told, !matches!(state, Model::Running { .. }));
                    },
                    4 => if let Some(Model::Running { server, attachments: count @ 1.., used, draining, .. }) = model.get_mut(&n) {
                        let stopped = slots.release(&who, now, |s| s == server, || ());
                        (*count, *used) = (*count - 1, now);
                        let last = *count == 0 && *draining;
                        prop_assert_eq!(stopped.is_some(), last);
                        if last {
                            model.insert(n, Model::Stopping);
                        }
                    } else {
                        // The end of an attachment to a server that is gone.
                        prop_assert!(slots.release(&who, now, |s| *s == usize::MAX, || ()).is_none());
                    },
                    7 => {
                        let drained = slots.drain(&who, DrainReason::Operator, || ());
                        match model.get_mut(&n) {
                            Some(Model::Running { server, attachments: 1.., draining, .. }) => {
                                prop_assert_eq!(drained, Some((*server, Drained::Later)));
                                *draining = true;
                            }
                            Some(running @ Model::Running { .. }) => {
                                prop_assert!(matches!(drained, Some((_, Drained::Now))));
                                *running = Model::Stopping;
                            }
                            _ => prop_assert_eq!(drained, None),
                        }
                    }
                    8 => if let Some(Model::Running { server, draining, .. }) = model.get_mut(&n) {
                        prop_assert_eq!(slots.undrain(&who), Some(*server));
                        *draining = false;
                    },
                    5 => {
                        let mut expected = Vec::new();
                        for state in model.values_mut() {
                            if let Model::Running { server, attachments: 0, used, .. } = *state
                                && now.duration_since(used) >= TIMEOUT
                            {
                                expected.push(server);
                                *state = Model::Stopping;
                            }
                        }
                        let mut stopped = slots.stop_idle(TIMEOUT, now, || ());
                        stopped.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(stopped, expected);
                        slots.forget(now);
                    }
                    _ => now += Duration::from_secs(seconds),
                }
                prop_assert!(model.values().filter(|m| **m != Model::Stopping).count() <= MAX);
                prop_assert_eq!(slots.iter().count(), model.len());
            }
        }
    }
}
