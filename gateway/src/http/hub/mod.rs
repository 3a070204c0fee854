//! The HTTP face's hold on a session: one client inside Jetway, attached like any other, whose events many
//! subscribers share.
//!
//! Every event is noted under one lock as it comes, so that a turn's end is never missed, however slow those
//! are who read. They read from a bounded buffer at their own pace, and hear when it has moved on.

mod decide;
pub(super) mod hubs;
pub(super) mod requests;
pub(super) mod ring;
pub(super) mod state;
mod subscription;
mod turns;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, atomic::AtomicUsize};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use jetway_config::{Identity, SessionId, UserId, limits};
use jetway_wire::{
    Envelope, Kind as Message, envelope, event,
    frame::{Caps, Decoder},
};

pub(super) use self::{
    decide::{Verdict, nothing_waits},
    ring::EventId,
    state::Ending,
    subscription::{Next, Over, Place, Pulse, Source, Subscription},
    turns::{Ask, Done, Handle, Once, Patience, new_turn},
};
use self::{
    hubs::Numbers,
    state::{Effect, State},
    turns::Current,
};
use super::{
    Face, door,
    fault::{Fault, Kind},
    profile::Profile,
};
use crate::sessions::{
    client::Client,
    outlet::{Inbox, Outlet},
    registry::Session,
    unfinished,
};

/// What Jetway says of itself to a CLI server, as the SDKs do.
pub(super) const HELLO: &[u8] = br#"{"supportedTaskKinds":["agent","client","shell"]}"#;

/// A session, as the HTTP face holds it.
pub(super) struct Hub {
    /// A session in the cloud has none until the cloud has named it.
    id: OnceLock<SessionId>,
    pub(super) client: Arc<Client>,
    me: Weak<Self>,
    face: Weak<Face>,
    profile: Mutex<Profile>,
    inner: Mutex<Inner>,
    pulse: watch::Sender<Pulse>,
    /// One turn at a time, first come first served.
    turns: Arc<Semaphore>,
    /// How many wait for it.
    waiting: AtomicUsize,
    /// Held while the session is attached, so that two requests do not do it twice.
    attaching: tokio::sync::Mutex<()>,
    numbers: Arc<Numbers>,
}

struct Inner {
    decoder: Decoder,
    state: State,
    /// Who waits for the running turn.
    current: Option<Current>,
    /// The turn whose prompt is held until the session can be used.
    pending: Option<Held>,
}

/// A turn that is to begin.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) turn: String,
    pub(super) user: UserId,
}

