//! Server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Face,
    caller::Caller,
    fault::{Fault, Kind},
    hub::{EventId, Handle, Next, Place, Subscription},
};
use crate::directory::Role;

/// How often a silent stream says that it is there; proxies give up after 30 or 60 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client is to wait before it comes back, in milliseconds.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// A session's events from now on, or from `Last-Event-ID` on.
#[utoipa::path(
    get, path = "/sessions/{ref}/events", operation_id = "session_events", tag = "turns",
    params(("last-event-id" = Option<String>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "Events without an end", body = String, content_type = "text/event-stream")),
)]
pub(super) async fn subscribe(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let entry = face.find_live(&who, &reference, Role::Viewer).await?;
    let place = place(&headers)?;
    let hub = face.hub(&entry)?;
    let subscription = hub.subscribe(place);
    hub.attach(&face).await?;
    Ok(stream_of(Stream { subscription, turn: None, opening: Some(Bytes::from_static(RETRY)), over: false }))
}

/// Where the caller was.
pub(super) fn place(headers: &HeaderMap) -> Result<Option<Place>, Fault> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().map_err(|_| Fault::new(Kind::Malformed, "`Last-Event-ID` is unreadable"))?;
    Ok(place_of(id))
}

/// The place of an event, by its id.
pub(super) fn place_of(id: &str) -> Option<Place> {
    match id.parse::<EventId>() {
        _ if id.is_empty() => None,
        Ok(id) => Some(Place::After(id)),
        Err(()) => Some(Place::Unknown),
    }
}

/// The events of one turn, from its beginning to its end.
pub(super) fn of_turn(subscription: Subscription, handle: Arc<Handle>) -> Response {
    let turn = Some(Turn { handle, begun: false });
    stream_of(Stream { subscription, turn, opening: Some(Bytes::from_static(RETRY)), over: false })
}

struct Stream {
    subscription: Subscription,
    /// The one that is told of; the whole session, if there is none.
    turn: Option<Turn>,
    opening: Option<Bytes>,
    over: bool,
}

struct Turn {
    handle: Arc<Handle>,
    begun: bool,
}

fn stream_of(stream: Stream) -> Response {
    let chunks = stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect it otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.over {
            let Ok(next) = timeout(KEEP_ALIVE, self.subscription.next()).await else {
                return Some(Bytes::from_static(b": still here\n\n"));
            };
            let mut out = Vec::new();
            match next {
                Next::Closed => return None,
                Next::Snapshot(id, data) => {
                    write(&mut out, &id.to_string(), "jetway.snapshot", data.to_string().as_bytes());
                    self.catch_up(id, &mut out);
                }
                Next::Events(events) => {
                    for event in events {
                        if self.belongs(&event.kind, &event.data) {
                            write(&mut out, &event.id.to_string(), &event.kind, &event.data);
                        }
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
        None
    }

    /// The beginning of the turn is not there any more, and perhaps not its end.
    fn catch_up(&mut self, id: EventId, out: &mut Vec<u8>) {
        let Some(turn) = &mut self.turn else { return };
        turn.begun = true;
        if let Some((kind, told)) = turn.handle.told() {
            write(out, &id.to_string(), kind, told.to_string().as_bytes());
            self.over = true;
        }
    }

    /// Whether an event is to be told; notes the beginning and the end of the turn, if it is about one.
    fn belongs(&mut self, kind: &str, data: &[u8]) -> bool {
        let Some(turn) = &mut self.turn else { return true };
        if self.over {
            return false;
        }
        if !kind.starts_with("jetway.turn_") {
            return turn.begun;
        }
        let named = serde_json::from_slice::<Value>(data).unwrap_or_default();
        let ours = named["turn"] == turn.handle.id.as_str();
        turn.begun |= ours;
        self.over = ours && kind != "jetway.turn_started";
        turn.begun
    }
}

/// Appends one event. Its data has no line breaks; its type is the CLI's, which might.
fn write(out: &mut Vec<u8>, id: &str, kind: &str, data: &[u8]) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\nevent: ");
    out.extend(kind.bytes().filter(|b| !matches!(b, b'\n' | b'\r')));
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}
