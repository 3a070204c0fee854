//! Turns: begun one after the other, and ended exactly once, whoever still listens.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{interval, sleep, timeout},
};
use tracing::warn;

use jetway_config::{Identity, UserId};

use super::{
    Held, Hub,
    ring::EventId,
    state::{Answer, Effect, Ending, Turn},
};
use crate::{
    http::{
        Face,
        fault::{Fault, Kind},
        rfc3339,
    },
    sessions::{cloud, registry::Session},
    stack::Busy,
};

/// How long a session that reported an error may take to go idle, which ends the turn.
const GRACE: Duration = Duration::from_secs(10);

/// How often it is looked whether the session still has a turn, and how often it must have none before a turn counts
/// as dropped: by somebody else's abort while its prompt waited in the CLI.
const LOOK: Duration = Duration::from_secs(1);
const QUIET_LOOKS: u32 = 3;

/// How long a session that is to be removed may still work.
const GRACEFUL: Duration = Duration::from_secs(30);

/// How often a session whose prompt is held is seen to be attached.
const REATTACH: Duration = Duration::from_secs(1);

/// How often it is looked whether it has stopped.
const SOON: Duration = Duration::from_millis(20);

/// A prompt, and how it is to be taken.
pub(in crate::http) struct Ask {
    pub(in crate::http) user: UserId,
    pub(in crate::http) prompt: String,
    /// Passed on as they are.
    pub(in crate::http) attachments: Option<Value>,
    pub(in crate::http) patience: Patience,
}

/// What a prompt that is to be sent once is known by in the directory.
#[derive(Debug, Clone)]
pub(in crate::http) struct Once {
    /// The turn that it begins.
    pub(in crate::http) turn: String,
    pub(in crate::http) who: Identity,
    pub(in crate::http) name: String,
}

/// A name for a turn.
pub(in crate::http) fn new_turn() -> String {
    format!("turn-{}", uuid::Uuid::new_v4().simple())
}

/// What to do when a turn is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::http) enum Patience {
    /// Wait in line.
    #[default]
    Wait,
    /// Do not.
    Refuse,
    /// Say it into the running turn, if there is one.
    Steer,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::http) struct Done {
    pub(in crate::http) turn: String,
    pub(in crate::http) user: UserId,
    pub(in crate::http) message: Option<String>,
    pub(in crate::http) how: Ending,
    pub(in crate::http) content: Option<String>,
    pub(in crate::http) usage: Map<String, Value>,
    pub(in crate::http) error: Option<(String, String)>,
    pub(in crate::http) ended: SystemTime,
}

const ENDED: &str = "jetway.turn_ended";
const REFUSED: &str = "jetway.turn_refused";

impl Done {
    /// As subscribers see it.
    fn told(&self) -> Value {
        json!({
            "turn": self.turn,
            "message_id": self.message,
            "outcome": self.how.as_str(),
            "content": self.content,
            "usage": self.usage,
            "error": self.error.as_ref().map(|(kind, message)| json!({ "type": kind, "message": message })),
            "ended_at": rfc3339(self.ended),
        })
    }
}

type Outcome = Option<Result<Done, Fault>>;

/// A turn to its caller, or to several: one that comes again with the same key waits for the same turn.
#[derive(Debug)]
pub(in crate::http) struct Handle {
    pub(in crate::http) id: String,
    since: OnceLock<EventId>,
    done: watch::Receiver<Outcome>,
}

/// The turn that is under way, to the hub.
pub(super) struct Current {
    handle: Arc<Handle>,
    done: watch::Sender<Outcome>,
}

impl Handle {
    /// Waits for its end.
    pub(in crate::http) async fn ended(&self) -> Result<Done, Fault> {
        let mut done = self.done.clone();
        match done.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }

