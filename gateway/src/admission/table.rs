//! Which turn may begin next. Does no I/O and reads no clock.
//!
//! There is room for so many turns, of all tenants, of one, and of one user. What comes when there is none waits:
//! first come, first served within a user; between the users of a tenant, and between tenants, whoever has the
//! fewest turns running is next, and among equals whoever was served longest ago. So a tenant that asks for a
//! hundred times its share waits for itself, not the others for it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use jetway_config::{Identity, TenantId, UserId};

/// How much there is, for one who asks. It may differ from one time to the next: the last word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Turns running at a time.
    pub(crate) running: Bounds,
    /// Turns waiting at a time.
    pub(crate) waiting: Bounds,
    /// How long one may wait.
    pub(crate) wait: Duration,
}

/// Bounds on one thing, from the widest to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) all: usize,
    pub(crate) tenant: usize,
    pub(crate) user: usize,
}

/// A turn that waits; later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// What became of a turn that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It may begin.
    Begins,
    /// It waits, until then at the latest.
    Waits(Ticket, Instant),
    /// There is no use in waiting.
    Refused(Full),
}

/// Why there is no use in waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) why: Why,
    /// In how long a turn that came now would begin, as far as the last turns tell.
    pub(crate) clears_in: Duration,
}

/// See [`Full`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// As many wait as may.
    Queue,
    /// Its time would be over before its turn came.
    Wait,
}

/// What became of a turn that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may begin.
    Begins(Ticket),
    /// Its time was over.
    Expired(Ticket),
}

/// What nothing is known of yet takes so long.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// The turns that run and those that wait.
#[derive(Debug)]
pub(crate) struct Table {
    running: usize,
    waiting: usize,
    all: usize,
    tickets: u64,
    served: u64,
    takes: Takes,
    tenants: HashMap<TenantId, Tenant, ahash::RandomState>,
}

#[derive(Debug)]
struct Tenant {
    running: usize,
    waiting: usize,
    most: usize,
    /// When it was last served, counted in turns.
    served: u64,
    takes: Takes,
    users: HashMap<UserId, User, ahash::RandomState>,
}

#[derive(Debug)]
struct User {
    running: usize,
    most: usize,
    served: u64,
    queue: VecDeque<(Ticket, Instant)>,
}

/// Who is next: fewest running, then longest not served, then first come.
type Rank = (usize, u64, Ticket);

impl Default for Table {
    fn default() -> Self {
        Self {
            running: 0,
            waiting: 0,
            all: usize::MAX,
            tickets: 0,
            served: 0,
            takes: Takes(FIRST_GUESS),
            tenants: HashMap::default(),
        }
    }
}

impl Table {
    /// A turn of `who` is to begin.
    pub(crate) fn ask(&mut self, who: &Identity, room: Room, now: Instant) -> Asked {
        self.all = room.running.all;
        let (served, takes) = (self.served, self.takes);
        let tenant = self.tenants.entry(who.tenant.clone()).or_insert_with(|| Tenant::new(served, takes));
        tenant.most = room.running.tenant;
        let user = tenant.users.entry(who.user.clone()).or_insert_with(|| User::new(served));
        user.most = room.running.user;
        let free = user.queue.is_empty() && user.running < user.most;
        let asked = if free && tenant.running < tenant.most && self.running < self.all {
            self.begin(who);
            Asked::Begins
        } else {
            self.queue(who, room, now)
        };
        self.tidy(who);
        asked
    }

    fn queue(&mut self, who: &Identity, room: Room, now: Instant) -> Asked {
        let (served, takes) = (self.served, self.takes);
        let tenant = self.tenants.entry(who.tenant.clone()).or_insert_with(|| Tenant::new(served, takes));
        let (before, clears_in) = tenant.outlook(&who.user);
        let queue = &mut tenant.users.entry(who.user.clone()).or_insert_with(|| User::new(served)).queue;
        let waiting = Bounds { all: self.waiting, tenant: tenant.waiting, user: queue.len() };
        if !waiting.below(&room.waiting) {
            return Asked::Refused(Full { why: Why::Queue, clears_in });
        }
        if before > room.wait {
            return Asked::Refused(Full { why: Why::Wait, clears_in });
        }
        self.tickets += 1;
        let (ticket, until) = (Ticket(self.tickets), now + room.wait);
        queue.push_back((ticket, until));
        tenant.waiting += 1;
        self.waiting += 1;
        Asked::Waits(ticket, until)
    }

    /// A turn of `who` has ended after `took`. Appends what became of those that wait.
    pub(crate) fn end(&mut self, who: &Identity, took: Duration, now: Instant, effects: &mut Vec<Effect>) {
        let Some(tenant) = self.tenants.get_mut(&who.tenant) else { return };
        let Some(user) = tenant.users.get_mut(&who.user) else { return };
        user.running -= 1;
        tenant.running -= 1;
        self.running -= 1;
        tenant.takes.note(took);
        self.takes.note(took);
        self.tidy(who);
        while let Some(next) = self.next() {
            self.serve(&next, now, effects);
        }
    }

