//! Permission prompts and questions, for people.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::Fault,
    hub::{Hub, Verdict, nothing_waits},
};
use crate::directory::{Entry, Role};

/// What waits for a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Waiting {
    /// Each with its `id`, its `type` (`permission` or `question`) and what the CLI said of it.
    #[schema(value_type = Vec<Object>)]
    requests: Vec<Value>,
}

/// An answer: to a permission prompt a `decision`, to a question an `answer`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RequestReply)]
pub(super) struct Reply {
    pub(super) decision: Option<Decision>,
    /// `once` unless it is said.
    #[serde(default)]
    pub(super) scope: Scope,
    pub(super) answer: Option<String>,
    /// Why not, for the model.
    pub(super) feedback: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Decision {
    Approve,
    Deny,
}

/// For how long something is approved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    #[default]
    Once,
    Session,
}

/// Permissions and questions that wait for a person.
#[utoipa::path(
    get, path = "/sessions/{ref}/requests", operation_id = "list_requests", tag = "people",
    responses((status = 200, description = "They", body = Waiting)),
)]
pub(super) async fn list(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
) -> Result<JsonBody<Waiting>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Viewer).await?;
    let hub = face.asked(&entry).await?;
    let requests = hub.map(|hub| hub.with(|state| state.requests.list())).unwrap_or_default();
    Ok(JsonBody(Waiting { requests }))
}

impl Face {
    /// The hold on a session in which something may wait.
    async fn asked(self: &Arc<Self>, entry: &Entry) -> Result<Option<Arc<Hub>>, Fault> {
        let held = self.hubs.held(&entry.key.owner, &entry.key.id);
        // A process of its own that this face does not hold has asked nothing, and may have to be started.
        if held.is_some() || self.core.exclusive() {
            return Ok(held);
        }
        let hub = self.hub(entry)?;
        hub.attach(self).await?;
        Ok(Some(hub))
    }
}

/// Answers one of them.
#[utoipa::path(
    post, path = "/sessions/{ref}/requests/{id}", operation_id = "answer_request", tag = "people",
    request_body = Reply,
    responses((status = 204, description = "It is answered")),
)]
pub(super) async fn answer(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path((reference, id)): Path<(String, String)>,
    Json(reply): Json<Reply>,
) -> Result<StatusCode, Fault> {
    let entry = face.find_live(&who, &reference, Role::Member).await?;
    let verdict = reply.verdict()?;
    let hub = face.asked(&entry).await?;
    hub.ok_or_else(nothing_waits)?.answer(&face, &id, &verdict).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Reply {
    pub(super) fn verdict(self) -> Result<Verdict, Fault> {
        match (self.decision, self.answer) {
            (Some(Decision::Approve), None) => Ok(Verdict::Approve { session: self.scope == Scope::Session }),
            (Some(Decision::Deny), None) => {
                Ok(Verdict::Deny(self.feedback.unwrap_or_else(|| "the user said no".into())))
            }
            (None, Some(answer)) => Ok(Verdict::Answer(answer)),
            _ => Err(Fault::invalid("decision", "Send either a `decision` or an `answer`")),
        }
    }
}
