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

/// How many prompts are remembered that came back before it was known whose they are: more than one leg has on
/// their way at once.
const MAX_STRAYS: usize = 64;

/// How far a turn is known to have come.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// The CLI has not answered its prompt. Whether its leg told of an idle meanwhile.
    Asked { idle: bool },
    /// The CLI took it as the message of that id. Whether its leg told of an idle since: then it may have been
    /// dropped, as an abort drops what waits.
    Taken { message: Box<str>, doubtful: bool },
    /// Its leg told of that message: the next idle there is its end.
    Begun,
    /// No event will tell its end: the CLI must be asked.
    Unseen,
}

#[derive(Debug)]
struct Running {
    id: TurnId,
    /// By which its prompt went.
    leg: LegId,
    progress: Progress,
    since: Instant,
    first: Option<Duration>,
    failed: bool,
    aborting: bool,
}

/// A prompt that came back before the answer to it that tells its id.
#[derive(Debug)]
struct Stray {
    leg: LegId,
    message: Box<str>,
    failed: bool,
    /// The session went idle since.
    idle: bool,
}

/// The turns of one session that have begun and not ended, oldest first. Reads no clock.
///
/// Each connection to a CLI server tells a session's events in the same order, but some later than others, and the
/// CLI's replies overtake them all: after the reply to a prompt, on whichever leg, the idle of the turn before may
/// still come. So a turn ends with the first idle after its own message, both told by the leg by which its prompt went.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// The right to run them, where one is needed; given back with the last of them.
    lease: Option<Lease>,
    running: Vec<Running>,
    strays: Vec<Stray>,
    /// The CLI is being asked whether it has done what no event tells of.
    asking: bool,
}

impl Turns {
    /// A prompt is on its way by `leg`. Without a `lease` of its own it joins those that run.
    pub(crate) fn begin(&mut self, id: TurnId, leg: LegId, lease: Option<Lease>, now: Instant) {
        self.lease = lease.or(self.lease.take());
        let progress = Progress::Asked { idle: false };
        self.running.push(Running {
            id,
            leg,
            progress,
            since: now,
            first: None,
            failed: false,
            aborting: false,
        });
    }

    /// The CLI took the prompt, as the message of that id if it named one.
    pub(crate) fn taken(&mut self, id: TurnId, message: Option<&str>, now: Instant) -> Option<Ended> {
        let at = self.running.iter().position(|turn| turn.id == id)?;
        let turn = &mut self.running[at];
        let Progress::Asked { idle } = turn.progress else { return None };
        let Some(message) = message else {
            turn.progress = Progress::Unseen;
            return None;
        };
        let stray = self.strays.iter().position(|stray| stray.leg == turn.leg && *stray.message == *message);
        let Some(stray) = stray.map(|at| self.strays.swap_remove(at)) else {
            turn.progress = Progress::Taken { message: message.into(), doubtful: idle };
            return None;
        };
        turn.progress = Progress::Begun;
        turn.failed = stray.failed;
        if !stray.idle || self.is_stale(now) {
            return None;
        }
        let turn = self.running.remove(at);
        self.tidy();
        Some(completed(turn, now))
    }

    /// `leg` told of a message. Returns whether a turn's answer begins with it.
    pub(crate) fn message(&mut self, leg: LegId, message: &str) -> bool {
        let mut of_leg = self.running.iter_mut().filter(|turn| turn.leg == leg);
        let is = |turn: &Running| matches!(&turn.progress, Progress::Taken { message: own, .. } if **own == *message);
        if let Some(turn) = of_leg.find(|turn| is(turn)) {
            turn.progress = Progress::Begun;
            return true;
        }
        let asked = |turn: &Running| turn.leg == leg && matches!(turn.progress, Progress::Asked { .. });
        if self.running.iter().any(asked) {
            if self.strays.len() == MAX_STRAYS {
                self.strays.remove(0);
            }
            self.strays.push(Stray { leg, message: message.into(), failed: false, idle: false });
        }
        false
    }

    /// The session went idle, as `leg` tells; what goes on by itself must be asked about.
    pub(crate) fn idle(&mut self, leg: LegId, goes_on: bool, now: Instant) -> Vec<Ended> {
        if self.is_stale(now) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        self.strays.iter_mut().filter(|stray| stray.leg == leg).for_each(|stray| stray.idle |= !goes_on);
        for mut turn in std::mem::take(&mut self.running) {
            match &mut turn.progress {
                Progress::Begun if turn.leg == leg && goes_on => turn.progress = Progress::Unseen,
                Progress::Begun if turn.leg == leg => {
                    ended.push(completed(turn, now));
                    continue;
                }
                Progress::Asked { idle: flag } | Progress::Taken { doubtful: flag, .. }
                    if turn.leg == leg =>
                {
                    *flag = true;
                }
                _ => {}
            }
            self.running.push(turn);
        }
        self.tidy();
        ended
    }

