//! The lease table: who holds what, who is in line, which fence is next. No clock and no I/O: every call
//! takes the store's `now`. The in-process store is this table under a mutex; the scripts of the Redis
//! store do the same to keys, and tests hold the one against the other.
//!
//! A session's lease is free, *offered* to the first in line, or held. An offer is short and carries no
//! fence: the ticket stays in line until it takes the offer up, and the fence is given then, so that fences
//! grow in the order of grants. One that lets its offer lapse is dead, and so is all its node has in line.

use crate::{
    fence::Fence,
    key::Key,
    rules::{Moment, Rules},
    store::{Answer, Enter, Leave, Node, Notice, Place, Renew, Renewed, Ticket, What},
};
use jetway_config::UserId;
use std::collections::{HashMap, VecDeque};

/// The leases of all sessions.
#[derive(Debug, Clone)]
pub struct Table {
    rules: Rules,
    /// The last fence given; none before [`seed`](Table::seed).
    counter: Option<Fence>,
    /// Nothing is granted before.
    quarantine: Moment,
    /// Which run of the store this is.
    life: u64,
    slots: HashMap<Key, Slot>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    lease: Option<Lease>,
    line: VecDeque<InLine>,
}

#[derive(Debug, Clone)]
struct Lease {
    ticket: Ticket,
    who: UserId,
    /// None while it is only offered.
    fence: Option<Fence>,
    until: Moment,
}

#[derive(Debug, Clone)]
struct InLine {
    ticket: Ticket,
    who: UserId,
    offered: bool,
}

impl Table {
    /// A table that has lost its memory: it grants nothing before it is seeded.
    pub fn new(rules: Rules) -> Self {
        Self { rules, counter: None, quarantine: Moment::ZERO, life: 0, slots: HashMap::new() }
    }

    /// A table that begins together with the only process that uses it: it has nothing to remember.
    pub fn begin(rules: Rules, birth: Fence) -> Self {
        Self { counter: Some(birth.next_epoch()), ..Self::new(rules) }
    }

    /// Tells the highest fence that a process knows, the [epoch](Fence::at) of its clock, and which run of
    /// the store this is.
    ///
    /// A table without memory begins an epoch above it and grants nothing while a lease that it has
    /// forgotten may be live; its holder can [`renew`](Self::renew) it. One that was restarted with its
    /// memory may have lost the last of it, so it gives holders a moment to come back.
    pub fn seed(&mut self, now: Moment, floor: Fence, birth: Fence, life: u64) {
        match self.counter {
            Some(_) if self.life == life => return self.raise(floor),
            Some(_) => self.quarantine = self.quarantine.max(now + self.rules.settle),
            None => self.quarantine = self.quarantine.max(now + self.rules.ttl),
        }
        // What was given last may be forgotten in either case.
        let known = self.counter.unwrap_or_default().max(floor).max(birth);
        (self.counter, self.life) = (Some(known.next_epoch()), life);
    }

    /// See [`Enter`].
    pub fn enter(&mut self, now: Moment, enter: &Enter) -> (Answer, Vec<Notice>) {
        let Some(_) = self.counter else { return (Answer::Unseeded, Vec::new()) };
        self.raise(enter.floor);
        let mut notices = Vec::new();
        let slot = self.slots.entry(enter.key.clone()).or_default();
        slot.expire(now);

        let granted = match &mut slot.lease {
            Some(lease) if lease.ticket == enter.ticket => match lease.fence {
                // The answer to an earlier command was lost.
                Some(fence) => {
                    lease.until = now + self.rules.ttl;
                    return (Answer::Held { fence, wanted: !slot.line.is_empty() }, notices);
                }
                None => true,
            },
            Some(_) => false,
            None if now < self.quarantine => false,
            None => {
                // Late for its offer, but here before anybody else noticed.
                let late = slot.line.front().is_some_and(|first| first.ticket == enter.ticket);
                if !late {
                    slot.skip_dead(enter.ticket.node);
                }
                slot.line.front().is_none_or(|first| first.ticket == enter.ticket)
            }
        };
        if granted {
            slot.line.pop_front();
            let fence = self.counter.insert(self.counter.unwrap_or_default().next());
            let (ticket, who) = (enter.ticket, enter.who.clone());
            slot.lease = Some(Lease { ticket, who, fence: Some(*fence), until: now + self.rules.ttl });
            return (Answer::Held { fence: *fence, wanted: !slot.line.is_empty() }, notices);
        }
        if slot.lease.is_none() && now >= self.quarantine {
            slot.offer(now, self.rules, &mut notices);
        }
        let answer = slot.wait(now, self.quarantine, enter, &mut notices);
        self.tidy(&enter.key);
        (answer, notices)
    }

