//! Conversations without a session to look after: one question, a chat, one's own sticky chat, a team's.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use jetway_config::Identity;

use super::{
    Face,
    body::{Exact, Json, whole},
    caller::{Admitted, Caller},
    create::Create,
    fault::{Fault, Kind},
    hub::{Ask, Patience},
    lookup::no_directory,
    messages::{self, Answer, Prompted},
    profile::Permissions,
    sessions::How,
};
use crate::directory::{Entry, List, ListError, MAX_PAGE, Role, Sort, Status};

/// A question of its own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    prompt: String,
    model: Option<String>,
    /// As in a session's creation.
    #[schema(value_type = Option<Object>)]
    provider: Option<Map<String, Value>>,
    system_message: Option<String>,
    #[serde(default)]
    permissions: Permissions,
    #[schema(minimum = 1, maximum = 21600)]
    #[serde(default, deserialize_with = "whole")]
    timeout_seconds: Option<u64>,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Analysis {
    result: Option<String>,
    #[schema(value_type = Object)]
    usage: Map<String, Value>,
}

/// One question: a session that is made, asked and removed, whatever comes of it.
#[utoipa::path(
    post, path = "/analyze", operation_id = "analyze", tag = "chats",
    request_body = Question,
    responses((status = 200, description = "The answer", body = Analysis)),
)]
pub(super) async fn analyze(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Json(question): Json<Question>,
) -> Result<JsonBody<Analysis>, Fault> {
    let patience = messages::patience(question.timeout_seconds)?;
    let wish = Create {
        model: question.model,
        provider: question.provider,
        system_message: question.system_message,
        permissions: question.permissions,
        ephemeral: true,
        ..Create::default()
    };
    let prompt = question.prompt;
    let task = face.core.tracker.spawn({
        let face = face.clone();
        async move {
            let (entry, hub) = face.create(&who, wish).await?;
            let ask = Ask { user: who.user.clone(), prompt, attachments: None, patience: Patience::Wait };
            let done = messages::wait(&hub.ask(&face, ask, None), patience).await;
            // The answer does not wait for this, and nobody hears how it went.
            let removed = face.end(&entry, &How { force: true, ..How::default() }).await;
            if let Err(fault) = removed {
                tracing::warn!(session = %entry.key.id, why = %fault.detail, "removing an ephemeral session");
            }
            Answer::of(&entry, done?)
        }
    });
    let answer = task.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "The question was lost")))?;
    Ok(JsonBody(Analysis { result: answer.content, usage: answer.usage }))
}

/// A chat that was begun.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    session_id: String,
}

/// Begins a chat.
#[utoipa::path(
    post, path = "/chat/start", operation_id = "start_chat", tag = "chats",
    request_body = Create,
    responses((status = 200, description = "It has begun", body = Started)),
)]
pub(super) async fn start(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Json(wish): Json<Create>,
) -> Result<JsonBody<Started>, Fault> {
    let (entry, _) = face.create(&who, wish).await?;
    Ok(JsonBody(Started { session_id: entry.key.id.to_string() }))
}

/// Something said in a chat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Said {
    session_id: String,
    message: String,
    #[schema(minimum = 1, maximum = 21600)]
    #[serde(default, alias = "timeout_seconds", deserialize_with = "whole")]
    timeout_seconds: Option<u64>,
}

/// What was answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reply {
    content: Option<String>,
    session_id: String,
    turn_id: String,
}

fn reply(answer: Answer) -> Response {
    let Answer { content, session_id, turn_id, .. } = answer;
    JsonBody(Reply { content, session_id, turn_id }).into_response()
}

/// Says something in a chat.
#[utoipa::path(
    post, path = "/chat/message", operation_id = "chat_message", tag = "chats",
    request_body = Said,
    params(("idempotency-key" = Option<String>, Header, description = "One turn per key: it may be sent again when its reply was lost")),
    responses((status = 200, description = "The answer; the turn as it happens, if `Accept` says so",
        content((Reply = "application/json"), (String = "text/event-stream")))),
)]
pub(super) async fn message(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    headers: HeaderMap,
    Exact(said, body): Exact<Said>,
) -> Result<Response, Fault> {
    let patience = messages::patience(said.timeout_seconds)?;
    let entry = face.find_live(&caller.who, &said.session_id, Role::Member).await?;
    let prompted = Prompted { caller, headers: &headers, body: &body, patience };
    face.prompt(&entry, said.message, prompted, reply).await
}

/// A chat to be ended.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct End {
    session_id: String,
}

/// It was.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ended {
    success: bool,
}

