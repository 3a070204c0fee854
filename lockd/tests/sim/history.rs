//! What happened, in the order of true time, and whether it may have.

use jetway_lockd::Fence;
use std::{collections::HashMap, time::Duration};

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at: Duration,
    pub(crate) session: usize,
    pub(crate) fence: Fence,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum What {
    /// The store granted a lease with this fence.
    Granted,
    /// Its holder may act until then, it thinks.
    Until(Duration),
    /// Its holder knows that it may not act any more, or is dead.
    Over,
    /// Something of its turn got through the last hop. The first of a fence begins the turn.
    Accepted,
    /// The end of its turn got through the last hop.
    Ended,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Violation {
    /// A fence was given that is not above all before.
    FenceNotAbove(Record2, Fence),
    /// Something old got through after something newer.
    Stale(Record2, Fence),
    /// A turn began while another ran whose holder had every reason to think that it may.
    Overlap(Record2, Fence),
}

/// When, of which session, with which fence.
pub(crate) type Record2 = (Duration, usize, Fence);

/// Checks a history. `exclusive` also asks that no two turns overlap; without it (a store whose clock
/// jumped promises no more) only what the fences promise is asked.
pub(crate) fn check(history: &[Record], exclusive: bool) -> Result<(), Violation> {
    let mut granted: HashMap<usize, Fence> = HashMap::new();
    let mut accepted: HashMap<usize, Fence> = HashMap::new();
    let mut running: HashMap<usize, Fence> = HashMap::new();
    let mut until: HashMap<(usize, Fence), Duration> = HashMap::new();
    for record in history {
        let Record { at, session, fence, what } = *record;
        let here = (at, session, fence);
        match what {
            What::Granted => {
                let highest = granted.entry(session).or_default();
                if fence <= *highest {
                    return Err(Violation::FenceNotAbove(here, *highest));
                }
                *highest = fence;
            }
            What::Until(moment) => {
                until.insert((session, fence), moment);
            }
            What::Over => {
                until.remove(&(session, fence));
            }
            What::Accepted => {
                let highest = accepted.entry(session).or_default();
                if fence < *highest {
                    return Err(Violation::Stale(here, *highest));
                }
                if fence > *highest {
                    let before = running.insert(session, fence);
                    let live = |f: &Fence| until.get(&(session, *f)).is_some_and(|until| at < *until);
                    if let Some(before) = before.filter(live).filter(|_| exclusive) {
                        return Err(Violation::Overlap(here, before));
                    }
                }
                *highest = fence;
            }
            What::Ended => {
                if running.get(&session) == Some(&fence) {
                    running.remove(&session);
                }
            }
        }
    }
    Ok(())
}
