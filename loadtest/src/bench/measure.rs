//! What is measured, and what was: samples by measure and target.

use std::collections::BTreeMap;

use serde::Serialize;

use super::peers::Kind;

/// Everything that is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Median ping, microseconds, one connection.
    Ping1P50,
    /// Its 99th percentile.
    Ping1P99,
    /// Pings a second.
    Ping1Ops,
    /// The same with 16 connections.
    Ping16P50,
    /// 16 connections.
    Ping16P99,
    /// 16 connections.
    Ping16Ops,
    /// CPU seconds of the program in between for 100,000 frames.
    Ping16Cpu,
    /// 256 connections.
    Ping256P50,
    /// 256 connections.
    Ping256P99,
    /// 256 connections.
    Ping256Ops,
    /// CPU, 64 connections, turns of 20 deltas, up to 8 frames to a write.
    TurnsCpu,
    /// Turns a second.
    TurnsOps,
    /// CPU, 64 connections, turns of 20 deltas, a millisecond apart: every frame has a write of its own.
    PacedCpu,
    /// CPU, 8 connections, 2,000 deltas of 200 bytes.
    StreamCpu,
    /// Frames a second.
    StreamFrames,
    /// Proportional KiB for each of 5,000 idle connections past their handshake.
    IdleConnection,
    /// … with a session each, the leg to the CLI server included.
    IdleSession,
    /// Resident MiB, 64 connections in the middle of turns.
    LoadRss,
    /// CPU seconds for 100,000 requests over HTTP, 64 connections, 1 KiB of JSON in answer.
    HttpCpu,
    /// Requests a second.
    HttpOps,
    /// Median request, microseconds.
    HttpP50,
    /// Median `client.ping` of the official SDK, milliseconds.
    SdkPing,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 22] = {
        use Measure::*;
        [
            Ping1P50,
            Ping1P99,
            Ping1Ops,
            Ping16P50,
            Ping16P99,
            Ping16Ops,
            Ping16Cpu,
            Ping256P50,
            Ping256P99,
            Ping256Ops,
            TurnsCpu,
            TurnsOps,
            PacedCpu,
            StreamCpu,
            StreamFrames,
            IdleConnection,
            IdleSession,
            LoadRss,
            HttpCpu,
            HttpOps,
            HttpP50,
            SdkPing,
        ]
    };

    /// As the table calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Measure::Ping1P50 => "ping, 1 connection, p50 µs",
            Measure::Ping1P99 => "… p99 µs",
            Measure::Ping1Ops => "… pings/s",
            Measure::Ping16P50 => "ping, 16 connections, p50 µs",
            Measure::Ping16P99 => "… p99 µs",
            Measure::Ping16Ops => "… pings/s",
            Measure::Ping16Cpu => "… CPU s / 100k frames",
            Measure::Ping256P50 => "ping, 256 connections, p50 µs",
            Measure::Ping256P99 => "… p99 µs",
            Measure::Ping256Ops => "… pings/s",
            Measure::TurnsCpu => "20-delta turns, 64 connections, CPU s / 100k frames",
            Measure::TurnsOps => "… turns/s",
            Measure::PacedCpu => "… a write for each delta, CPU s / 100k frames",
            Measure::StreamCpu => "2,000 × 200 B, 8 connections, CPU s / 100k frames",
            Measure::StreamFrames => "… frames/s",
            Measure::IdleConnection => "KiB per idle connection (PSS)",
            Measure::IdleSession => "… with a session",
            Measure::LoadRss => "RSS MiB, 64 connections in turns",
            Measure::HttpCpu => "HTTP, 64 connections, CPU s / 100k requests",
            Measure::HttpOps => "… requests/s",
            Measure::HttpP50 => "… p50 µs",
            Measure::SdkPing => "SDK ping, ms",
        }
    }
}

/// A median and the samples around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub samples: usize,
}

/// All samples.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Measure, Kind), Vec<f64>>);

impl Samples {
    /// Adds one; what is not a number is left out.
    pub fn add(&mut self, measure: Measure, kind: Kind, value: f64) {
        if value.is_finite() {
            self.0.entry((measure, kind)).or_default().push(value);
        }
    }

    /// What they come to; `None` where nothing was measured.
    #[must_use]
    pub fn summary(&self, measure: Measure, kind: Kind) -> Option<Summary> {
        let mut values = self.0.get(&(measure, kind))?.clone();
        values.sort_unstable_by(f64::total_cmp);
        let n = values.len();
        let median = f64::midpoint(values[(n - 1) / 2], values[n / 2]);
        Some(Summary { median, min: values[0], max: values[n - 1], samples: n })
    }

    /// The median alone.
    #[must_use]
    pub fn median(&self, measure: Measure, kind: Kind) -> Option<f64> {
        self.summary(measure, kind).map(|summary| summary.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let mut samples = Samples::default();
        for value in [3.0, 1.0, f64::NAN, 2.0, 10.0] {
            samples.add(Measure::LoadRss, Kind::Splice, value);
        }
        let summary = samples.summary(Measure::LoadRss, Kind::Splice).unwrap();
        assert_eq!(summary, Summary { median: 2.5, min: 1.0, max: 10.0, samples: 4 });
        assert_eq!(samples.median(Measure::SdkPing, Kind::Splice), None);
    }
}
