//! What was said in a session, and going back in it.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use axum::{
    Json as JsonBody,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use jetway_config::SessionId;

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::{Fault, Kind},
    lookup::no_directory,
    query::Query,
    view::{Base, View},
};
use crate::directory::{Entry, Role};

/// Something that was said.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Utterance<'a> {
    /// The CLI's id of the event, for going back to it.
    id: Cow<'a, str>,
    /// `user` or `assistant`.
    role: &'static str,
    content: Cow<'a, str>,
    at: Cow<'a, str>,
}

/// What was said in a session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History<'a> {
    session_id: &'a str,
    messages: Vec<Utterance<'a>>,
}

/// Read what was said in a session.
#[utoipa::path(
    get, path = "/sessions/{ref}/messages", operation_id = "read_history", tag = "history",
    responses((status = 200, description = "What was said", body = History<'_>)),
)]
pub(super) async fn read(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
) -> Result<Response, Fault> {
    let entry = face.find_live(&who, &reference, Role::Viewer).await?;
    let events = face.events(&entry).await?;
    let history = History { session_id: entry.key.id.as_str(), messages: said(&events) };
    Ok(JsonBody(history).into_response())
}

/// In which form.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    /// `md`, `json` or `html`; `md` unless it is said.
    #[param(pattern = "^(md|json|html)$")]
    format: Option<String>,
}

/// Take away what was said in a session.
#[utoipa::path(
    get, path = "/sessions/{ref}/export", operation_id = "export_session", tag = "history", params(Form),
    responses((status = 200, description = "What was said", content((String = "text/markdown"), (History<'_> = "application/json"), (String = "text/html")))),
)]
pub(super) async fn export(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    Query(form): Query<Form>,
) -> Result<Response, Fault> {
    let entry = face.find_live(&who, &reference, Role::Viewer).await?;
    let events = face.events(&entry).await?;
    let messages = said(&events);
    let title = entry.name.as_ref().map_or(entry.key.id.as_str(), |n| n.as_str());
    let (kind, text) = match form.format.as_deref() {
        None | Some("md") => ("text/markdown; charset=utf-8", markdown(title, &messages)),
        Some("json") => {
            let history = json!({ "session_id": entry.key.id, "name": title, "messages": messages });
            ("application/json", history.to_string())
        }
        Some("html") => ("text/html; charset=utf-8", html(title, &messages)),
        Some(_) => return Err(Fault::invalid("format", "`format` must be `md`, `json` or `html`")),
    };
    // What is said there is anybody's text: no script of it runs.
    let safe = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    Ok((safe, text).into_response())
}

fn markdown(title: &str, messages: &[Utterance<'_>]) -> String {
    let mut out = format!("# {title}\n");
    for m in messages {
        let _ = write!(out, "\n## {} ({})\n\n{}\n", m.role, m.at, m.content);
    }
    out
}

fn html(title: &str, messages: &[Utterance<'_>]) -> String {
    let title = escaped(title);
    let mut out = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title><style>body{{max-width:50em;margin:2em auto;\
         font-family:sans-serif}}pre{{white-space:pre-wrap}}</style><h1>{title}</h1>\n"
    );
    for m in messages {
        let _ = writeln!(
            out,
            "<h2>{} <small>{}</small></h2><pre>{}</pre>",
            m.role,
            escaped(&m.at),
            escaped(&m.content)
        );
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A fork to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fork {
    /// What people call it.
    name: Option<String>,
    /// Up to which message; all of them, if it is not said.
    to_message: Option<String>,
}

/// Make another session of what was said in one.
#[utoipa::path(
    post, path = "/sessions/{ref}/fork", operation_id = "fork_session", tag = "history", request_body = Fork,
    responses((status = 201, description = "The new session; at least its id", body = Object)),
)]
pub(super) async fn fork(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    Json(fork): Json<Fork>,
) -> Result<Response, Fault> {
    let entry = face.find_live(&who, &reference, Role::Owner).await?;
    let mut params = json!({});
    if let Some(name) = fork.name {
        params["name"] = json!(name);
    }
    if let Some(event) = fork.to_message {
        params["toEventId"] = json!(event);
    }
    let made = face.about(&entry, "sessions.fork", params).await?;
    let id: SessionId = made["sessionId"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| Fault::new(Kind::CliFailed, "The CLI server told of no fork"))?;
    let found = face.core.directory.find(&entry.key.owner, &id).await.map_err(no_directory)?;
    let body = match found {
        Some(entry) => json!(View::of(&entry, &who, &Base::of(&uri, &headers))),
        // It is noted a moment later.
        None => json!({ "session_id": id }),
    };
    Ok((StatusCode::CREATED, JsonBody(body)).into_response())
}

/// Have the CLI server sum up what was said.
#[utoipa::path(
    post, path = "/sessions/{ref}/compact", operation_id = "compact_session", tag = "history",
    responses((status = 200, description = "What the CLI server says of it", body = Object)),
)]
pub(super) async fn compact(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
) -> Result<JsonBody<Value>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Member).await?;
    face.about(&entry, "session.history.compact", json!({})).await.map(JsonBody)
}

