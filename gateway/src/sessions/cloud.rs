//! Cloud sessions: made when the cloud has noted them, usable when the cloud's agent has come, which it tells by a
//! `session.start` of its own. Until then prompts are held; what was sent before would be lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::json;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info};

use jetway_wire::{
    Value, envelope,
    event::{self, Turn},
};

use super::{client::Client, leg::Leg, registry::Session, relay};
use crate::{
    app::Core,
    directory::{Entry, Status},
    metrics,
    stack::Refusal,
};

/// How often the session's history is looked into: the agent may have come while nobody was attached.
const LOOK: Duration = Duration::from_secs(5);

/// What is kept of sessions whose ids are not known yet: a start, and little else, comes before the reply that tells.
const EARLY_BYTES: usize = 256 << 10;

/// Why such a session is `pending`, for people.
pub(crate) const AWAITED: &str = "waiting for the cloud's agent";

/// Whether a session's agent is still to come.
#[derive(Debug, Default)]
pub(super) struct Agent {
    awaited: AtomicBool,
    came: Notify,
}

impl Agent {
    /// As the directory has it: nothing else was made and cannot be used.
    pub(super) fn of(entry: &Entry) -> Self {
        Self { awaited: AtomicBool::new(awaited(entry)), came: Notify::new() }
    }

    /// What the directory says now. What it said earlier may be old news, but an agent that came does not go.
    pub(super) fn learn(&self, entry: &Entry) {
        if entry.confirmed && !awaited(entry) {
            self.came();
        }
    }

    /// It has come. Returns whether that is news.
    fn came(&self) -> bool {
        let news = self.awaited.swap(false, Ordering::AcqRel);
        self.came.notify_waiters();
        news
    }
}

fn awaited(entry: &Entry) -> bool {
    entry.confirmed && entry.status == Status::Pending
}

impl Session {
    /// Whether prompts are held until its agent comes.
    pub(crate) fn awaits_agent(&self) -> bool {
        self.agent.awaited.load(Ordering::Acquire)
    }

    /// It has been made in the cloud.
    pub(crate) fn await_agent(&self) {
        self.agent.awaited.store(true, Ordering::Release);
    }
}

/// Waits until a session's agent has come.
pub(crate) async fn agent(client: &Arc<Client>, session: &Arc<Session>) -> Result<(), Refusal> {
    let core = client.core();
    let patience = core.live().limits.cloud_start;
    let coming = async {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Before the look at the flag: what comes between the two is not missed.
            let came = session.agent.came.notified();
            if !session.awaits_agent() {
                return;
            }
            tokio::select! {
                () = came => {}
                _ = looks.tick() => look(client, session).await,
            }
        }
    };
    match core.drain.unless_draining(timeout(patience, coming)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(Refusal::NotStarted { session: session.key.id.clone(), waited: patience }),
        None => Err(Refusal::Draining(core.config.drain.timeout)),
    }
}

/// Looks whether it has come unnoticed. The way to the session may be broken just now: then the next look tells.
async fn look(client: &Arc<Client>, session: &Arc<Session>) {
    let params = json!({ "sessionId": session.key.id }).to_string();
    let asked = async {
        let leg = client.leg_of(session).await?;
        leg.call("session.getMessages", params.as_bytes()).await
    };
    match asked.await {
        Ok(Ok(history)) => {
            let mut events = Value::new(&history).get("events").into_iter().flat_map(|e| e.elements());
            if events.any(event::is_agents_start) {
                came(client.core(), session);
            }
        }
        Ok(Err(_)) => debug!(session = %session.key.id, "a cloud session without a history"),
        Err(refusal) => debug!(session = %session.key.id, ?refusal, "looking for a cloud session's agent"),
    }
}

fn came(core: &Core, session: &Session) {
    if session.agent.came() {
        info!(session = %session.key.id, "the agent of a cloud session has come");
        core.scribe.runs(&session.key);
    }
}

/// A session that is attached on the leg begins, again perhaps; `frame` tells of it.
pub(super) fn on_start(leg: &Leg, client: &Client, session: &str, frame: &[u8]) {
    let Some(route) = leg.route_to(session).filter(|route| route.session.awaits_agent()) else { return };
    let event = Value::new(frame).get("params").and_then(|params| params.get("event"));
    if event.is_some_and(event::is_agents_start) {
        came(client.core(), &route.session);
    }
}

/// Events of sessions that are being made and whose ids their CLI server chooses, until it has told.
#[derive(Debug, Default)]
pub(super) struct Early {
    bytes: usize,
    /// Whole frames, and their bodies' places in them.
    frames: Vec<(Box<[u8]>, usize)>,
}

impl Early {
    /// Keeps a frame, `body` of which is its last part, while there is room.
    pub(super) fn keep(&mut self, raw: &[u8], body: &[u8]) {
        if self.bytes + raw.len() <= EARLY_BYTES {
            self.bytes += raw.len();
            self.frames.push((raw.into(), raw.len() - body.len()));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// A CLI server has told an id: what came of that session goes to the client, after the reply. The rest stays while
/// `more` ids are to be told.
pub(super) fn let_through(
    leg: &Arc<Leg>,
    client: &Client,
    mut early: Early,
    more: bool,
    out: &mut Vec<u8>,
) -> Early {
    let mut rest = Early::default();
    for (raw, at) in early.frames.drain(..) {
        let body = &raw[at..];
        let Some(event) = event::peek(body) else { continue };
        if relay::sees(leg, client, event, body) {
            if event.turn == Turn::Started {
                on_start(leg, client, event.session, body);
            }
            out.extend_from_slice(&raw);
        } else if more {
            rest.keep(&raw, body);
        } else if leg.exclusive() {
            out.extend_from_slice(&raw);
        } else {
            metrics::filtered();
        }
    }
    rest
}

/// A client's prompt is held.
pub(crate) fn tell_held(client: &Client, session: &Session) {
    let params = json!({
        "sessionId": session.key.id,
        "event": {
            "type": "session.info",
            "id": uuid::Uuid::new_v4().to_string(),
            "timestamp": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            "parentId": null,
            "ephemeral": true,
            "data": { "infoType": "jetway.turn_pending", "message": AWAITED },
        },
    });
    let mut out = Vec::new();
    envelope::write_notification(&mut out, event::SESSION_EVENT, params.to_string().as_bytes());
    let _ = client.send(&out);
}
