//! What becomes of a server in its life, to be looked at and added to by whoever has it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{pace::Pace, pulse::Silence};

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Nobody new is placed there.
    pub(crate) draining: AtomicBool,
    /// Sessions that were attached there.
    pub(crate) sessions: AtomicU64,
    /// Turns that it took.
    pub(crate) turns: AtomicU64,
    /// Bytes that its process held at the last look.
    pub(crate) memory: AtomicU64,
    answers: Mutex<Answers>,
}

/// How it answers.
#[derive(Debug, Default)]
struct Answers {
    rtt: Option<Duration>,
    pings: Pace,
    /// First deltas of turns.
    deltas: Pace,
    silence: Silence,
}

impl Tally {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It answered a ping, after so long.
    pub(crate) fn pinged(&self, took: Duration) {
        let mut answers = self.answers();
        answers.rtt = Some(took);
        answers.pings.note(took);
    }

    /// The first delta of a turn came, after so long.
    pub(crate) fn spoke(&self, took: Duration) {
        self.answers().deltas.note(took);
    }

    /// The last ping.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.answers().rtt
    }

    /// By which factor it is slower than at first, in pings or in turns.
    pub(crate) fn slower(&self) -> Option<f64> {
        let answers = self.answers();
        [&answers.pings, &answers.deltas].into_iter().filter_map(Pace::slower).reduce(f64::max)
    }

    /// Looks at what it left unanswered.
    pub(crate) fn silence<T>(&self, look: impl FnOnce(&mut Silence) -> T) -> T {
        look(&mut self.answers().silence)
    }

    /// Another process is there now: of its predecessor only remains whether it is to be left.
    pub(crate) fn renew(&self) {
        for counter in [&self.sessions, &self.turns, &self.memory] {
            counter.store(0, Ordering::Relaxed);
        }
        *self.answers() = Answers::default();
    }
}