/// List where a session can go back to.
#[utoipa::path(
    get, path = "/sessions/{ref}/rewind-points", operation_id = "list_rewind_points", tag = "history",
    responses((status = 200, description = "As the CLI server has them", body = Object)),
)]
pub(super) async fn rewind_points(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
) -> Result<JsonBody<Value>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Viewer).await?;
    face.about(&entry, "session.history.listRewindPoints", json!({})).await.map(JsonBody)
}

/// Where to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    /// The id of a rewind point.
    event_id: String,
    /// As the CLI has it; `conversation` leaves files as they are.
    #[serde(default = "conversation")]
    mode: String,
}

fn conversation() -> String {
    "conversation".into()
}

/// Go back in a session.
#[utoipa::path(
    post, path = "/sessions/{ref}/rewind", operation_id = "rewind_session", tag = "history", request_body = Rewind,
    responses((status = 200, description = "What the CLI server says of it", body = Object)),
)]
pub(super) async fn rewind(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    Json(to): Json<Rewind>,
) -> Result<JsonBody<Value>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Owner).await?;
    let params = json!({ "eventId": to.event_id, "mode": to.mode });
    face.about(&entry, "session.history.rewind", params).await.map(JsonBody)
}

impl Face {
    /// Asks a session's CLI server something about it.
    pub(super) async fn about(
        self: &Arc<Self>,
        entry: &Entry,
        method: &'static str,
        params: Value,
    ) -> Result<Value, Fault> {
        let hub = self.hub(entry)?;
        hub.attach(self).await?;
        hub.call(self, method, params).await
    }

    /// All events of a session, as its CLI server tells them.
    async fn events(self: &Arc<Self>, entry: &Entry) -> Result<Box<[u8]>, Fault> {
        let hub = self.hub(entry)?;
        hub.attach(self).await?;
        hub.call_raw(self, "session.getMessages", json!({})).await
    }
}

/// What of a session's events was said by somebody. They are looked through where they are: most are long, and are
/// something else.
fn said(events: &[u8]) -> Vec<Utterance<'_>> {
    let events = jetway_wire::Value::new(events).get("events");
    events.into_iter().flat_map(jetway_wire::Value::elements).filter_map(utterance).collect()
}

fn utterance(event: jetway_wire::Value<'_>) -> Option<Utterance<'_>> {
    let (mut kind, mut id, mut at, mut data) = (None, None, None, None);
    for (name, value) in event.members() {
        match &*name.text() {
            "type" => kind = value.as_str(),
            "id" => id = value.as_str(),
            "timestamp" => at = value.as_str(),
            "data" => data = Some(value),
            _ => {}
        }
    }
    let role = match &*kind? {
        "user.message" => "user",
        "assistant.message" => "assistant",
        _ => return None,
    };
    let content = data?.get("content")?.as_str().filter(|text| !text.is_empty())?;
    Some(Utterance { id: id.unwrap_or_default(), role, content, at: at.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_no_markup() {
        let said = Utterance {
            id: "1".into(),
            role: "user",
            content: "<script>a&b</script>".into(),
            at: "now".into(),
        };
        let page = html("\"x\"<b>", &[said]);
        assert!(
            page.contains("&lt;script&gt;a&amp;b&lt;/script&gt;") && page.contains("&quot;x&quot;&lt;b&gt;")
        );
        assert!(!page.contains("<script>"));
    }
}