    /// What the CLI must be asked about, if nobody is asking yet: then whoever gets it asks.
    pub(crate) fn ask(&mut self) -> bool {
        let ask = !self.asking && self.doubtful().next().is_some();
        self.asking |= ask;
        ask
    }

    /// What the CLI is still to be asked about; nothing more when there is nothing.
    pub(crate) fn asked(&mut self) -> Vec<TurnId> {
        let doubtful: Vec<_> = self.doubtful().collect();
        self.asking = !doubtful.is_empty();
        doubtful
    }

    /// Nobody asks any more.
    pub(crate) fn stop_asking(&mut self) {
        self.asking = false;
    }

    fn doubtful(&self) -> impl Iterator<Item = TurnId> + '_ {
        let doubtful = |turn: &&Running| {
            matches!(turn.progress, Progress::Taken { doubtful: true, .. } | Progress::Unseen)
        };
        self.running.iter().filter(doubtful).map(|turn| turn.id)
    }

    /// The CLI said that it has nothing more to do for those turns.
    pub(crate) fn done(&mut self, turns: &[TurnId], now: Instant) -> Vec<Ended> {
        if self.is_stale(now) {
            return Vec::new();
        }
        let over: Vec<_> = self.doubtful().filter(|id| turns.contains(id)).collect();
        let ended = self.running.extract_if(.., |turn| over.contains(&turn.id));
        let ended = ended.map(|turn| completed(turn, now)).collect();
        self.tidy();
        ended
    }

    /// The leg `from` is gone, and the session is attached elsewhere: no event will tell of its turns.
    pub(crate) fn adopt(&mut self, from: LegId, to: LegId) {
        for turn in self.running.iter_mut().filter(|turn| turn.leg == from) {
            (turn.leg, turn.progress) = (to, Progress::Unseen);
        }
    }

    /// The session was attached anew, by `to`, and its turn goes on there.
    pub(crate) fn go_on(&mut self, to: LegId) {
        self.running.iter_mut().for_each(|turn| turn.leg = to);
    }

    /// Whether some run, and all have begun.
    pub(crate) fn all_begun(&self) -> bool {
        !self.is_idle() && self.running.iter().all(|turn| turn.progress == Progress::Begun)
    }

    /// The legs by which the prompts of those that run went.
    pub(crate) fn legs(&self) -> impl Iterator<Item = LegId> + '_ {
        self.running.iter().map(|turn| turn.leg)
    }

    /// Whether the CLI has taken one that runs.
    pub(crate) fn any_taken(&self) -> bool {
        self.running.iter().any(|turn| !matches!(turn.progress, Progress::Asked { .. }))
    }

    /// Whether a prompt that went by `leg` has yet to begin.
    pub(crate) fn awaits(&self, leg: LegId) -> bool {
        let waits = |turn: &Running| matches!(turn.progress, Progress::Asked { .. } | Progress::Taken { .. });
        self.running.iter().any(|turn| turn.leg == leg && waits(turn))
    }

    /// The right under which they run, where one is needed.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whether that right is over. What is seen then may be another's doing: they end as lost, in a moment.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.lease.as_ref().is_some_and(|lease| !lease.is_live(now))
    }

    /// Those that run, oldest first, and since when.
    pub(crate) fn running(&self) -> impl Iterator<Item = (TurnId, Instant)> + '_ {
        self.running.iter().map(|turn| (turn.id, turn.since))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// A delta of an answer came by `leg`. Returns how long it took, if it is the first of its turn.
    pub(crate) fn delta(&mut self, leg: LegId, now: Instant) -> Option<Duration> {
        let silent =
            |turn: &&mut Running| turn.leg == leg && turn.progress == Progress::Begun && turn.first.is_none();
        let turn = self.running.iter_mut().find(silent)?;
        turn.first = Some(now - turn.since);
        turn.first
    }

    /// The session reported an error, as `leg` tells; it ends the turn, which an idle event confirms.
    pub(crate) fn failed(&mut self, leg: LegId) {
        self.strays.iter_mut().filter(|stray| stray.leg == leg).for_each(|stray| stray.failed = true);
        let of_leg = self.running.iter_mut().filter(|turn| turn.leg == leg);
        of_leg
            .filter(|turn| matches!(turn.progress, Progress::Begun | Progress::Unseen))
            .for_each(|turn| turn.failed = true);
    }

    /// Somebody asked for an abort.
    pub(crate) fn aborting(&mut self) {
        self.running.iter_mut().for_each(|turn| turn.aborting = true);
    }

    /// The CLI did not take the prompt.
    pub(crate) fn refused(&mut self, id: TurnId, now: Instant) -> Option<Ended> {
        let at = self.running.iter().position(|t| t.id == id)?;
        let turn = self.running.remove(at);
        self.tidy();
        Some(ended(&turn, Outcome::Refused, now))
    }

    /// Whatever runs will not be heard of again.
    pub(crate) fn end_all(&mut self, outcome: Outcome, now: Instant) -> Vec<Ended> {
        let ended = std::mem::take(&mut self.running).iter().map(|turn| ended(turn, outcome, now)).collect();
        self.tidy();
        ended
    }

    /// With the last turn everything ends that was for its sake.
    fn tidy(&mut self) {
        if self.running.is_empty() {
            self.lease = None;
            self.strays = Vec::new();
        }
    }
}

