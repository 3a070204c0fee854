//! What this process holds and waits for: the one place that answers, notices and the watchdog meet.

use crate::{
    key::Key,
    lease::Authority,
    metrics,
    rules::{Moment, Rules},
    store::{Heard, Place, Renew, What},
    watch::{Cause, Watch},
};
use jetway_config::UserId;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::Notify, time::Instant};

/// By ticket number.
pub(crate) struct Book {
    pub(crate) watch: Watch,
    pub(crate) leases: BTreeMap<u64, Authority>,
    pub(crate) waiters: BTreeMap<u64, Waiter>,
}

pub(crate) struct Waiter {
    pub(crate) key: Key,
    pub(crate) who: UserId,
    pub(crate) since: Instant,
    pub(crate) place: Option<Place>,
    /// When a notice said to enter again.
    pub(crate) hint: Option<Moment>,
    pub(crate) hinted: Arc<Notify>,
    /// Others are in line behind a lease that it has by now: notices overtake the answer that says so.
    pub(crate) wanted: bool,
}

impl Waiter {
    fn hint(&mut self, at: Moment) {
        self.hint = Some(self.hint.map_or(at, |hint| hint.min(at)));
        self.hinted.notify_one();
    }
}

impl Book {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { watch: Watch::new(rules), leases: BTreeMap::new(), waiters: BTreeMap::new() }
    }

    /// True if the watchdog should look.
    pub(crate) fn heard(&mut self, now: Moment, heard: Heard) -> bool {
        match heard {
            Heard::Notice(notice) => {
                let (waiter, lease) =
                    (self.waiters.get_mut(&notice.ticket.seq), self.leases.get(&notice.ticket.seq));
                match (notice.what, waiter, lease) {
                    (What::Offered, Some(waiter), _) => waiter.hint(now),
                    (What::Next(after), Some(waiter), _) => waiter.hint(now + after),
                    (What::Wanted, _, Some(lease)) => lease.set_wanted(),
                    (What::Wanted, Some(waiter), None) => waiter.wanted = true,
                    // For one that is over: the store finds out by itself.
                    _ => {}
                }
                false
            }
            Heard::Back => {
                self.waiters.values_mut().for_each(|waiter| waiter.hint(now));
                self.watch.hurry(now);
                true
            }
        }
    }

    /// Ends leases that are lost.
    pub(crate) fn lose(&mut self, lost: &[(u64, Cause)]) {
        for (seq, cause) in lost {
            let Some(lease) = self.leases.remove(seq) else { continue };
            if lease.end(Some(*cause)) {
                metrics::lost(*cause);
                tracing::warn!(key = %lease.key(), fence = %lease.fence(), %cause, "lost a lease");
            }
        }
    }

    pub(crate) fn renewals<'a>(&'a self, seqs: impl Iterator<Item = u64> + 'a) -> Vec<Renew> {
        seqs.filter_map(|seq| self.leases.get(&seq))
            .map(|lease| Renew {
                key: lease.key().clone(),
                ticket: lease.ticket(),
                who: lease.who(),
                fence: lease.fence(),
            })
            .collect()
    }
}
