//! The watchdog's mind: which leases are to be renewed when, and which are lost. No clock and no I/O.
//!
//! All leases of a process are renewed together, and one renewal is under way at a time: a store that does
//! not answer costs a process one command, not one per lease.

use crate::{
    fence::Fence,
    rules::{Moment, Rules},
    store::Renewed,
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Why a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The store did not confirm a renewal in time.
    Unreachable,
    /// The store says that it is not ours any more.
    Taken,
    /// This process did not run when it should have renewed.
    Stalled,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 3] = [Self::Unreachable, Self::Taken, Self::Stalled];

    /// As in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Taken => "taken",
            Self::Stalled => "stalled",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the lock store did not confirm it in time",
            Self::Taken => "the lock store has given it up or to another",
            Self::Stalled => "this process did not run when it should have renewed it",
        })
    }
}

/// The leases of a process, by ticket number.
#[derive(Debug, Clone)]
pub struct Watch {
    rules: Rules,
    leases: BTreeMap<u64, Kept>,
    /// When leases are to be renewed next; none while there are none, or a renewal is under way.
    renewal: Option<Moment>,
    under_way: bool,
    /// When the watchdog thinks that it will wake.
    armed: Option<Moment>,
}

#[derive(Debug, Clone)]
struct Kept {
    fence: Fence,
    until: Moment,
}

/// What is to be done on waking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    /// Leases that are lost from now on.
    pub lost: Vec<(u64, Cause)>,
    /// Leases to renew, all in one go; [`Watch::renewed`] is due once for all of them.
    pub renew: Vec<(u64, Fence)>,
    /// By how much this came too late.
    pub late: Duration,
}

