//! One attempt at a lease: what to do after each answer of the store. No clock and no I/O.

use crate::{
    fence::Fence,
    rules::{Moment, Rules},
    store::{Answer, Place},
};
use std::time::Duration;

/// Between a lease's end in the store and looking whether it has ended.
const SLACK: Duration = Duration::from_millis(20);

/// Between two tries at a store that does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// An attempt at a lease.
#[derive(Debug, Clone)]
pub struct Attempt {
    rules: Rules,
    deadline: Moment,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The lease is held. It may be used until `until`, whatever happens.
    Held {
        /// Its number.
        fence: Fence,
        /// The holder's own deadline.
        until: Moment,
        /// Whether others are in line.
        wanted: bool,
    },
    /// Enter (again) now.
    Enter,
    /// Enter again then, or sooner if a notice says so.
    Wait(Moment),
    /// Leave and give up: the deadline has passed.
    TimedOut,
    /// Give up: there is no room in line.
    Full(Place),
}

impl Attempt {
    /// An attempt that is given up at `deadline`.
    pub fn new(rules: Rules, deadline: Moment) -> Self {
        Self { rules, deadline }
    }

    /// The store answered, or did not, to a command sent at `sent`, which is before it was carried out.
    pub fn answered(&self, sent: Moment, now: Moment, answer: Option<Answer>) -> Step {
        match answer {
            Some(Answer::Held { fence, wanted }) => {
                let until = sent + self.rules.validity;
                if now < until {
                    return Step::Held { fence, until, wanted };
                }
                // Too late to be trusted; entering again says whether it is still ours.
                self.woken(now)
            }
            Some(Answer::Waiting(place)) => {
                // The next in line looks when the holder's time is up. The others look now and then: what
                // they should have been told may have been lost.
                let after = if place.ahead == 0 { place.left + SLACK } else { self.rules.ttl };
                self.wait(now, now + after)
            }
            Some(Answer::Full(place)) => Step::Full(place),
            Some(Answer::Unseeded) | None => self.wait(now, now + RETRY),
        }
    }

    /// The time waited for has come.
    pub fn woken(&self, now: Moment) -> Step {
        if now >= self.deadline { Step::TimedOut } else { Step::Enter }
    }

    fn wait(&self, now: Moment, until: Moment) -> Step {
        if now >= self.deadline { Step::TimedOut } else { Step::Wait(until.min(self.deadline)) }
    }
}
