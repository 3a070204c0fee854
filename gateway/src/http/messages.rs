//! Prompts and their answers.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as JsonBody,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use utoipa::ToSchema;

use jetway_config::Identity;

use super::{
    Face,
    body::{Exact, whole},
    caller::{Admitted, Caller},
    events,
    fault::{Fault, Kind},
    hub::{Ask, Done, Ending, Handle, Hub, Patience, Place},
    idempotency::{Named, Stands},
    recall, rfc3339,
    welcome::Welcome,
};
use crate::{
    auth,
    directory::{Entry, Role},
};

/// How long an answer is waited for, unless the request says.
const ANSWER: u64 = 600;
/// The longest that one may ask to wait.
const LONGEST: u64 = 6 * 3600;

/// A prompt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) prompt: String,
    /// What to do while another turn runs: `enqueue` waits in line (as without it), `immediate` says it into that
    /// turn, `refuse` answers 409.
    #[serde(default)]
    pub(super) mode: Mode,
    /// As the CLI has them.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) attachments: Option<Vec<Map<String, Value>>>,
    /// How long to wait for the answer; the turn goes on afterwards. 600 unless it is said, at most 21600.
    #[schema(minimum = 1, maximum = 21600)]
    #[serde(default, deserialize_with = "whole")]
    pub(super) timeout_seconds: Option<u64>,
}

/// What to do while another turn runs.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    #[default]
    Enqueue,
    Immediate,
    Refuse,
}

/// A turn that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    pub(super) session_id: String,
    pub(super) turn_id: String,
    /// The CLI's id of the prompt.
    pub(super) message_id: Option<String>,
    /// `completed` or `aborted`.
    pub(super) outcome: String,
    /// What the model said last.
    pub(super) content: Option<String>,
    /// What it took: the CLI's own account, tokens and cost added up.
    #[schema(value_type = Object)]
    pub(super) usage: Map<String, Value>,
    pub(super) ended_at: String,
}

/// Says something in a session.
#[utoipa::path(
    post, path = "/sessions/{ref}/messages", operation_id = "send_message", tag = "turns",
    request_body = Message,
    params(("idempotency-key" = Option<String>, Header, description = "One turn per key: it may be sent again when its reply was lost")),
    responses((status = 200, description = "The answer; the turn as it happens, if `Accept` says so",
        content((Answer = "application/json"), (String = "text/event-stream")))),
)]
pub(super) async fn send(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    Path(reference): Path<String>,
    headers: HeaderMap,
    Exact(message, body): Exact<Message>,
) -> Result<Response, Fault> {
    let entry = face.find_live(&caller.who, &reference, Role::Member).await?;
    let patience = patience(message.timeout_seconds)?;
    let ask = message.into_ask(&caller.who);
    let prompted = Prompted { caller, headers: &headers, body: &body, patience };
    face.ask(&entry, ask, prompted, |a| JsonBody(a).into_response()).await
}

/// A request that holds a prompt.
pub(super) struct Prompted<'a> {
    pub(super) caller: auth::Caller,
    pub(super) headers: &'a HeaderMap,
    /// What tells it from another with the same key.
    pub(super) body: &'a [u8],
    /// How long it waits for the answer.
    pub(super) patience: Duration,
}

impl Face {
    /// Says something in a session.
    pub(super) async fn prompt(
        self: &Arc<Self>,
        entry: &Entry,
        prompt: String,
        prompted: Prompted<'_>,
        shape: fn(Answer) -> Response,
    ) -> Result<Response, Fault> {
        let user = prompted.caller.who.user.clone();
        let ask = Ask { user, prompt, attachments: None, patience: Patience::Wait };
        self.ask(entry, ask, prompted, shape).await
    }