    /// See [`Leave`].
    pub fn leave(&mut self, now: Moment, leave: &Leave) -> Vec<Notice> {
        let mut notices = Vec::new();
        let Some(slot) = self.slots.get_mut(&leave.key) else { return notices };
        slot.expire(now);
        slot.line.retain(|waiter| waiter.ticket != leave.ticket);
        if slot.lease.as_ref().is_some_and(|lease| lease.ticket == leave.ticket) {
            slot.lease = None;
            slot.skip_dead(leave.ticket.node);
            if now >= self.quarantine {
                slot.offer(now, self.rules, &mut notices);
            }
        }
        self.tidy(&leave.key);
        notices
    }

    /// See [`Renew`]; none from a table that must be seeded first.
    pub fn renew(&mut self, now: Moment, renew: &Renew) -> Option<Renewed> {
        self.counter?;
        let until = now + self.rules.ttl;
        let slot = self.slots.entry(renew.key.clone()).or_default();
        slot.expire(now);
        let kept = match &mut slot.lease {
            Some(lease) if lease.ticket == renew.ticket && lease.fence.is_some() => {
                (lease.until, lease.who) = (until, renew.who.clone());
                true
            }
            // Reinstated: the holder knows that its time is not up, and nobody can have had it since.
            None if now < self.quarantine => {
                let (ticket, who) = (renew.ticket, renew.who.clone());
                slot.lease = Some(Lease { ticket, who, fence: Some(renew.fence), until });
                true
            }
            _ => false,
        };
        let wanted = !slot.line.is_empty();
        // Whoever has a fence tells it, so that it is not given again.
        self.raise(renew.fence);
        if !kept {
            self.tidy(&renew.key);
            return Some(Renewed::Gone);
        }
        Some(Renewed::Kept { wanted })
    }

    /// Who holds a session's lease, and its fence.
    pub fn holder(&self, now: Moment, key: &Key) -> Option<(Ticket, Fence)> {
        let lease = self.slots.get(key)?.lease.as_ref().filter(|lease| lease.until > now)?;
        Some((lease.ticket, lease.fence?))
    }

    /// The line for a session's lease, first to last; who has been offered it is still the first.
    pub fn line(&self, key: &Key) -> Vec<Ticket> {
        self.slots.get(key).map_or_else(Vec::new, |slot| slot.line.iter().map(|w| w.ticket).collect())
    }

    /// The last fence given.
    pub fn counter(&self) -> Option<Fence> {
        self.counter
    }

    fn tidy(&mut self, key: &Key) {
        if self.slots.get(key).is_some_and(|slot| slot.lease.is_none() && slot.line.is_empty()) {
            self.slots.remove(key);
        }
    }

    /// Above `floor` from now on. A counter below it has missed some fences, who knows how many.
    fn raise(&mut self, floor: Fence) {
        if self.counter.is_some_and(|counter| counter < floor) {
            self.counter = Some(floor.next_epoch());
        }
    }
}

impl Slot {
    fn expire(&mut self, now: Moment) {
        self.lease.take_if(|lease| lease.until <= now);
    }

    /// Removes those at the front whose offer has lapsed, with all that their nodes have in line. `alive`
    /// is the node that calls: of it, only the one.
    fn skip_dead(&mut self, alive: Node) {
        while let Some(dead) = self.line.pop_front_if(|first| first.offered) {
            if dead.ticket.node != alive {
                self.line.retain(|waiter| waiter.ticket.node != dead.ticket.node);
            }
        }
    }

    fn offer(&mut self, now: Moment, rules: Rules, notices: &mut Vec<Notice>) {
        let Some(first) = self.line.front_mut() else { return };
        first.offered = true;
        let (ticket, who) = (first.ticket, first.who.clone());
        self.lease = Some(Lease { ticket, who, fence: None, until: now + rules.offer });
        notices.push(Notice { ticket, what: What::Offered });
        if let Some(second) = self.line.get(1) {
            notices.push(Notice { ticket: second.ticket, what: What::Next(rules.offer) });
        }
    }

    /// Puts a ticket in line unless it stands there already.
    fn wait(&mut self, now: Moment, quarantine: Moment, enter: &Enter, notices: &mut Vec<Notice>) -> Answer {
        let until = self.lease.as_ref().map_or(quarantine, |lease| lease.until);
        let holder = self.lease.as_ref().map(|lease| lease.who.clone());
        let stands = self.line.iter().position(|waiter| waiter.ticket == enter.ticket);
        let place =
            Place { ahead: stands.unwrap_or(self.line.len()), holder, left: until.saturating_sub(now) };
        if stands.is_none() {
            if self.line.len() >= enter.max_waiters {
                return Answer::Full(place);
            }
            self.line.push_back(InLine { ticket: enter.ticket, who: enter.who.clone(), offered: false });
            if let Some(Lease { ticket, fence: Some(_), .. }) = self.lease {
                notices.push(Notice { ticket, what: What::Wanted });
            }
        }
        Answer::Waiting(place)
    }
}
