//! Which session a CLI server's terminal shows. Those that Jetway starts have none; one of a fleet may.

use std::sync::Arc;

use axum::{Json as JsonBody, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::{Fault, Kind},
    hub::HELLO,
};
use crate::{
    directory::Role,
    sessions::{
        client::Client,
        outlet::{Inbox, Outlet},
    },
};

/// The session that is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shown {
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_path: Option<String>,
}

/// Which session to show.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Show {
    /// As in `/sessions/{ref}`.
    session: String,
}

/// Nobody listens to what the CLI server tells beside its answer.
struct Nobody;

impl Inbox for Nobody {
    fn deliver(&self, _: &[u8]) {}
}

/// Which of your sessions the terminal of your CLI server shows.
#[utoipa::path(
    get, path = "/foreground", operation_id = "get_foreground", tag = "sessions",
    responses((status = 200, description = "It; 501 where there is no terminal, or it shows none of yours", body = Shown)),
)]
pub(super) async fn read(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
) -> Result<JsonBody<Shown>, Fault> {
    let nobody: Arc<dyn Inbox> = Arc::new(Nobody);
    let client = Client::new(who, HELLO.into(), Outlet::Inside(Arc::downgrade(&nobody)), face.core.clone());
    let answer = face.door.call(&client, "session.getForeground", &json!({})).await;
    client.close();
    let answer = answer?;
    let text = |name: &str| answer[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let why = "Your CLI server has no terminal, or it shows none of your sessions";
    let session_id = text("sessionId").ok_or_else(|| Fault::new(Kind::NotImplemented, why))?;
    Ok(JsonBody(Shown { session_id, workspace_path: text("workspacePath") }))
}

/// Have the terminal of a session's CLI server show it.
#[utoipa::path(
    put, path = "/foreground", operation_id = "set_foreground", tag = "sessions", request_body = Show,
    responses((status = 204, description = "It is shown; 501 where there is no terminal")),
)]
pub(super) async fn show(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Json(Show { session }): Json<Show>,
) -> Result<StatusCode, Fault> {
    let entry = face.find_live(&who, &session, Role::Owner).await?;
    let answer = face.about(&entry, "session.setForeground", json!({})).await?;
    if answer["success"] == json!(true) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let why = answer["error"].as_str().unwrap_or("the CLI server does not say why");
    Err(Fault::new(Kind::NotImplemented, format!("The session's CLI server shows none: {why}")))
}
