//! The turns of a session, as its connections tell of them.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;
use tracing::info;

use jetway_config::UserId;
use jetway_wire::{
    Value,
    event::{self, Turn},
};

use super::{News, Session, State};
use crate::{
    admission::Permit,
    metrics,
    sessions::{
        lease::Lease,
        stranded::Hope,
        turn::{Ended, LegId, Outcome, TurnId},
    },
};

impl Session {
    /// Whether a turn runs whose lease is over.
    pub(crate) fn is_stale(&self) -> bool {
        self.lock().turns.is_stale(Instant::now())
    }

    /// Whose turn runs here, where that is known: in a shared session.
    pub(crate) fn turn_of(&self) -> Option<UserId> {
        self.lock().turns.lease().map(Lease::who)
    }

    /// Whether a turn runs whose prompt went by that leg.
    pub(crate) fn runs_on(&self, leg: LegId) -> bool {
        self.lock().turns.legs().any(|of| of == leg)
    }

    /// The lease of the turn that runs was lost. Returns whether one did.
    pub(crate) fn lease_lost(&self) -> bool {
        let mut state = self.lock();
        if state.turns.lease().is_none() {
            return false;
        }
        state.fence = None;
        let ended = state.turns.end_all(Outcome::Indeterminate, Instant::now());
        self.report(&mut state, ended);
        true
    }

    /// Whether a prompt that went by that leg has yet to begin.
    pub(crate) fn awaits(&self, leg: LegId) -> bool {
        self.lock().turns.awaits(leg)
    }

    /// The legs that will tell when the turns that run have ended; none, if all are lost.
    pub(crate) fn turns_hang_on(&self) -> Vec<LegId> {
        let state = self.lock();
        state.turns.legs().filter(|_| !state.stand.is_stranded()).collect()
    }

    /// The leg `from` is gone: what runs is to be asked about on another.
    pub(crate) fn adopt_turns(&self, from: LegId, to: LegId) {
        self.lock().turns.adopt(from, to);
    }

    /// Its people are asked for something.
    pub(crate) fn asked(&self, id: &str) {
        self.lock().stand.asked(id);
    }

    /// Somebody has answered.
    pub(crate) fn answered(&self, id: &str) {
        self.lock().stand.answered(id);
    }

    /// A connection is lost by which something about it was on its way to the CLI.
    pub(crate) fn acting(&self) {
        let mut state = self.lock();
        if !state.turns.is_idle() {
            state.stand.acting();
        }
    }

    /// A connection by which it was attached is lost, most likely with its CLI process; its client brings it back. If
    /// its turns may go on then they are not over: what its client may hope for.
    pub(crate) fn strand(&self) -> Option<Arc<Hope>> {
        let mut state = self.lock();
        if state.attached == 0 || !state.stand.waits() || !state.turns.all_begun() {
            return None;
        }
        state.attached -= 1;
        let last = state.attached == 0;
        if last {
            self.counters.live.less(&state.server, &self.key.owner.tenant);
        }
        Some(state.stand.strand(last))
    }

    /// Whether its turns are stranded, and wait for nothing but what a journal says is open.
    pub(crate) fn may_go_on(&self, open: &[Box<str>]) -> bool {
        let state = self.lock();
        state.stand.is_stranded() && state.stand.agrees(open)
    }

    pub(crate) fn is_stranded(&self) -> bool {
        self.lock().stand.is_stranded()
    }

    /// They go on by `leg`. Returns whether they were still to.
    pub(crate) fn turns_go_on(&self, leg: LegId) -> bool {
        let mut state = self.lock();
        let go_on = state.stand.go_on();
        if go_on {
            state.turns.go_on(leg);
        }
        go_on
    }

    /// Gives up that they go on for those who have lost them. Returns whether that is given up, by whomever.
    pub(crate) fn give_up(&self, hope: &Arc<Hope>) -> bool {
        let mut state = self.lock();
        if state.stand.is_stranded() && state.stand.is_hoped_for(hope) {
            let ended = state.turns.end_all(Outcome::Indeterminate, Instant::now());
            self.report(&mut state, ended);
        } else if state.stand.is_hoped_for(hope) {
            // The process is still there: they go on for those who have it attached.
            state.stand.give_up();
            self.note_left();
        }
        hope.is_given_up()
    }

    /// Its CLI server has closed it, whoever is attached: nothing runs in it any more.
    pub(crate) fn closed(&self) {
        let mut state = self.lock();
        state.closed = true;
        let ended = state.turns.end_all(Outcome::Aborted, Instant::now());
        self.report(&mut state, ended);
    }