/// What became of a renewal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// Leases that are lost from now on.
    pub lost: Vec<(u64, Cause)>,
    /// Leases that are kept, until when, and whether others are in line.
    pub kept: Vec<(u64, Moment, bool)>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, leases: BTreeMap::new(), renewal: None, under_way: false, armed: None }
    }

    /// Watches a lease that may be used until `until`. True if the watchdog must wake earlier than it
    /// thought.
    pub fn hold(&mut self, now: Moment, seq: u64, fence: Fence, until: Moment) -> bool {
        let first = self.leases.is_empty() && !self.under_way;
        self.leases.insert(seq, Kept { fence, until });
        if first {
            self.renewal = Some(now + self.rules.renew_every);
        }
        self.next().is_some_and(|next| self.armed.is_none_or(|armed| next < armed))
    }

    /// No longer watches a lease.
    pub fn release(&mut self, seq: u64) {
        self.leases.remove(&seq);
        if self.leases.is_empty() {
            self.renewal = None;
        }
    }

    /// Whether a lease may be used.
    pub fn is_live(&self, now: Moment, seq: u64) -> bool {
        self.leases.get(&seq).is_some_and(|lease| now < lease.until)
    }

    /// Renews as soon as possible: the store may have forgotten.
    pub fn hurry(&mut self, now: Moment) {
        if let Some(renewal) = &mut self.renewal {
            *renewal = (*renewal).min(now);
        }
    }

    /// When to [`wake`](Self::wake) next.
    pub fn next(&self) -> Option<Moment> {
        let deadline = self.leases.values().map(|lease| lease.until).min();
        self.renewal.into_iter().chain(deadline).min()
    }

    /// As [`next`](Self::next), for the watchdog that is going to sleep until then. Leases that come and go
    /// meanwhile need not disturb it.
    pub fn arm(&mut self) -> Option<Moment> {
        self.armed = self.next();
        self.armed
    }

    /// What is to be done by now.
    pub fn wake(&mut self, now: Moment) -> Wake {
        let Some(due) = self.next().filter(|due| *due <= now) else { return Wake::default() };
        let late = now - due;
        // Woken at its time, a lease whose deadline has come had been asked to be renewed; woken much
        // later, it had no chance.
        let cause = if late > self.rules.renew_every { Cause::Stalled } else { Cause::Unreachable };
        let lost: Vec<_> =
            self.leases.iter().filter(|(_, l)| l.until <= now).map(|(seq, _)| (*seq, cause)).collect();
        for (seq, _) in &lost {
            self.leases.remove(seq);
        }
        let mut renew = Vec::new();
        if self.renewal.is_some_and(|at| at <= now) {
            renew.extend(self.leases.iter().map(|(seq, lease)| (*seq, lease.fence)));
            self.renewal = None;
            self.under_way = !renew.is_empty();
        }
        if self.leases.is_empty() {
            self.renewal = None;
        }
        Wake { lost, renew, late }
    }

    /// The store answered a renewal sent at `sent`, or for some leases it did not. An answer that came after a
    /// lease's deadline does not bring it back.
    pub fn renewed(
        &mut self,
        sent: Moment,
        now: Moment,
        outcomes: impl IntoIterator<Item = (u64, Option<Renewed>)>,
    ) -> Answered {
        let until = sent + self.rules.validity;
        let (mut answered, mut all) = (Answered::default(), true);
        for (seq, outcome) in outcomes {
            let Some(lease) = self.leases.get_mut(&seq).filter(|lease| now < lease.until) else { continue };
            match outcome {
                Some(Renewed::Kept { wanted }) => {
                    lease.until = lease.until.max(until);
                    answered.kept.push((seq, lease.until, wanted));
                }
                Some(Renewed::Gone) => {
                    self.leases.remove(&seq);
                    answered.lost.push((seq, Cause::Taken));
                }
                None => all = false,
            }
        }
        self.under_way = false;
        if !self.leases.is_empty() {
            let after = if all { self.rules.renew_every } else { self.rules.renew_every / 4 };
            self.renewal = Some((sent + after).max(now));
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: fn() -> Rules = || Rules::new(Duration::from_secs(9));

    fn at(s: u64) -> Moment {
        Duration::from_secs(s)
    }

    fn fence() -> Fence {
        Fence::new(1, 1)
    }

    #[test]
    fn all_are_renewed_together_and_the_deadline_counts_from_the_sending() {
        let mut watch = Watch::new(RULES());
        assert!(watch.hold(at(0), 1, fence(), at(8)));
        assert_eq!(watch.arm(), Some(at(3)));
        assert!(!watch.hold(at(2), 2, fence(), at(10)));
        assert_eq!(watch.next(), Some(at(3)));
        assert_eq!(watch.wake(at(3)).renew, [(1, fence()), (2, fence())]);
        // Under way: only deadlines remain.
        assert_eq!(watch.next(), Some(at(8)));
        let kept = Some(Renewed::Kept { wanted: true });
        let Answered { lost, kept } = watch.renewed(at(3), at(5), [(1, kept), (2, Some(Renewed::Gone))]);
        assert_eq!(lost, [(2, Cause::Taken)]);
        assert_eq!(kept, [(1, at(3) + RULES().validity, true)]);
        assert_eq!(watch.next(), Some(at(6)));
    }

    #[test]
    fn past_its_deadline_a_lease_is_lost_whatever_the_store_says() {
        let mut watch = Watch::new(RULES());
        watch.hold(at(0), 1, fence(), at(8));
        assert_eq!(watch.wake(at(3)).renew.len(), 1);
        assert!(watch.is_live(at(7), 1) && !watch.is_live(at(8), 1));
        assert_eq!(
            watch.renewed(at(3), at(8), [(1, Some(Renewed::Kept { wanted: false }))]),
            Answered::default()
        );
        assert_eq!(watch.wake(at(8)).lost, [(1, Cause::Unreachable)]);
        assert_eq!(watch.next(), None);
    }

    #[test]
    fn a_process_that_stood_still_knows_it() {
        let mut watch = Watch::new(RULES());
        watch.hold(at(0), 1, fence(), at(8));
        let wake = watch.wake(at(27));
        assert_eq!((wake.lost, wake.renew, wake.late), (vec![(1, Cause::Stalled)], vec![], at(24)));
    }

    #[test]
    fn a_renewal_without_an_answer_is_soon_repeated() {
        let mut watch = Watch::new(RULES());
        watch.hold(at(0), 1, fence(), at(8));
        watch.wake(at(3));
        watch.renewed(at(3), at(5), [(1, None)]);
        assert_eq!(watch.next(), Some(at(5)));
    }
}
