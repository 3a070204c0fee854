//! Where Jetway means to be, and whether it is there.

use serde::Serialize;

use super::{
    measure::{Measure, Samples},
    peers::Kind,
};

/// One goal.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// In words.
    pub what: &'static str,
    /// What Jetway has; `None` when it, or what it is compared with, was not measured.
    pub value: Option<f64>,
    /// What it may have.
    pub at_most: f64,
}

impl Goal {
    /// Whether it is met; `None` when that is unknown.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.value.map(|value| value <= self.at_most)
    }
}

/// All goals that this benchmark can decide.
#[must_use]
pub fn goals(samples: &Samples) -> Vec<Goal> {
    let jetway = |measure| samples.median(measure, Kind::Jetway);
    let ratio = |measure, to| Some(jetway(measure)? / samples.median(measure, to)?);
    // A loopback ping takes twice as long when the scheduler puts its ends on different cores, and one round in
    // two may be such: the fastest round is what the hop itself costs.
    let best = |measure, kind| samples.summary(measure, kind).map(|summary| summary.min);
    let added = |measure, kind| Some(best(measure, kind)? - best(measure, Kind::Direct)?);
    let added_ratio = |measure, to| {
        let theirs = added(measure, to).filter(|theirs| *theirs > 0.0)?;
        Some(added(measure, Kind::Jetway)? / theirs)
    };
    let goal = |what, value, at_most| Goal { what, value, at_most };
    vec![
        goal("SDK ping ÷ direct", ratio(Measure::SdkPing, Kind::Direct), 0.02),
        goal(
            "ping 1, added p50 of the fastest round ÷ splice's",
            added_ratio(Measure::Ping1P50, Kind::Splice),
            1.1,
        ),
        goal(
            "ping 1, added p50 of the fastest round ÷ HAProxy's",
            added_ratio(Measure::Ping1P50, Kind::Haproxy),
            1.0,
        ),
        goal(
            "ping 16, added p50 of the fastest round ÷ splice's",
            added_ratio(Measure::Ping16P50, Kind::Splice),
            1.1,
        ),
        goal(
            "ping 16, added p50 of the fastest round ÷ HAProxy's",
            added_ratio(Measure::Ping16P50, Kind::Haproxy),
            1.0,
        ),
        goal("ping, CPU ÷ HAProxy's", ratio(Measure::Ping16Cpu, Kind::Haproxy), 1.0),
        goal("turns, CPU ÷ HAProxy's", ratio(Measure::TurnsCpu, Kind::Haproxy), 1.0),
        goal("turns, a write for each delta, CPU ÷ HAProxy's", ratio(Measure::PacedCpu, Kind::Haproxy), 1.0),
        goal("stream, CPU ÷ HAProxy's", ratio(Measure::StreamCpu, Kind::Haproxy), 1.0),
        goal("HTTP, CPU ÷ HAProxy's", ratio(Measure::HttpCpu, Kind::Haproxy), 1.3),
        goal("KiB per idle connection", jetway(Measure::IdleConnection), 3.3),
        goal("KiB per idle connection with session and leg", jetway(Measure::IdleSession), 6.6),
        goal("RSS MiB under load", jetway(Measure::LoadRss), 10.0),
    ]
}
