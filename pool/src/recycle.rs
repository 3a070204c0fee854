//! Which servers are to be replaced by fresh ones, and when each may go. Pure: no I/O, no clock.
//!
//! A server is fine, then due, then leaving, then gone; a fleet's server that nobody restarts is spared at last, until
//! it is seen to be fresh. Only so many leave at a time. *How* one leaves is what a drain is: between turns.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use jetway_config::recycle::Recycle;

use crate::drain::DrainReason;

/// Why a server is to be replaced, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It leaves pings unanswered.
    Hung,
    /// `pool.recycle.max_rss`.
    Memory,
    /// `pool.recycle.latency_factor`.
    Latency,
    /// `pool.recycle.max_age`.
    Age,
    /// `pool.recycle.max_turns`.
    Turns,
    /// `pool.recycle.max_sessions`.
    Sessions,
}

impl Cause {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hung => "hung",
            Self::Memory => "memory",
            Self::Latency => "latency",
            Self::Age => "age",
            Self::Turns => "turns",
            Self::Sessions => "sessions",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is seen of a server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Vitals {
    pub(crate) hung: bool,
    pub(crate) memory: Option<u64>,
    /// By which factor it is slower than at first.
    pub(crate) slower: Option<f64>,
    pub(crate) age: Duration,
    pub(crate) turns: u64,
    pub(crate) sessions: u64,
    /// Somebody is attached.
    pub(crate) used: bool,
    /// Somebody new may be placed there.
    pub(crate) open: bool,
    pub(crate) draining: Option<DrainReason>,
}

/// What is to be done about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<K> {
    /// It is to be left.
    Leave(K, Cause),
    /// It has been left for long and nobody replaced it: it is to be used as it is.
    Spare(K, Cause),
}

/// What is known of those that are not fine.
pub(crate) struct Recycler<K> {
    rules: Recycle,
    /// How many must stay open, whatever they are like.
    keep: usize,
    /// Whether one that nobody replaces is spared in the end; else it leaves as soon as it can.
    spares: bool,
    worn: BTreeMap<K, Worn>,
}

#[derive(Debug, Clone, Copy)]
struct Worn {
    cause: Cause,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Leaving { since: Instant },
    Spared,
}

impl<K: Copy + Ord> Recycler<K> {
    /// For processes: each use of one that has left makes another.
    pub(crate) fn of_processes(rules: &Recycle) -> Self {
        Self { rules: rules.clone(), keep: 0, spares: false, worn: BTreeMap::new() }
    }

    /// For a fleet, whose servers others restart: somewhere users must go meanwhile.
    pub(crate) fn of_fleet(rules: &Recycle) -> Self {
        Self { rules: rules.clone(), keep: 1, spares: true, worn: BTreeMap::new() }
    }

    /// Why that server is to be replaced, if it is.
    pub(crate) fn cause(&self, server: K) -> Option<Cause> {
        self.worn.get(&server).map(|worn| worn.cause)
    }

    /// That server has been replaced.
    pub(crate) fn replaced(&mut self, server: K) {
        self.worn.remove(&server);
    }

    /// Looks at all servers. What it says is to be done before the next look.
    pub(crate) fn look(&mut self, servers: &[(K, Vitals)], now: Instant) -> Vec<Step<K>> {
        let mut steps = Vec::new();
        let before = std::mem::take(&mut self.worn);
        for (server, vitals) in servers {
            let worn = match before.get(server).copied() {
                None | Some(Worn { state: State::Due, .. }) => {
                    self.judge(vitals).map(|cause| Worn { cause, state: State::Due })
                }
                Some(worn) => Some(worn),
            };
            let Some(mut worn) = worn else { continue };
            if let State::Leaving { since } = worn.state {
                if vitals.draining != Some(DrainReason::Recycle) {
                    // An operator has decided otherwise.
                    worn.state = State::Spared;
                } else if self.spares && now >= since + self.rules.restart_wait {
                    worn.state = State::Spared;
                    steps.push(Step::Spare(*server, worn.cause));
                }
            }
            self.worn.insert(*server, worn);
        }
        self.begin(servers, now, &mut steps);
        steps
    }

    /// Has as many leave as may.
    fn begin(&mut self, servers: &[(K, Vitals)], now: Instant, steps: &mut Vec<Step<K>>) {
        // One that cannot leave for long, for a turn that goes on and on, does not hold up the others.
        let counts =
            |w: &&Worn| matches!(w.state, State::Leaving { since } if now < since + self.rules.restart_wait);
        let leaving = self.worn.values().filter(counts).count();
        let mut room = self.rules.share.of(servers.len()).saturating_sub(leaving);
        let mut open = servers.iter().filter(|(_, vitals)| vitals.open).count();
        let due = |(server, vitals): &(K, Vitals)| {
            let worn = self.worn.get(server).filter(|w| w.state == State::Due && vitals.open)?;
            // Of those equally urgent, first whoever is missed by nobody.
            Some((worn.cause, vitals.used, *server))
        };
        let mut due: Vec<_> = servers.iter().filter_map(due).collect();
        due.sort_unstable();
        for (cause, _, server) in due {
            if room == 0 || open <= self.keep {
                break;
            }
            (room, open) = (room - 1, open - 1);
            self.worn.insert(server, Worn { cause, state: State::Leaving { since: now } });
            steps.push(Step::Leave(server, cause));
        }
    }

    fn judge(&self, vitals: &Vitals) -> Option<Cause> {
        let Recycle { max_age, max_sessions, max_turns, max_rss, latency_factor, .. } = &self.rules;
        let beyond = [
            (Cause::Hung, vitals.hung),
            (Cause::Memory, max_rss.zip(vitals.memory).is_some_and(|(most, bytes)| bytes > most.0)),
            (Cause::Latency, latency_factor.zip(vitals.slower).is_some_and(|(most, slower)| slower > most)),
            (Cause::Age, max_age.is_some_and(|most| vitals.age >= most)),
            (Cause::Turns, max_turns.is_some_and(|most| vitals.turns >= most)),
            (Cause::Sessions, max_sessions.is_some_and(|most| vitals.sessions >= most)),
        ];
        beyond.into_iter().find(|(_, beyond)| *beyond).map(|(cause, _)| cause)
    }
}

#[cfg(test)]
mod tests;