    /// A prompt is on its way, and has room until its session has nothing more to do; `None` when nobody is
    /// attached who would see the turn end.
    pub(crate) fn begin_turn(
        &self,
        leg: LegId,
        lease: Option<Lease>,
        permit: Option<&Arc<Permit>>,
    ) -> Option<TurnId> {
        let mut state = self.lock();
        if state.attached == 0 {
            return None;
        }
        if state.permit.is_none() {
            state.permit = permit.cloned();
        }
        let id = TurnId(self.counters.next_turn.fetch_add(1, Ordering::Relaxed) + 1);
        state.turns.begin(id, leg, lease, Instant::now());
        let running = self.counters.running_turns.fetch_add(1, Ordering::Relaxed) + 1;
        metrics::turns_running(running);
        Some(id)
    }

    /// The CLI took a prompt, as the message of that id if it named one. Returns whether it must be [asked].
    ///
    /// [asked]: crate::sessions::lease::ask_until_done
    pub(crate) fn turn_taken(&self, id: TurnId, message: Option<&str>) -> bool {
        let mut state = self.lock();
        let ended = state.turns.taken(id, message, Instant::now());
        self.report(&mut state, ended);
        state.turns.ask()
    }

    /// Has it asked about turns whose end no event will tell. Returns whether nobody asks yet.
    pub(crate) fn ask_about_turns(&self) -> bool {
        self.lock().turns.ask()
    }

    /// The turns that the CLI is still to be asked about; nobody asks any more when there are none.
    pub(crate) fn doubtful_turns(&self) -> Vec<TurnId> {
        self.lock().turns.asked()
    }

    /// The leg on which the CLI was asked about them is lost: another is looked for.
    pub(crate) fn stop_asking(&self) {
        let mut state = self.lock();
        state.turns.stop_asking();
        if !state.turns.is_idle() {
            self.note_left();
        }
    }

    /// The CLI has nothing more to do for those turns.
    pub(crate) fn turns_done(&self, turns: &[TurnId]) {
        let mut state = self.lock();
        let ended = state.turns.done(turns, Instant::now());
        self.report(&mut state, ended);
    }

    pub(crate) fn turn_refused(&self, id: TurnId) {
        let mut state = self.lock();
        let ended = state.turns.refused(id, Instant::now());
        self.report(&mut state, ended);
    }

    /// One of its events came by `leg`; `params` reads what else it says.
    pub(crate) fn follow<'a>(
        &self,
        turn: Turn,
        leg: LegId,
        params: impl FnOnce() -> Option<Value<'a>>,
    ) -> News {
        match turn {
            // One load for all but a turn's first delta.
            Turn::Delta => {
                if self.silent.load(Ordering::Relaxed)
                    && let Some(after) = self.lock().turns.delta(leg, Instant::now())
                {
                    self.silent.store(false, Ordering::Relaxed);
                    return News::First(after);
                }
            }
            Turn::Prompted => {
                let Some(message) = params().and_then(event::message_of) else { return News::Nothing };
                if self.lock().turns.message(leg, &message) {
                    self.silent.store(true, Ordering::Relaxed);
                }
            }
            Turn::Failed => self.lock().turns.failed(leg),
            Turn::Idle => {
                let goes_on = params().is_some_and(event::goes_on);
                let mut state = self.lock();
                let ended = state.turns.idle(leg, goes_on, Instant::now());
                self.report(&mut state, ended);
                if state.turns.ask() {
                    return News::Doubt;
                }
            }
            Turn::Asked | Turn::Answered | Turn::Started | Turn::Other => {}
        }
        News::Nothing
    }

    pub(crate) fn aborting(&self) {
        self.lock().turns.aborting();
    }

    /// Whether a turn is running; asked when its CLI server is lost.
    pub(crate) fn is_running(&self) -> bool {
        !self.lock().turns.is_idle()
    }

    /// The room of the turns that run, for one more prompt.
    pub(crate) fn permit(&self) -> Option<Arc<Permit>> {
        self.lock().permit.clone()
    }

    pub(super) fn report(&self, state: &mut State, ended: impl IntoIterator<Item = Ended>) {
        if state.turns.is_idle() {
            state.permit = None;
            state.stand.end();
        }
        for turn in ended {
            state.last_turn = Some(Instant::now());
            let running = self.counters.running_turns.fetch_sub(1, Ordering::Relaxed) - 1;
            metrics::turn_ended(&turn, running);
            info!(
                tenant = %self.key.owner.tenant,
                user = %self.key.owner.user,
                session = %self.key.id,
                backend = %state.server,
                turn = %turn.id,
                outcome = turn.outcome.as_str(),
                duration_ms = turn.took.as_millis() as u64,
                first_delta_ms = turn.first.map(|f| f.as_millis() as u64),
                "turn ended"
            );
        }
    }
}