    /// One whose end is known.
    pub(in crate::http) fn of(turn: String, end: Result<Done, Fault>) -> Arc<Self> {
        let (_, done) = watch::channel(Some(end));
        Arc::new(Self { id: turn, since: OnceLock::new(), done })
    }

    /// Whether it was refused before anything could come of it.
    pub(in crate::http) fn never_was(&self) -> bool {
        let outcome = self.done.borrow();
        outcome.as_ref().and_then(|outcome| outcome.as_ref().err()).is_some_and(never_was)
    }

    /// What is told of its end, once it has ended.
    pub(in crate::http) fn told(&self) -> Option<(&'static str, Value)> {
        self.done.borrow().as_ref().map(|outcome| match outcome {
            Ok(done) => (ENDED, done.told()),
            Err(fault) => (REFUSED, json!({ "turn": self.id, "problem": fault.to_json() })),
        })
    }

    /// What came just before its first event, once it has begun.
    pub(in crate::http) fn since(&self) -> Option<EventId> {
        self.since.get().copied()
    }
}

/// Whether nothing can have come of a prompt that was answered so.
fn never_was(fault: &Fault) -> bool {
    !matches!(fault.kind, Kind::Indeterminate | Kind::Timeout | Kind::CliFailed)
}

fn lost() -> Fault {
    Fault::new(Kind::Indeterminate, "The turn was lost with its session")
}

impl Hub {
    /// Takes a prompt on; `once`, if it is to be sent once. It goes on when its caller does not wait any more.
    pub(in crate::http) fn ask(
        self: &Arc<Self>,
        face: &Arc<Face>,
        ask: Ask,
        once: Option<Once>,
    ) -> Arc<Handle> {
        if ask.patience == Patience::Steer
            && let Some(handle) = self.current()
        {
            let hub = self.clone();
            let face = face.clone();
            face.core.tracker.clone().spawn(async move { hub.steer(&face, ask).await });
            return handle;
        }
        let (done, outcome) = watch::channel(None);
        let id = once.as_ref().map_or_else(new_turn, |once| once.turn.clone());
        let handle = Arc::new(Handle { id, since: OnceLock::new(), done: outcome });
        let (hub, face, handed) = (self.clone(), face.clone(), handle.clone());
        face.core.tracker.clone().spawn(async move {
            if let Err(fault) = hub.conduct(&face, ask, once.as_ref(), &handed, &done).await {
                // Before anybody hears that it may be tried again.
                if let Some(once) = once.filter(|_| never_was(&fault))
                    && let Err(error) = face.core.directory.unmark(&once.who, &once.name).await
                {
                    warn!(%error, "the session directory");
                }
                hub.tell(REFUSED, &json!({ "turn": handed.id, "problem": fault.to_json() }));
                done.send_replace(Some(Err(fault)));
            }
        });
        handle
    }

    fn current(&self) -> Option<Arc<Handle>> {
        self.lock().current.as_ref().map(|current| current.handle.clone())
    }

    async fn steer(&self, face: &Face, ask: Ask) {
        let params = json!({ "prompt": ask.prompt, "mode": "immediate", "attachments": ask.attachments });
        if let Err(fault) = self.prompt(face, &ask.user, ask.patience, params).await {
            self.tell(REFUSED, &json!({ "problem": fault.to_json() }));
        }
    }