fn completed(turn: Running, now: Instant) -> Ended {
    let outcome = match (turn.aborting, turn.failed) {
        (true, _) => Outcome::Aborted,
        (_, true) => Outcome::Failed,
        _ => Outcome::Completed,
    };
    ended(&turn, outcome, now)
}

fn ended(turn: &Running, outcome: Outcome, now: Instant) -> Ended {
    Ended { id: turn.id, outcome, took: now - turn.since, first: turn.first }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEG: LegId = LegId(1);
    const OTHER: LegId = LegId(2);

    fn outcomes(ended: impl IntoIterator<Item = Ended>) -> Vec<(u64, Outcome)> {
        ended.into_iter().map(|e| (e.id.0, e.outcome)).collect()
    }

    /// Turns with prompts on their way by [`LEG`].
    fn asked(ids: impl IntoIterator<Item = u64>) -> (Turns, Instant) {
        let (mut turns, now) = (Turns::default(), Instant::now());
        ids.into_iter().for_each(|id| turns.begin(TurnId(id), LEG, None, now));
        (turns, now)
    }

    /// The usual way: the reply, then the message.
    fn starts(turns: &mut Turns, id: u64, now: Instant) {
        let message = id.to_string();
        assert_eq!(turns.taken(TurnId(id), Some(&message), now), None);
        assert!(turns.message(LEG, &message));
    }

    #[test]
    fn every_turn_ends_once() {
        let (mut turns, now) = asked([1, 2, 3]);
        assert_eq!(turns.refused(TurnId(2), now).unwrap().outcome, Outcome::Refused);
        assert_eq!(turns.refused(TurnId(2), now), None);
        [1, 3].into_iter().for_each(|id| starts(&mut turns, id, now));
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(1, Outcome::Completed), (3, Outcome::Completed)]);
        assert!(turns.idle(LEG, false, now).is_empty() && turns.is_idle() && !turns.ask());
    }

    #[test]
    fn an_idle_of_the_turn_before_ends_nothing() {
        let (mut turns, now) = asked([7]);
        // Before the reply, after it, and by a leg that is late.
        assert!(turns.idle(LEG, false, now).is_empty());
        assert_eq!(turns.taken(TurnId(7), Some("m"), now), None);
        assert!(turns.idle(LEG, false, now).is_empty());
        assert!(!turns.message(LEG, "another's") && !turns.message(OTHER, "m"));
        assert!(turns.idle(LEG, false, now).is_empty());
        assert!(turns.awaits(LEG) && !turns.awaits(OTHER));
        assert!(turns.message(LEG, "m") && !turns.awaits(LEG));
        assert!(turns.idle(OTHER, false, now).is_empty());
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(7, Outcome::Completed)]);
    }

    #[test]
    fn a_reply_may_come_after_everything() {
        let (mut turns, now) = asked([1, 2]);
        assert!(!turns.message(LEG, "a"));
        turns.failed(LEG);
        assert!(turns.idle(LEG, false, now).is_empty());
        assert!(!turns.message(LEG, "b"));
        assert_eq!(outcomes(turns.taken(TurnId(1), Some("a"), now)), [(1, Outcome::Failed)]);
        assert_eq!(turns.taken(TurnId(2), Some("b"), now), None);
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(2, Outcome::Completed)]);
    }

    #[test]
    fn a_prompt_that_was_dropped_is_asked_about() {
        let (mut turns, now) = asked([1, 2, 3]);
        starts(&mut turns, 1, now);
        assert_eq!(turns.taken(TurnId(2), Some("2"), now), None);
        assert!(!turns.ask(), "it may yet begin");
        turns.aborting();
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(1, Outcome::Aborted)]);
        assert!(turns.ask() && !turns.ask());
        assert_eq!(turns.asked(), [TurnId(2)]);
        // Its reply comes late.
        assert_eq!(turns.taken(TurnId(3), Some("3"), now), None);
        assert_eq!(turns.asked(), [TurnId(2), TurnId(3)]);
        // What begins after all is not doubtful any more.
        assert!(turns.message(LEG, "3"));
        let both = [TurnId(2), TurnId(3)];
        assert_eq!(outcomes(turns.done(&both, now)), [(2, Outcome::Aborted)]);
        assert_eq!(turns.asked(), []);
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(3, Outcome::Aborted)]);
    }

    #[test]
    fn what_no_event_tells_of_is_asked_about() {
        let (mut turns, now) = asked([1, 2]);
        assert_eq!(turns.taken(TurnId(1), None, now), None);
        assert!(turns.ask());
        assert!(turns.idle(LEG, false, now).is_empty());
        assert_eq!(outcomes(turns.done(&[TurnId(1)], now)), [(1, Outcome::Completed)]);
        starts(&mut turns, 2, now);
        assert_eq!(turns.asked(), []);
        assert!(turns.idle(LEG, true, now).is_empty() && turns.ask());
        turns.stop_asking();
        turns.adopt(LEG, OTHER);
        assert_eq!(turns.legs().collect::<Vec<_>>(), [OTHER]);
        assert!(turns.ask());
        assert_eq!(outcomes(turns.done(&[TurnId(2)], now)), [(2, Outcome::Completed)]);
    }

    #[test]
    fn a_turn_goes_on_by_another_leg() {
        let (mut turns, now) = asked([1]);
        assert!(!turns.all_begun());
        starts(&mut turns, 1, now);
        assert!(turns.all_begun());
        turns.go_on(OTHER);
        assert!(turns.idle(LEG, false, now).is_empty() && !turns.ask());
        assert_eq!(outcomes(turns.idle(OTHER, false, now)), [(1, Outcome::Completed)]);
        assert!(!turns.all_begun());
    }

    #[test]
    fn errors_and_aborts_do_not_stick() {
        let (mut turns, now) = asked([1]);
        turns.failed(LEG);
        starts(&mut turns, 1, now);
        turns.failed(OTHER);
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(1, Outcome::Completed)]);
        turns.aborting();
        turns.begin(TurnId(2), LEG, None, now);
        starts(&mut turns, 2, now);
        turns.failed(LEG);
        assert_eq!(outcomes(turns.idle(LEG, false, now)), [(2, Outcome::Failed)]);
        turns.begin(TurnId(3), LEG, None, now);
        assert_eq!(outcomes(turns.end_all(Outcome::Indeterminate, now)), [(3, Outcome::Indeterminate)]);
    }

    #[test]
    fn the_first_delta_counts() {
        let (mut turns, now) = asked([1]);
        assert_eq!(turns.delta(LEG, now), None, "the turn before's");
        starts(&mut turns, 1, now);
        assert_eq!(turns.delta(OTHER, now), None);
        assert_eq!(turns.delta(LEG, now + Duration::from_millis(5)), Some(Duration::from_millis(5)));
        assert_eq!(turns.delta(LEG, now + Duration::from_millis(9)), None);
        let ended = turns.idle(LEG, false, now + Duration::from_millis(20)).remove(0);
        assert_eq!((ended.first, ended.took), (Some(Duration::from_millis(5)), Duration::from_millis(20)));
    }

    #[test]
    fn few_strays_are_kept() {
        let (mut turns, now) = asked([1]);
        (0..=MAX_STRAYS).for_each(|n| assert!(!turns.message(LEG, &n.to_string())));
        assert_eq!(turns.strays.len(), MAX_STRAYS);
        assert_eq!(turns.taken(TurnId(1), Some("0"), now), None);
        assert!(turns.idle(LEG, false, now).is_empty() && turns.ask());
    }
}
