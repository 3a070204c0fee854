//! When CLI servers are replaced by fresh ones.

use crate::{
    reader::Section,
    units::{ByteSize, Share},
};
use std::time::Duration;

/// When a CLI server is replaced by a fresh one, `[pool.recycle]`, between turns. What is not given does not count.
#[derive(Debug, Clone, PartialEq)]
pub struct Recycle {
    /// Running for so long; of a fleet's server, as far as this gateway has seen it.
    pub max_age: Option<Duration>,
    /// Having served so many sessions.
    pub max_sessions: Option<u64>,
    /// Having served so many turns.
    pub max_turns: Option<u64>,
    /// Holding so much memory for itself alone, which is seen of processes only: a CLI gives little back.
    pub max_rss: Option<ByteSize>,
    /// Answering slower than at first by this factor, more than 1.
    pub latency_factor: Option<f64>,
    /// How many of the servers may be on their way out at a time; of few, one.
    pub share: Share,
    /// How long a fleet's server is kept out of use for somebody to restart it; then it is used as it is.
    pub restart_wait: Duration,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            max_age: None,
            max_sessions: None,
            max_turns: None,
            max_rss: None,
            latency_factor: None,
            share: Share::percent(10),
            // A person who is called comes within it.
            restart_wait: Duration::from_secs(15 * 60),
        }
    }
}

impl Recycle {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let seconds = Duration::from_secs;
        let d = Self::default();
        Self {
            max_age: s.optional_in("max_age", seconds(1)..=seconds(365 * 86_400)),
            max_sessions: s.optional_in("max_sessions", 1..=1_000_000_000),
            max_turns: s.optional_in("max_turns", 1..=1_000_000_000),
            max_rss: s.optional_in("max_rss", ByteSize(16 << 20)..=ByteSize(1 << 40)),
            latency_factor: s.optional_in("latency_factor", 1.1..=1000.0),
            share: s.get("share", d.share),
            restart_wait: s.get_in("restart_wait", d.restart_wait, seconds(1)..=seconds(7 * 86_400)),
        }
    }
}
