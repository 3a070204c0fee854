//! What can be measured from outside.

use crate::watch::Cause;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

/// What is waited for and held: a session's lease among processes, or a turn within this one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Lease,
    Turn,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Turn => "turn",
        }
    }
}

/// Describes this crate's metrics to the installed recorder.
pub fn describe() {
    describe_histogram!(
        "jetway_lock_wait_seconds",
        Unit::Seconds,
        "Time until a turn or a session's lease was had or given up, by level and outcome"
    );
    describe_histogram!(
        "jetway_lock_hold_seconds",
        Unit::Seconds,
        "Time for which a turn or a session's lease was held, by level"
    );
    describe_gauge!("jetway_lock_waiting", Unit::Count, "Turns and leases waited for here, by level");
    describe_gauge!("jetway_lock_held", Unit::Count, "Turns and leases held here, by level");
    describe_counter!("jetway_lock_lost_total", Unit::Count, "Leases lost while they were held, by cause");
    describe_histogram!(
        "jetway_lock_watchdog_lateness_seconds",
        Unit::Seconds,
        "By how much the watchdog woke too late"
    );
    for cause in Cause::ALL {
        counter!("jetway_lock_lost_total", "cause" => cause.as_str()).absolute(0);
    }
}

pub(crate) fn waited(level: Level, outcome: &'static str, time: Duration) {
    histogram!("jetway_lock_wait_seconds", "level" => level.as_str(), "outcome" => outcome).record(time);
}

pub(crate) fn held(level: Level, time: Duration) {
    histogram!("jetway_lock_hold_seconds", "level" => level.as_str()).record(time);
}

pub(crate) fn holding(level: Level, change: f64) {
    gauge!("jetway_lock_held", "level" => level.as_str()).increment(change);
}

pub(crate) fn waiting(level: Level, change: f64) {
    gauge!("jetway_lock_waiting", "level" => level.as_str()).increment(change);
}

pub(crate) fn lost(cause: Cause) {
    counter!("jetway_lock_lost_total", "cause" => cause.as_str()).increment(1);
}

pub(crate) fn late(by: Duration) {
    histogram!("jetway_lock_watchdog_lateness_seconds").record(by);
}