    /// A turn of `who` waits no longer; nothing happens if it does not.
    pub(crate) fn leave(&mut self, who: &Identity, ticket: Ticket) {
        let Some(tenant) = self.tenants.get_mut(&who.tenant) else { return };
        let Some(user) = tenant.users.get_mut(&who.user) else { return };
        let Some(at) = user.queue.iter().position(|(t, _)| *t == ticket) else { return };
        user.queue.remove(at);
        tenant.waiting -= 1;
        self.waiting -= 1;
        self.tidy(who);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// In how long a turn of `who` that came now would begin.
    pub(crate) fn clears_in(&self, who: &Identity) -> Duration {
        self.tenants.get(&who.tenant).map_or(self.takes.0, |tenant| tenant.outlook(&who.user).1)
    }

    fn next(&self) -> Option<Identity> {
        if self.waiting == 0 || self.running >= self.all {
            return None;
        }
        let ranked = self.tenants.iter().filter(|(_, t)| t.waiting > 0 && t.running < t.most);
        let ranked = ranked.filter_map(|(id, tenant)| {
            let (user, (_, _, first)) = tenant.next()?;
            Some(((tenant.running, tenant.served, first), id, user))
        });
        let (_, tenant, user) = ranked.min_by_key(|(rank, ..)| *rank)?;
        Some(Identity { tenant: tenant.clone(), user: user.clone() })
    }

    fn serve(&mut self, who: &Identity, now: Instant, effects: &mut Vec<Effect>) {
        let Some(tenant) = self.tenants.get_mut(&who.tenant) else { return };
        let Some((ticket, until)) = tenant.users.get_mut(&who.user).and_then(|u| u.queue.pop_front()) else {
            return;
        };
        tenant.waiting -= 1;
        self.waiting -= 1;
        if until <= now {
            effects.push(Effect::Expired(ticket));
            self.tidy(who);
            return;
        }
        effects.push(Effect::Begins(ticket));
        self.begin(who);
    }

    fn begin(&mut self, who: &Identity) {
        let Some(tenant) = self.tenants.get_mut(&who.tenant) else { return };
        let Some(user) = tenant.users.get_mut(&who.user) else { return };
        self.served += 1;
        (tenant.served, user.served) = (self.served, self.served);
        user.running += 1;
        tenant.running += 1;
        self.running += 1;
    }

    /// Forgets whoever neither runs a turn nor waits for one.
    fn tidy(&mut self, who: &Identity) {
        let Some(tenant) = self.tenants.get_mut(&who.tenant) else { return };
        if tenant.users.get(&who.user).is_some_and(|u| u.running == 0 && u.queue.is_empty()) {
            tenant.users.remove(&who.user);
        }
        if tenant.users.is_empty() {
            self.tenants.remove(&who.tenant);
        }
    }
}

impl Bounds {
    fn below(&self, most: &Self) -> bool {
        self.all < most.all && self.tenant < most.tenant && self.user < most.user
    }
}

impl User {
    fn new(served: u64) -> Self {
        Self { running: 0, most: 0, served, queue: VecDeque::new() }
    }
}

impl Tenant {
    /// Whoever comes anew is as if just served: else, to leave and come back would be to jump the queue.
    fn new(served: u64, takes: Takes) -> Self {
        Self { running: 0, waiting: 0, most: 0, served, takes, users: HashMap::default() }
    }

    /// The user who is next, if there is room for one of them.
    fn next(&self) -> Option<(&UserId, Rank)> {
        let ranked = self.users.iter().filter(|(_, user)| user.running < user.most);
        let ranked = ranked.filter_map(|(id, user)| {
            let (first, _) = user.queue.front()?;
            Some((id, (user.running, user.served, *first)))
        });
        ranked.min_by_key(|(_, rank)| *rank)
    }

    /// What a turn of this user that came now would have to expect: the time until those before it have begun,
    /// and until it begins itself.
    fn outlook(&self, who: &UserId) -> (Duration, Duration) {
        let (own, running, most) =
            self.users.get(who).map_or((0, 0, 1), |u| (u.queue.len(), u.running, u.most));
        let (before, slots) = if running >= most {
            (own, running)
        } else {
            // Users take turns, so that no more of another's are before it than of its own.
            let others = self.users.iter().filter(|(id, _)| *id != who);
            let others: usize = others.map(|(_, user)| user.queue.len().min(own + 1)).sum();
            (own + others, self.running)
        };
        // Every slot is free again once in as long as a turn takes.
        let each = self.takes.0 / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        let times = |n: usize| each.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
        (times(before), times(before + 1))
    }
}

/// How long turns take, the last ones more than those before.
#[derive(Debug, Clone, Copy)]
struct Takes(Duration);

impl Takes {
    fn note(&mut self, took: Duration) {
        self.0 = (self.0 * 7 + took) / 8;
    }
}

#[cfg(test)]
mod tests;
