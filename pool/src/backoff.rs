//! How long a user's CLI that keeps dying is left alone. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// A process that ran for so long was well: what it dies of later is a new trouble. One that cannot work dies as it
/// starts or resumes its sessions, within tenths of a second; who is killed every few seconds from outside must not be
/// left alone for it, and one start in this time costs little.
pub(crate) const WELL_AFTER: Duration = Duration::from_secs(2);
/// The wait after the second death in a row; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// The deaths in a row of one user's CLI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    failures: u32,
    until: Instant,
}

impl Backoff {
    /// Before any.
    pub(crate) fn new(now: Instant) -> Self {
        Self { failures: 0, until: now }
    }

    /// It died, or did not come up. The first death costs no wait: a lone `kill` is made good at once.
    pub(crate) fn failed(&mut self, ran_for: Duration, now: Instant) {
        self.failures = if ran_for >= WELL_AFTER { 1 } else { self.failures.saturating_add(1) };
        let doublings = self.failures.saturating_sub(2).min(16);
        let delay = if self.failures < 2 { Duration::ZERO } else { (FIRST * (1 << doublings)).min(LONGEST) };
        self.until = now + delay;
    }

    /// How often in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long until it may be tried again.
    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    /// Whether it need not be remembered any longer.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now > self.until + LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_bound_and_forgets() {
        let now = Instant::now();
        let mut backoff = Backoff::new(now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            backoff.failed(Duration::ZERO, now);
            waits.push(backoff.remaining(now).as_millis());
        }
        assert_eq!(waits[..5], [0, 250, 500, 1_000, 2_000]);
        assert_eq!(waits[9..], [30_000; 3]);
        assert!(!backoff.is_over(now + LONGEST));
        assert!(backoff.is_over(now + LONGEST * 2 + FIRST));
        backoff.failed(WELL_AFTER, now);
        assert_eq!((backoff.failures(), backoff.remaining(now)), (1, Duration::ZERO));
        (0..u8::MAX).for_each(|_| backoff.failed(Duration::ZERO, now));
        assert_eq!(backoff.remaining(now), LONGEST);
    }
}
