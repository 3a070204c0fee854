//! A session's running turns: begun, answered, ended exactly once.

use std::time::Duration;

use tokio::time::Instant;

use super::lease::Lease;

/// Names a turn in logs and errors; unique within a gateway's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TurnId(pub(crate) u64);

impl std::fmt::Display for TurnId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "turn-{}", self.0)
    }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The session went idle.
    Completed,
    /// The session reported an error.
    Failed,
    /// It was stopped by `session.abort`, or its last client left.
    Aborted,
    /// The CLI refused to begin it.
    Refused,
    /// The CLI server was lost in the middle of it.
    Indeterminate,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Aborted => "aborted",
            Outcome::Refused => "refused",
            Outcome::Indeterminate => "indeterminate",
        }
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: TurnId,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    /// From the prompt to the first delta of an answer.
    pub(crate) first: Option<Duration>,
}

/// Names a connection to a CLI server; unique within a gateway's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LegId(pub(crate) u64);

/// A turn of a shared session: its right to run, and by which leg its end is known.
#[derive(Debug)]
pub(crate) struct Leased {
    /// Given back with the turn.
    pub(crate) lease: Lease,
    /// By which its prompt went.
    pub(crate) leg: LegId,
    /// The CLI has answered its prompt.
    taken: bool,
    /// The session went idle before that.
    early: bool,
}

impl Leased {
    pub(crate) fn new(lease: Lease, leg: LegId) -> Self {
        Self { lease, leg, taken: false, early: false }
    }
}

#[derive(Debug)]
struct Running {
    id: TurnId,
    leased: Option<Leased>,
    since: Instant,
    first: Option<Duration>,
}

/// The turns of one session that have begun and not ended, oldest first. Reads no clock.
///
/// A session works off its prompts one after the other and goes idle once, after the last: so what ends
/// the session's work ends all of them.
///
/// Where several people take part, each of their legs tells of every idle, some late. There only the leg by which
/// the prompt went counts, from when it told that the prompt was taken: what it tells then comes after the idle
/// of the turn before.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    running: Vec<Running>,
    failed: bool,
    aborting: bool,
}

impl Turns {
    pub(crate) fn begin(&mut self, id: TurnId, leased: Option<Leased>, now: Instant) {
        self.running.push(Running { id, leased, since: now, first: None });
    }

    /// The CLI took the prompt. Returns whether it must be asked if the turn has ended already.
    pub(crate) fn taken(&mut self, id: TurnId) -> bool {
        let turn = self.running.iter_mut().find(|t| t.id == id);
        let Some(leased) = turn.and_then(|t| t.leased.as_mut()) else { return false };
        leased.taken = true;
        leased.early
    }

    /// The right under which they run, where one is needed.
    pub(crate) fn leased(&self) -> Option<&Leased> {
        self.running.iter().find_map(|turn| turn.leased.as_ref())
    }

    /// Those that run, oldest first, and since when.
    pub(crate) fn running(&self) -> impl Iterator<Item = (TurnId, Instant)> + '_ {
        self.running.iter().map(|turn| (turn.id, turn.since))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// A delta of an answer came. Returns how long it took, if it is the first of its turn.
    pub(crate) fn delta(&mut self, now: Instant) -> Option<Duration> {
        let turn = self.running.first_mut().filter(|turn| turn.first.is_none())?;
        turn.first = Some(now - turn.since);
        turn.first
    }

    /// The session reported an error; it ends the turn, which an idle event may still confirm.
    pub(crate) fn failed(&mut self) {
        self.failed = !self.running.is_empty();
    }

    /// Somebody asked for an abort.
    pub(crate) fn aborting(&mut self) {
        self.aborting = !self.running.is_empty();
    }

    /// The CLI did not take the prompt.
    pub(crate) fn refused(&mut self, id: TurnId, now: Instant) -> Option<Ended> {
        let at = self.running.iter().position(|t| t.id == id)?;
        Some(ended(self.running.remove(at), Outcome::Refused, now))
    }

    /// The session went idle, as `leg` tells.
    pub(crate) fn idle(&mut self, leg: LegId, now: Instant) -> Vec<Ended> {
        if let Some(leased) = self.running.iter_mut().find_map(|turn| turn.leased.as_mut()) {
            if leased.leg != leg {
                return Vec::new();
            }
            if !leased.taken {
                leased.early = true;
                return Vec::new();
            }
        }
        self.done(now)
    }

    /// The session has nothing more to do.
    pub(crate) fn done(&mut self, now: Instant) -> Vec<Ended> {
        // What is seen past the lease's deadline may be another's doing: the turn ends as lost, in a moment.
        if self.leased().is_some_and(|leased| !leased.lease.is_live(now)) {
            return Vec::new();
        }
        let outcome = match (self.aborting, self.failed) {
            (true, _) => Outcome::Aborted,
            (_, true) => Outcome::Failed,
            _ => Outcome::Completed,
        };
        self.end_all(outcome, now)
    }

    /// Whatever runs will not be heard of again.
    pub(crate) fn end_all(&mut self, outcome: Outcome, now: Instant) -> Vec<Ended> {
        (self.failed, self.aborting) = (false, false);
        std::mem::take(&mut self.running).into_iter().map(|t| ended(t, outcome, now)).collect()
    }
}

fn ended(turn: Running, outcome: Outcome, now: Instant) -> Ended {
    Ended { id: turn.id, outcome, took: now - turn.since, first: turn.first }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(ended: Vec<Ended>) -> Vec<(u64, Outcome)> {
        ended.into_iter().map(|e| (e.id.0, e.outcome)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_turn_ends_once() {
        let now = Instant::now();
        let mut turns = Turns::default();
        turns.begin(TurnId(1), None, now);
        turns.begin(TurnId(2), None, now);
        turns.begin(TurnId(3), None, now);
        assert_eq!(turns.refused(TurnId(2), now).unwrap().outcome, Outcome::Refused);
        assert_eq!(turns.refused(TurnId(2), now), None);
        assert_eq!(outcomes(turns.idle(LegId(1), now)), [(1, Outcome::Completed), (3, Outcome::Completed)]);
        assert!(turns.idle(LegId(1), now).is_empty());
        assert!(turns.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_aborts_do_not_stick() {
        let now = Instant::now();
        let mut turns = Turns::default();
        turns.failed();
        turns.aborting();
        turns.begin(TurnId(1), None, now);
        assert_eq!(outcomes(turns.idle(LegId(1), now)), [(1, Outcome::Completed)]);
        turns.begin(TurnId(2), None, now);
        turns.failed();
        assert_eq!(outcomes(turns.idle(LegId(1), now)), [(2, Outcome::Failed)]);
        turns.begin(TurnId(3), None, now);
        turns.aborting();
        assert_eq!(outcomes(turns.idle(LegId(1), now)), [(3, Outcome::Aborted)]);
        turns.begin(TurnId(4), None, now);
        assert_eq!(outcomes(turns.end_all(Outcome::Indeterminate, now)), [(4, Outcome::Indeterminate)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_delta_counts() {
        let now = Instant::now();
        let mut turns = Turns::default();
        turns.begin(TurnId(1), None, now);
        assert_eq!(turns.delta(now + Duration::from_millis(5)), Some(Duration::from_millis(5)));
        assert_eq!(turns.delta(now + Duration::from_millis(9)), None);
        let ended = turns.idle(LegId(1), now + Duration::from_millis(20)).remove(0);
        assert_eq!((ended.first, ended.took), (Some(Duration::from_millis(5)), Duration::from_millis(20)));
    }
}