    /// Waits in line, asks, and sees to the end.
    async fn conduct(
        self: &Arc<Self>,
        face: &Arc<Face>,
        ask: Ask,
        once: Option<&Once>,
        handle: &Arc<Handle>,
        done: &watch::Sender<Outcome>,
    ) -> Result<(), Fault> {
        let _turn = self.line_up(face, ask.patience).await?;
        self.attach(face).await?;
        self.come_to_be(face, handle, &ask.user).await?;
        // One that a client of the SDK port has begun is as much in the way.
        if ask.patience == Patience::Refuse && self.runs() {
            return Err(self.busy(0));
        }
        {
            let mut inner = self.lock();
            let _ = handle.since.set(inner.state.ring.last());
            inner.state.begin(handle.id.clone(), ask.user.clone());
            inner.current = Some(Current { handle: handle.clone(), done: done.clone() });
        }
        self.tell("jetway.turn_started", &json!({ "turn": handle.id, "user": ask.user }));
        // Also into one that a client of the SDK port has begun.
        let mode = (ask.patience == Patience::Steer && self.runs()).then_some("immediate");
        let params = json!({ "prompt": ask.prompt, "mode": mode, "attachments": ask.attachments });
        match self.prompt(face, &ask.user, ask.patience, params).await {
            Ok(reply) => {
                let message = reply["messageId"].as_str().unwrap_or_default().to_owned();
                let ended = self.with(|state| state.taken(&handle.id, message.clone()));
                self.act(ended.into_iter().collect());
                if let Some(Once { who, name, .. }) = once
                    && let Err(error) = face.core.directory.complete_mark(who, name, &message).await
                {
                    warn!(%error, "the session directory");
                }
            }
            Err(fault) => {
                let mut inner = self.lock();
                // It may have been told of already, by the loss of its leg.
                return match inner.state.end(&handle.id, Ending::Failed) {
                    Some(_) => {
                        inner.current = None;
                        Err(fault)
                    }
                    None => Ok(()),
                };
            }
        }
        self.see_to_the_end(handle).await;
        Ok(())
    }

    /// Holds the prompt until the session can be used, visibly.
    async fn come_to_be(&self, face: &Face, handle: &Handle, user: &UserId) -> Result<(), Fault> {
        let Some(session) = self.session().filter(|session| session.awaits_agent()) else { return Ok(()) };
        {
            let mut inner = self.lock();
            let _ = handle.since.set(inner.state.ring.last());
            inner.pending = Some(Held { turn: handle.id.clone(), user: user.clone() });
        }
        let held = json!({ "turn": handle.id, "user": user, "status": "pending", "reason": cloud::AWAITED });
        self.tell("jetway.turn_pending", &held);
        let coming = async {
            tokio::select! {
                came = cloud::agent(&self.client, &session) => came,
                never = self.stay_attached(face) => match never {},
            }
        };
        let came = self.client.beside(&session, coming).await;
        self.lock().pending = None;
        came.map_err(|refusal| Fault::from(refusal).with("turn", handle.id.as_str()))?;
        self.attach(face).await
    }

    /// Attaches the session again whenever its CLI server was lost. Never ends.
    async fn stay_attached(&self, face: &Face) -> Infallible {
        loop {
            sleep(REATTACH).await;
            // The next time may do.
            let _ = self.attach(face).await;
        }
    }

    /// Sends a prompt of one of the session's people.
    async fn prompt(
        &self,
        face: &Face,
        user: &UserId,
        patience: Patience,
        mut params: Value,
    ) -> Result<Value, Fault> {
        params["sessionId"] = json!(self.id());
        let busy = (patience == Patience::Refuse).then_some(Busy::Refuse);
        face.door.prompt(&self.client, user, busy, &without_nulls(params)).await
    }

