//! How long everything takes, derived from one setting.

use std::time::Duration;

/// A point on a clock that only goes forward: the time since some fixed instant. Moments of different
/// clocks (a process's, a store's) are never compared.
pub type Moment = Duration;

/// The times of a lease. All follow from its time to live, so that they keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long the store keeps a lease that is not renewed.
    pub ttl: Duration,
    /// How long the holder trusts it, from before the command was sent: shorter than `ttl` by what clocks
    /// may drift and a timer be late.
    pub validity: Duration,
    /// How often leases are renewed: three chances within their validity, nearly.
    pub renew_every: Duration,
    /// How long the first in line has to take up a lease that it is offered. A dead one is skipped after it.
    pub offer: Duration,
    /// How long one command to the store may take.
    pub command: Duration,
    /// How long a store that has been restarted and kept its data grants nothing, so that holders can
    /// reinstate what it had not yet written down.
    pub settle: Duration,
}

impl Rules {
    /// The times for leases that live for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            validity: ttl - ttl / 10,
            renew_every: ttl / 3,
            offer: Duration::from_millis(1200).min(ttl),
            command: Duration::from_secs(1).min(ttl / 4),
            settle: Duration::from_secs(3).min(ttl),
        }
    }
}