/// Ends a chat.
#[utoipa::path(
    post, path = "/chat/end", operation_id = "end_chat", tag = "chats",
    request_body = End,
    responses((status = 200, description = "It has ended", body = Ended)),
)]
pub(super) async fn end(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Json(end): Json<End>,
) -> Result<JsonBody<Ended>, Fault> {
    let entry = face.find_live(&who, &end.session_id, Role::Owner).await?;
    face.end_later(entry, How::default()).await?;
    Ok(JsonBody(Ended { success: true }))
}

/// Something said where it is clear in which session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Spoken {
    message: String,
    #[schema(minimum = 1, maximum = 21600)]
    #[serde(default, deserialize_with = "whole")]
    timeout_seconds: Option<u64>,
}

/// Says something in the user's own chat, which is always there.
#[utoipa::path(
    post, path = "/chat", operation_id = "chat", tag = "chats",
    request_body = Spoken,
    params(("idempotency-key" = Option<String>, Header, description = "One turn per key: it may be sent again when its reply was lost")),
    responses((status = 200, description = "The answer; the turn as it happens, if `Accept` says so",
        content((Reply = "application/json"), (String = "text/event-stream")))),
)]
pub(super) async fn sticky(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    headers: HeaderMap,
    Exact(said, body): Exact<Spoken>,
) -> Result<Response, Fault> {
    let patience = messages::patience(said.timeout_seconds)?;
    let entry = face.own_chat(&caller.who).await?;
    let prompted = Prompted { caller, headers: &headers, body: &body, patience };
    face.prompt(&entry, said.message, prompted, reply).await
}

/// Something said in a team's session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamSaid {
    message: String,
    /// Which session, as in `/sessions/{ref}`; the one that is shared with the caller, if there is only one.
    session: Option<String>,
    #[schema(minimum = 1, maximum = 21600)]
    #[serde(default, deserialize_with = "whole")]
    timeout_seconds: Option<u64>,
}

/// Says something in a shared session: one turn at a time.
#[utoipa::path(
    post, path = "/team-chat", operation_id = "team_chat", tag = "chats",
    request_body = TeamSaid,
    params(("idempotency-key" = Option<String>, Header, description = "One turn per key: it may be sent again when its reply was lost")),
    responses((status = 200, description = "The answer; the turn as it happens, if `Accept` says so",
        content((Reply = "application/json"), (String = "text/event-stream")))),
)]
pub(super) async fn team(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    headers: HeaderMap,
    Exact(said, body): Exact<TeamSaid>,
) -> Result<Response, Fault> {
    let patience = messages::patience(said.timeout_seconds)?;
    let entry = match &said.session {
        Some(reference) => face.find_live(&caller.who, reference, Role::Member).await?,
        None => face.only_shared(&caller.who).await?,
    };
    let prompted = Prompted { caller, headers: &headers, body: &body, patience };
    face.prompt(&entry, said.message, prompted, reply).await
}

impl Face {
    /// The user's own chat. Its id is the user's alone, also where CLI servers are shared.
    async fn own_chat(self: &Arc<Self>, who: &Identity) -> Result<Entry, Fault> {
        let digest = Sha256::digest(who.to_string());
        let id = digest.iter().take(16).fold("chat-".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        // Twice: of two first messages at once, one makes the session.
        for _ in 0..2 {
            match self.find_live(who, &id, Role::Owner).await {
                Err(fault) if matches!(fault.kind, Kind::SessionNotFound | Kind::Ended) => {}
                found => return found,
            }
            let wish =
                Create { session_id: Some(id.clone()), name: Some("chat".into()), ..Create::default() };
            match self.create(who, wish).await {
                Err(fault) if fault.kind == Kind::Conflict => {}
                made => return made.map(|(entry, _)| entry),
            }
        }
        self.find_live(who, &id, Role::Owner).await
    }

    /// The one session that the caller and others take part in.
    async fn only_shared(&self, who: &Identity) -> Result<Entry, Fault> {
        let list = List { sort: Sort::Updated, limit: MAX_PAGE, ..List::default() };
        let page = self.core.directory.list(who, &list).await.map_err(|error| match error {
            ListError::Store(error) => no_directory(error),
            ListError::BadCursor => Fault::new(Kind::Internal, "No such list"),
        })?;
        let shared = |e: &Entry| e.status != Status::Terminated && !e.members.is_empty();
        let mut found: Vec<_> = page.entries.into_iter().filter(shared).collect();
        match found.len() {
            0 => Err(Fault::new(
                Kind::SessionNotFound,
                "No session is shared with you; make one with `members`",
            )),
            1 => Ok(found.remove(0)),
            _ => {
                let candidates: Vec<_> = found.iter().take(10).map(|e| json!(e.key.id)).collect();
                Err(Fault::new(Kind::Ambiguous, "Say which `session`").with("candidates", candidates))
            }
        }
    }
}