    async fn line_up(
        &self,
        face: &Face,
        patience: Patience,
    ) -> Result<tokio::sync::OwnedSemaphorePermit, Fault> {
        let free = self.turns.clone().try_acquire_owned();
        if let Ok(turn) = free {
            return Ok(turn);
        }
        let locks = &face.core.config.locks;
        let position = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waited = if patience == Patience::Refuse || position >= locks.max_waiters {
            None
        } else {
            timeout(locks.wait, self.turns.clone().acquire_owned()).await.ok().and_then(Result::ok)
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        waited.ok_or_else(|| self.busy(position))
    }

    fn busy(&self, position: usize) -> Fault {
        let running = self.with(|s| s.turn.as_ref().map(|t| (t.id.clone(), t.user.clone())));
        let holder = running.or_else(|| self.pending().map(|held| (held.turn, held.user)));
        let elsewhere = || self.session().and_then(|session| session.turn_of());
        let (turn, user) =
            holder.map_or_else(|| (Value::Null, json!(elsewhere())), |(id, user)| (json!(id), json!(user)));
        Fault::new(Kind::Busy, "Another turn is running in this session")
            .with("turn", turn)
            .with("user", user)
            .with("position", position)
            .retry_after(Duration::from_secs(1))
    }

    async fn see_to_the_end(&self, handle: &Handle) {
        let mut done = handle.done.clone();
        let mut pulse = self.pulse.subscribe();
        let (mut looks, mut quiet) = (interval(LOOK), 0);
        loop {
            let failed = self.with(|s| s.turn.as_ref().is_some_and(|t| t.id == handle.id && t.has_failed()));
            let grace = async { if failed { sleep(GRACE).await } else { std::future::pending().await } };
            tokio::select! {
                _ = done.wait_for(Option::is_some) => return,
                _ = pulse.changed(), if !failed => {}
                () = grace => return self.give_up(&handle.id, Ending::Failed),
                _ = looks.tick() => {
                    quiet = if self.runs() { 0 } else { quiet + 1 };
                    if quiet == QUIET_LOOKS {
                        return self.give_up(&handle.id, Ending::Aborted);
                    }
                }
            }
        }
    }

    /// Whether the session has a turn that has not ended, as the SDK port's side of Jetway sees it.
    fn runs(&self) -> bool {
        self.session().is_some_and(|session| session.is_running())
    }

    /// Ends a turn whose end will not be heard of.
    pub(super) fn give_up(&self, turn: &str, how: Ending) {
        let effect = self.with(|state| state.end(turn, how));
        self.act(effect.into_iter().collect::<Vec<Effect>>());
    }

    /// Stops the running turn. Returns its id, if this face began it.
    pub(in crate::http) async fn abort(self: &Arc<Self>, face: &Arc<Face>) -> Result<Option<String>, Fault> {
        if let Some(held) = self.pending() {
            // The CLI server has not heard of it.
            self.session().iter().for_each(|session| self.client.give_up(session));
            return Ok(Some(held.turn));
        }
        let turn = self.current();
        self.call(face, "session.abort", json!({})).await?;
        if let Some(handle) = &turn {
            let (hub, handle) = (self.clone(), handle.clone());
            face.core.tracker.spawn(async move {
                if timeout(GRACE, handle.ended()).await.is_err() {
                    hub.give_up(&handle.id, Ending::Aborted);
                }
            });
        }
        Ok(turn.map(|handle| handle.id.clone()))
    }

    /// Waits for the running turn, as long as a session that is removed waits for one, then stops it.
    pub(in crate::http) async fn settle(self: &Arc<Self>, face: &Arc<Face>, session: &Session) {
        let quiet = async || {
            // Also turns that clients of the SDK port have begun.
            while self.current().is_some() || session.is_running() {
                sleep(SOON).await;
            }
        };
        if timeout(GRACEFUL, quiet()).await.is_err() && self.abort(face).await.is_ok() {
            let _ = timeout(GRACE, quiet()).await;
        }
    }

    /// A turn ended: whoever waits hears of it.
    pub(super) fn ended(&self, turn: Turn, how: Ending) {
        let current = self.lock().current.take();
        let (id, user, message) = (turn.id.clone(), turn.user.clone(), turn.message.clone());
        let Answer { content, usage, error, .. } = turn.into_answer();
        let done = Done { turn: id, user, message, how, content, usage, error, ended: SystemTime::now() };
        if how != Ending::Completed {
            self.lapse();
        }
        self.tell(ENDED, &done.told());
        if let Some(current) = current {
            current.done.send_replace(Some(Ok(done)));
        }
    }
}

/// The CLI takes a member that is null for one that is wrong.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}
