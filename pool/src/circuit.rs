//! Whether a server of the fleet is used: `trying → closed → open → trying → …`. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// A server is up while its circuit is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// Not used until it has proved itself: new, or back from its cooldown. One failure opens it.
    Trying,
    /// Used. `failures` in a row, less than the policy's.
    Closed { failures: u32 },
    /// Left alone.
    Open { until: Instant },
}

/// When a circuit opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// In a row, at least one.
    pub(crate) failures: u32,
    pub(crate) cooldown: Duration,
}

/// What an observation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    CameUp,
    WentDown,
}

impl Circuit {
    pub(crate) fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// The server answered a probe.
    pub(crate) fn succeeded(&mut self) -> Change {
        match *self {
            Self::Trying => {
                *self = Self::Closed { failures: 0 };
                Change::CameUp
            }
            Self::Closed { .. } => {
                *self = Self::Closed { failures: 0 };
                Change::None
            }
            // Late news from before it opened.
            Self::Open { .. } => Change::None,
        }
    }

    /// The server failed a probe or a dial.
    pub(crate) fn failed(&mut self, policy: Policy, now: Instant) -> Change {
        let open = Self::Open { until: now + policy.cooldown };
        match *self {
            Self::Trying => {
                *self = open;
                Change::None
            }
            Self::Closed { failures } if failures + 1 >= policy.failures => {
                *self = open;
                Change::WentDown
            }
            Self::Closed { failures } => {
                *self = Self::Closed { failures: failures + 1 };
                Change::None
            }
            Self::Open { .. } => Change::None,
        }
    }

    /// Time passes: an open circuit whose cooldown is over is tried.
    pub(crate) fn advance(&mut self, now: Instant) {
        if matches!(*self, Self::Open { until } if until <= now) {
            *self = Self::Trying;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(5);
    const POLICY: Policy = Policy { failures: 3, cooldown: COOLDOWN };

    /// `+` succeeded, `-` failed, `s` a second passes; then the state as a letter.
    #[test]
    fn table() {
        let table = [
            ("", "T"),
            ("+", "C"),
            ("-", "O"),
            ("+--", "C"),
            ("+---", "O"),
            ("+--+--", "C"),
            ("+---ssss", "O"),
            ("+---+", "O"),
            ("+---sssss", "T"),
            ("+---sssss+", "C"),
            ("+---sssss-", "O"),
            ("+---s-ssss", "T"),
            ("-sssss-ssss", "O"),
        ];
        for (events, expected) in table {
            let mut now = Instant::now();
            let mut circuit = Circuit::Trying;
            for event in events.chars() {
                match event {
                    '+' => _ = circuit.succeeded(),
                    '-' => _ = circuit.failed(POLICY, now),
                    _ => now += Duration::from_secs(1),
                }
                circuit.advance(now);
            }
            let state = match circuit {
                Circuit::Trying => "T",
                Circuit::Closed { .. } => "C",
                Circuit::Open { .. } => "O",
            };
            assert_eq!(state, expected, "{events}");
        }
    }

    proptest! {
        /// Changes alternate; it never opens before `failures` in a row, never stays closed after them, and is
        /// always tried again.
        #[test]
        fn laws(events in prop::collection::vec(0..3, 0..200), failures in 1..5_u32) {
            let policy = Policy { failures, cooldown: COOLDOWN };
            let mut now = Instant::now();
            let (mut circuit, mut row, mut up) = (Circuit::Trying, 0, false);
            for event in events {
                let was_closed = circuit.is_closed();
                let change = match event {
                    0 => { row = 0; circuit.succeeded() }
                    1 => { row += 1; circuit.failed(policy, now) }
                    _ => { now += Duration::from_secs(2); circuit.advance(now); Change::None }
                };
                match change {
                    Change::CameUp => { prop_assert!(!up); up = true; row = 0; }
                    Change::WentDown => { prop_assert!(up && row >= failures); up = false; }
                    Change::None => {}
                }
                prop_assert_eq!(up, circuit.is_closed());
                prop_assert!(!(was_closed && circuit.is_closed() && row >= failures));
            }
            circuit.advance(now + COOLDOWN);
            prop_assert!(!matches!(circuit, Circuit::Open { .. }), "opened at most now");
        }
    }
}