    /// Begins a turn, or finds the one that the same request began, and answers as it was asked: with the turn's
    /// events, or with its end in some shape.
    async fn ask(
        self: &Arc<Self>,
        entry: &Entry,
        ask: Ask,
        prompted: Prompted<'_>,
        shape: fn(Answer) -> Response,
    ) -> Result<Response, Fault> {
        let named = Named::of(prompted.headers, &entry.key, prompted.body)?;
        let hub = self.hub(entry)?;
        // Before it is asked, so that nothing of it is missed.
        let here = hub.place();
        let who = prompted.caller.who.clone();
        let stands = match named {
            None => Stands::Begun(hub.ask(self, ask, None)),
            Some(named) => self.once(who.clone(), named, hub.clone(), ask).await?,
        };
        let again = !matches!(stands, Stands::Begun(_));
        let place = match &stands {
            Stands::Here(handle) => handle.since().unwrap_or(here),
            _ => here,
        };
        let mut response = match (stands, wants_events(prompted.headers)) {
            (Stands::Begun(handle) | Stands::Here(handle), true) => {
                let welcome = Welcome::new(&self.core, prompted.caller, Some(entry.key.clone()));
                events::of_turn(hub.subscribe(Some(Place::After(place))), welcome, handle)
            }
            (Stands::Begun(handle) | Stands::Here(handle), false) => {
                shape(Answer::of(entry, wait(&handle, prompted.patience).await?)?)
            }
            (Stands::Elsewhere(mark), events) => {
                let end = recall::outcome(self, &hub, who.user, &mark, prompted.patience).await;
                match events {
                    true => events::of_end(&Handle::of(mark.turn, end), here),
                    false => shape(Answer::of(entry, end?)?),
                }
            }
        };
        if again {
            response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        Ok(response)
    }

    /// What a key stands for. It is found out beside the request: one whose caller leaves in the middle of that would
    /// leave a key behind that stands for nothing.
    async fn once(
        self: &Arc<Self>,
        who: Identity,
        named: Named,
        hub: Arc<Hub>,
        ask: Ask,
    ) -> Result<Stands, Fault> {
        let face = self.clone();
        let found = self.core.tracker.spawn(async move {
            let begin = |once| hub.ask(&face, ask, Some(once));
            face.keys.once(&face.core.directory, &who, named, begin).await
        });
        found
            .await
            .unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "What the key stands for was not found out")))
    }
}

impl Message {
    fn into_ask(self, who: &Identity) -> Ask {
        let attachments = self.attachments.map(|a| json!(a));
        Ask { user: who.user.clone(), prompt: self.prompt, attachments, patience: self.mode.patience() }
    }
}

impl Mode {
    pub(super) fn patience(self) -> Patience {
        match self {
            Mode::Enqueue => Patience::Wait,
            Mode::Immediate => Patience::Steer,
            Mode::Refuse => Patience::Refuse,
        }
    }
}

pub(super) fn patience(seconds: Option<u64>) -> Result<Duration, Fault> {
    match seconds.unwrap_or(ANSWER) {
        seconds @ 1..=LONGEST => Ok(Duration::from_secs(seconds)),
        _ => Err(Fault::invalid(
            "timeout_seconds",
            format!("`timeout_seconds` must be between 1 and {LONGEST}"),
        )),
    }
}

/// Waits for a turn's end. Its going on does not depend on that.
pub(super) async fn wait(handle: &Handle, patience: Duration) -> Result<Done, Fault> {
    match timeout(patience, handle.ended()).await {
        Ok(done) => done,
        Err(_) => Err(still_runs(&handle.id)),
    }
}

/// A turn did not end in the time that somebody waited for it.
pub(super) fn still_runs(turn: &str) -> Fault {
    let why = "The turn still runs; follow it by the session's events, or stop it by its abort";
    Fault::new(Kind::Timeout, why).with("turn", turn)
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accept.flat_map(|v| v.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

impl Answer {
    /// The answer; a fault, if the turn came to nothing.
    pub(super) fn of(entry: &Entry, done: Done) -> Result<Self, Fault> {
        let kind = match done.how {
            Ending::Completed | Ending::Aborted => None,
            Ending::Failed => Some(Kind::TurnFailed),
            Ending::Indeterminate => Some(Kind::Indeterminate),
        };
        if let Some(kind) = kind {
            let (error, message) = done.error.unwrap_or_default();
            let fault = Fault::new(kind, message).with("turn", done.turn).with("error_type", error);
            return Err(fault.with("message_id", done.message));
        }
        Ok(Self {
            session_id: entry.key.id.to_string(),
            turn_id: done.turn,
            message_id: done.message,
            outcome: done.how.as_str().to_owned(),
            content: done.content,
            usage: done.usage,
            ended_at: rfc3339(done.ended),
        })
    }
}

/// What was stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Aborted {
    session_id: String,
    /// The turn, if this gateway's HTTP face began it.
    turn_id: Option<String>,
}

/// Stops the running turn.
#[utoipa::path(
    post, path = "/sessions/{ref}/abort", operation_id = "abort_turn", tag = "turns",
    responses((status = 200, description = "It stops, if there was one", body = Aborted)),
)]
pub(super) async fn abort(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
) -> Result<JsonBody<Aborted>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Member).await?;
    let hub = face.hub(&entry)?;
    hub.attach(&face).await?;
    let turn_id = hub.abort(&face).await?;
    Ok(JsonBody(Aborted { session_id: entry.key.id.to_string(), turn_id }))
}
