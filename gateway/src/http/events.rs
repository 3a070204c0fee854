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
    caller::Admitted,
    fault::{Fault, Kind},
    hub::{EventId, Handle, Next, Over, Place, Subscription},
    welcome::Welcome,
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
    Admitted(caller): Admitted,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let entry = face.find_live(&caller.who, &reference, Role::Viewer).await?;
    let place = place(&headers)?;
    let hub = face.hub(&entry)?;
    let subscription = hub.subscribe(place);
    hub.attach(&face).await?;
    Ok(of_all(subscription, Welcome::new(&face.core, caller, Some(entry.key))))
}

/// All events of a subscription, for as long as the reader is welcome.
pub(super) fn of_all(subscription: Subscription, welcome: Welcome) -> Response {
    stream_of(Stream::new(subscription, welcome, None))
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
pub(super) fn of_turn(subscription: Subscription, welcome: Welcome, handle: Arc<Handle>) -> Response {
    stream_of(Stream::new(subscription, welcome, Some(Turn { handle, begun: false })))
}

struct Stream {
    subscription: Subscription,
    welcome: Welcome,
    /// The one that is told of; the whole session, if there is none.
    turn: Option<Turn>,
    opening: Option<Bytes>,
    over: bool,
}

struct Turn {
    handle: Arc<Handle>,
    begun: bool,
}

/// The end alone of a turn that is over, for whoever is at that place.
pub(super) fn of_end(handle: &Handle, at: EventId) -> Response {
    let mut out = RETRY.to_vec();
    if let Some((kind, told)) = handle.told() {
        write(&mut out, Some(at), kind, told.to_string().as_bytes());
    }
    as_events(out.into())
}

fn stream_of(stream: Stream) -> Response {
    as_events(Body::from_stream(stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<_, Infallible>(chunk), stream))
    })))
}

fn as_events(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect it otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Stream {
    fn new(subscription: Subscription, welcome: Welcome, turn: Option<Turn>) -> Self {
        Self { subscription, welcome, turn, opening: Some(Bytes::from_static(RETRY)), over: false }
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.over {
            let next = tokio::select! {
                // First: whoever is not welcome any more reads nothing more.
                biased;
                fault = self.welcome.over() => return Some(self.farewell(&fault)),
                next = timeout(KEEP_ALIVE, self.subscription.next()) => next,
            };
            let Ok(next) = next else { return Some(Bytes::from_static(b": still here\n\n")) };
            let mut out = Vec::new();
            match next {
                Next::Over(over) => return Some(self.farewell(&fault(over))),
                Next::Snapshot(id, data) => {
                    write(&mut out, Some(id), "jetway.snapshot", data.to_string().as_bytes());
                    self.catch_up(id, &mut out);
                }
                Next::Events(events) => {
                    for event in events {
                        if self.belongs(&event.kind, &event.data) {
                            write(&mut out, Some(event.id), &event.kind, &event.data);
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

    /// The last that is told: why nothing more is. It is no event of the session's, so the reader's place stays.
    fn farewell(&mut self, fault: &Fault) -> Bytes {
        self.over = true;
        let mut out = Vec::new();
        write(&mut out, None, "jetway.error", fault.to_json().to_string().as_bytes());
        out.into()
    }

    /// The beginning of the turn is not there any more, and perhaps not its end.
    fn catch_up(&mut self, id: EventId, out: &mut Vec<u8>) {
        let Some(turn) = &mut self.turn else { return };
        turn.begun = true;
        if let Some((kind, told)) = turn.handle.told() {
            write(out, Some(id), kind, told.to_string().as_bytes());
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
        self.over = ours && !matches!(kind, "jetway.turn_started" | "jetway.turn_pending");
        turn.begun
    }
}

/// Why a stream ends that might have gone on.
pub(super) fn fault(over: Over) -> Fault {
    match over {
        Over::Ended => Fault::new(Kind::Ended, "The session has ended, or is held here no more"),
        Over::Stopping => {
            let why = "This gateway stops; come back, with the id of the last event, and another one answers";
            Fault::new(Kind::Draining, why).with("retry_after", 1)
        }
    }
}

/// Appends one event. Its data has no line breaks; its type is the CLI's, which might.
fn write(out: &mut Vec<u8>, id: Option<EventId>, kind: &str, data: &[u8]) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(b"event: ");
    out.extend(kind.bytes().filter(|b| !matches!(b, b'\n' | b'\r')));
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}