impl Hub {
    fn new(
        face: &Arc<Face>,
        owner: Identity,
        id: Option<SessionId>,
        profile: Profile,
        numbers: Arc<Numbers>,
    ) -> Arc<Self> {
        let core = face.core.clone();
        let max_frame = core.live().limits.max_frame;
        let caps = Caps { header: limits::FRAME_HEADER_BYTES, body: max_frame };
        let state = State::new(numbers.latest());
        Arc::new_cyclic(|me: &Weak<Self>| {
            let outlet = Outlet::Inside(me.clone());
            Self {
                client: Client::new(owner, HELLO.into(), outlet, core),
                id: id.map_or_else(OnceLock::new, OnceLock::from),
                me: me.clone(),
                face: Arc::downgrade(face),
                profile: Mutex::new(profile),
                inner: Mutex::new(Inner { decoder: Decoder::new(caps), state, current: None, pending: None }),
                pulse: watch::Sender::default(),
                turns: Arc::new(Semaphore::new(1)),
                waiting: AtomicUsize::new(0),
                attaching: tokio::sync::Mutex::default(),
                numbers,
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes what is known of the session.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.lock().state)
    }

    /// The session's name; nothing while it has none.
    pub(super) fn id(&self) -> &str {
        self.id.get().map_or("", |id| id.as_str())
    }

    /// The session, as the stack has it at hand.
    fn session(&self) -> Option<Arc<Session>> {
        self.client.core().registry.find(self.client.who(), self.id.get()?)
    }

    /// The turn that is to begin, if one is held.
    pub(super) fn pending(&self) -> Option<Held> {
        self.lock().pending.clone()
    }

    fn face(&self) -> Option<Arc<Face>> {
        self.face.upgrade()
    }

    /// Attaches the session, unless it is.
    pub(super) async fn attach(&self, face: &Face) -> Result<(), Fault> {
        let _one = self.attaching.lock().await;
        if self.id.get().is_some_and(|id| self.client.has_attached(id)) {
            return Ok(());
        }
        self.attach_now(face).await
    }

    /// To make it and to go on with it is the same question: the stack knows which it is.
    async fn attach_now(&self, face: &Face) -> Result<(), Fault> {
        let mut params = self.profile().params(self.id.get());
        let unfinished = self.is_unfinished(face).await;
        if unfinished {
            params["continuePendingWork"] = json!(true);
        }
        face.door.call(&self.client, "session.create", &params).await?;
        let goes_on = unfinished && self.goes_on();
        // Also where others may have held the session all the while, something may wait since then.
        if (goes_on || !face.core.exclusive())
            && let Err(fault) = self.recall(face, goes_on).await
        {
            debug!(session = self.id(), why = %fault.detail, "a CLI server does not tell what waits");
        }
        Ok(())
    }

    /// Whether a turn waits for nothing but its people since its CLI server and its gateway were stopped. Asked before
    /// this gateway attaches the session for the first time.
    async fn is_unfinished(&self, face: &Face) -> bool {
        let known = |session: Option<Arc<Session>>| session.is_some_and(|s| s.times_attached() > 0);
        if self.id.get().is_none() || known(self.session()) {
            return false;
        }
        let page = self.call_raw(face, unfinished::READ, unfinished::last_events(self.id())).await;
        // By now it is at hand. This port brings no tools: it would wait for a call of one for ever.
        let waits = |page: Box<[u8]>| unfinished::waits_for(jetway_wire::Value::new(&page), false).is_some();
        !known(self.session()) && page.is_ok_and(waits)
    }

    /// Whether its CLI server was to go on with what waits: of a session with members, if nobody else has the turn.
    fn goes_on(&self) -> bool {
        let leg = self.session().and_then(|session| self.client.leg_with(&session));
        leg.and_then(|leg| leg.route_to(self.id())).is_some_and(|route| route.continues())
    }

    /// Tells the CLI server again what it has to know of the session, which it has attached or will have.
    pub(super) async fn attach_again(&self, face: &Face) -> Result<(), Fault> {
        let _one = self.attaching.lock().await;
        self.attach_now(face).await
    }

    /// Makes the session, shared with `members`, as `jetway` says. Returns its id, which may be of the cloud's choice.
    pub(super) async fn make(
        &self,
        face: &Face,
        members: &[Value],
        jetway: &Value,
    ) -> Result<SessionId, Fault> {
        let _one = self.attaching.lock().await;
        let mut params = self.profile().params(self.id.get());
        params["members"] = json!(members);
        params["jetway"] = jetway.clone();
        let made = face.door.call(&self.client, "session.create", &params).await?;
        if self.id.get().is_none()
            && let Some(Ok(id)) = made["sessionId"].as_str().map(str::parse)
        {
            let _ = self.id.set(id);
        }
        self.id.get().cloned().ok_or_else(|| Fault::new(Kind::CliFailed, "The CLI server named no session"))
    }

    /// What its CLI server is told of the session when it is attached.
    pub(super) fn profile(&self) -> Profile {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes that.
    pub(super) fn set_profile(&self, profile: Profile) {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = profile;
    }

    /// Calls a method about this session.
    pub(super) async fn call(
        &self,
        face: &Face,
        method: &'static str,
        params: Value,
    ) -> Result<Value, Fault> {
        door::read(&self.call_raw(face, method, params).await?)
    }

    /// The same; the result as the CLI server wrote it.
    pub(super) async fn call_raw(
        &self,
        face: &Face,
        method: &'static str,
        mut params: Value,
    ) -> Result<Box<[u8]>, Fault> {
        params["sessionId"] = json!(self.id());
        face.door.call_raw(&self.client, method, &params).await
    }

    /// Adds an event of Jetway's own.
    pub(super) fn tell(&self, kind: &str, data: &Value) {
        let id = self.numbers.next();
        self.with(|state| state.push(id, kind, data.to_string().as_bytes()));
        self.wake();
    }

    fn wake(&self) {
        self.pulse.send_modify(|_| ());
    }

    /// Says that nothing more will come, and why; what runs has been told of by then.
    fn close(&self, over: Over) {
        let how = match over {
            Over::Stopping => {
                self.with(|state| state.requests.hand_on());
                self.client.cut_off();
                Ending::Indeterminate
            }
            // The session's end has ended its turn.
            Over::Ended => {
                self.client.close();
                Ending::Aborted
            }
        };
        // Nothing more will be heard of it.
        if let Some(turn) = self.with(|state| state.turn.as_ref().map(|turn| turn.id.clone())) {
            self.give_up(&turn, how);
        }
        self.pulse.send_replace(Pulse { over: Some(over) });
    }

    /// Whether somebody reads its events.
    pub(super) fn is_read(&self) -> bool {
        self.pulse.receiver_count() > 0
    }

    /// Whether nobody listens, nothing runs and nobody is asked for anything.
    fn is_quiet(&self) -> bool {
        !self.is_read()
            && self.turns.available_permits() == 1
            && self.with(|s| !s.is_running() && s.requests.list().is_empty())
    }

    fn take(&self, frame: &[u8], state: &mut State, effects: &mut Vec<Effect>) {
        let Ok(message) = Envelope::trusted(frame) else { return };
        match &message.kind {
            Message::Notification { method, params: Some(params) } if *method == event::SESSION_EVENT => {
                // Before its own is named there is no other.
                let mine = |id: std::borrow::Cow<'_, str>| self.id.get().is_none_or(|own| id == own.as_str());
                let ours = event::session_of(method, *params).is_some_and(mine);
                let Some(event) = params.get("event").filter(|_| ours) else { return };
                let kind = event.get("type").and_then(|t| t.as_str()).unwrap_or_default();
                let data = event.get("data").map_or(&b"{}"[..], |d| d.text());
                effects.extend(state.event(self.numbers.next(), &kind, data));
            }
            Message::Request { id, method, params } => {
                let params = params.map_or(&b"{}"[..], |p| p.text());
                effects.extend(self.asked(id, method, params, state));
            }
            _ => {}
        }
    }

    /// A CLI server asks something of its client; questions for a person are all that is answered here.
    fn asked(&self, id: &jetway_wire::Id, method: &str, params: &[u8], state: &mut State) -> Option<Effect> {
        if method == "userInput.request"
            && let Ok(params) = serde_json::from_slice(params)
        {
            let request = requests::Request::question(id.clone(), &params);
            if state.requests.add(request.clone()) {
                return Some(Effect::Asked(request));
            }
        }
        Some(Effect::Unanswerable(id.clone()))
    }

    fn act(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ended(turn, how) => self.ended(*turn, how),
                Effect::Asked(request) => self.decide(request),
                Effect::Unanswerable(id) => {
                    let body = json!({ "jsonrpc": "2.0", "id": 0, "error": {
                        "code": envelope::code::METHOD_NOT_FOUND, "message": "nobody answers this here" } });
                    self.reply(id, body);
                }
            }
        }
    }

    /// Answers a request of the CLI server.
    fn reply(&self, id: jetway_wire::Id, body: Value) {
        let Some(face) = self.face() else { return };
        let client = self.client.clone();
        face.core.tracker.spawn(async move {
            let body = body.to_string();
            if let Ok(answer) = Envelope::trusted(body.as_bytes()) {
                let _ = client.answer(&id, &answer).await;
            }
        });
    }
}

impl Inbox for Hub {
    fn deliver(&self, frames: &[u8]) {
        let mut effects = Vec::new();
        {
            let mut inner = self.lock();
            let Inner { decoder, state, .. } = &mut *inner;
            let mut batch = decoder.feed(frames);
            loop {
                match batch.next() {
                    Ok(Some(frame)) => self.take(frame.body, state, &mut effects),
                    Ok(None) => break,
                    Err(error) => {
                        warn!(session = self.id(), %error, "what the relay sent is no frame");
                        break;
                    }
                }
            }
        }
        self.act(effects);
        self.wake();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.client.close();
    }
}
