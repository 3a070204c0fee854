//! A session over WebSocket: the same events out, prompts, answers and aborts in.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{
        Path, State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, Uri, header},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, interval, timeout};
use utoipa::IntoParams;

use jetway_config::http::Cors;

use super::{
    Face, body,
    caller::Admitted,
    events,
    fault::{Fault, Kind},
    hub::{Ask, Hub, Next, Over, Subscription},
    messages::Mode,
    query::Query,
    requests::{Decision, Reply, Scope},
    welcome::Welcome,
};
use crate::directory::{Entry, Role};

/// How often a silent peer is asked whether it is there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(60);
/// How long the peer has to close from its side.
const LINGER: Duration = Duration::from_secs(1);
/// Close codes of Jetway's own: what 401 and 404 are to a request.
const UNAUTHENTICATED: u16 = 4401;
const NOT_FOUND: u16 = 4404;

/// Where to begin; the same as `Last-Event-ID`, which browsers cannot set here.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    last_event_id: Option<String>,
}

/// What a client says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Said {
    Prompt {
        prompt: String,
        #[serde(default)]
        mode: Mode,
        attachments: Option<Vec<Map<String, Value>>>,
    },
    Answer {
        request_id: String,
        decision: Option<Decision>,
        #[serde(default)]
        scope: Scope,
        answer: Option<String>,
        feedback: Option<String>,
    },
    Abort {},
}

/// Talk in a session over WebSocket: its events out, prompts, answers and aborts in.
#[utoipa::path(
    get, path = "/ws/sessions/{ref}", operation_id = "session_websocket", tag = "turns", params(From),
    responses((status = 101, description = "It is one"), (status = 200, description = "Never", body = String)),
)]
pub(super) async fn connect(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    Path(reference): Path<String>,
    Query(from): Query<From>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Fault> {
    let upgrade = upgrade.map_err(|e| Fault::new(Kind::Malformed, format!("Expected a WebSocket: {e}")))?;
    may_be_of(&face.core.config.http.cors, &uri, &headers)?;
    let entry = face.find_live(&caller.who, &reference, Role::Viewer).await?;
    let place = match &from.last_event_id {
        Some(id) => events::place_of(id),
        None => events::place(&headers)?,
    };
    let hub = face.hub(&entry)?;
    let subscription = hub.subscribe(place);
    hub.attach(&face).await?;
    let (most, stall) = {
        let live = face.core.live();
        (live.limits.max_http_body, live.limits.stalled_write_timeout)
    };
    let welcome = Welcome::new(&face.core, caller, Some(entry.key.clone()));
    let conversation = Conversation { face, welcome, entry, hub, stall };
    // Tracked, so that a gateway that stops does not leave without a word.
    let tracker = conversation.face.core.tracker.clone();
    Ok(upgrade
        .max_message_size(most)
        .max_frame_size(most)
        .on_upgrade(move |socket| tracker.track_future(conversation.hold(socket, subscription))))
}

/// A page of another site must not talk here in the name of whoever looks at it, unless it may.
fn may_be_of(cors: &Cors, uri: &Uri, headers: &HeaderMap) -> Result<(), Fault> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host =
        headers.get(header::HOST).and_then(|h| h.to_str().ok()).or(uri.authority().map(|a| a.as_str()));
    let origin = origin.to_str().ok();
    let name = origin.and_then(|o| o.split_once("://")).map(|(_, host)| host);
    if (name.is_some() && name == host) || origin.is_some_and(|origin| cors.allows(origin)) {
        return Ok(());
    }
    Err(Fault::new(Kind::Forbidden, "WebSockets are not for pages of another origin"))
}

struct Conversation {
    face: Arc<Face>,
    welcome: Welcome,
    entry: Entry,
    hub: Arc<Hub>,
    /// How long the peer may take nothing.
    stall: Duration,
}

/// Why it ends: a WebSocket close code, and why, in a few words.
struct End(u16, &'static str);

impl Conversation {
    async fn hold(self, mut socket: WebSocket, mut subscription: Subscription) {
        let End(code, reason) = self.talk(&mut socket, &mut subscription).await;
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // Whoever does not read does not read this either.
        if !matches!(timeout(self.stall, socket.send(close)).await, Ok(Ok(()))) {
            return;
        }
        // What the peer still sends would have the connection reset, and take the word of its end with it.
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }

    async fn talk(&self, socket: &mut WebSocket, subscription: &mut Subscription) -> End {
        let mut pings = interval(PING);
        let mut heard = Instant::now();
        // A snapshot is an answer to where the reader begins; later, it is a sign that the reader is too slow.
        let mut begun = false;
        loop {
            let sent = tokio::select! {
                // First: whoever is not welcome any more neither hears nor says anything.
                biased;
                fault = self.welcome.over() => {
                    let code = match fault.kind {
                        Kind::Unauthenticated => UNAUTHENTICATED,
                        _ => NOT_FOUND,
                    };
                    return self.part(socket, code, &fault).await;
                }
                message = socket.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => match self.hear(text.as_bytes()).await {
                            Ok(()) => continue,
                            Err(fault) => self.send(socket, None, "jetway.error", &fault.to_json().to_string()).await,
                        },
                        Some(Ok(Message::Binary(_))) => return End(close_code::UNSUPPORTED, "text only"),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Close(_))) | None => return End(close_code::NORMAL, ""),
                        Some(Err(_)) => return End(close_code::PROTOCOL, "no WebSocket, or too long a message"),
                    }
                }
                next = subscription.next() => match next {
                    Next::Over(over) => {
                        let code = match over {
                            Over::Ended => close_code::NORMAL,
                            Over::Stopping => close_code::RESTART,
                        };
                        return self.part(socket, code, &events::fault(over)).await;
                    }
                    Next::Snapshot(..) if begun => return End(close_code::AGAIN, "too slow; come back"),
                    Next::Snapshot(id, data) => {
                        self.send(socket, Some(id.to_string()), "jetway.snapshot", &data.to_string()).await
                    }
                    Next::Events(events) => {
                        let mut sent = Ok(());
                        for event in events {
                            let data = String::from_utf8_lossy(&event.data);
                            sent = self.send(socket, Some(event.id.to_string()), &event.kind, &data).await;
                            if sent.is_err() {
                                break;
                            }
                        }
                        sent
                    }
                },
                _ = pings.tick() => {
                    if heard.elapsed() > PONG {
                        return End(close_code::POLICY, "no pong");
                    }
                    self.put(socket, Message::Ping(bytes::Bytes::new())).await
                }
            };
            begun = true;
            if let Err(end) = sent {
                return end;
            }
        }
    }

    /// Says why it ends.
    async fn part(&self, socket: &mut WebSocket, code: u16, fault: &Fault) -> End {
        let said = self.send(socket, None, "jetway.error", &fault.to_json().to_string()).await;
        said.err().unwrap_or(End(code, fault.kind.title()))
    }

    /// Sends `{"id", "type", "data"}`; `data` is JSON.
    async fn send(
        &self,
        socket: &mut WebSocket,
        id: Option<String>,
        kind: &str,
        data: &str,
    ) -> Result<(), End> {
        let text = format!("{{\"id\":{},\"type\":{},\"data\":{data}}}", json!(id), json!(kind));
        self.put(socket, Message::Text(text.into())).await
    }

    async fn put(&self, socket: &mut WebSocket, message: Message) -> Result<(), End> {
        match timeout(self.stall, socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End(close_code::NORMAL, "")),
            Err(_) => Err(End(close_code::AGAIN, "too slow; come back")),
        }
    }

    /// Acts on what the client says. What it may do may have changed since it came.
    async fn hear(&self, text: &[u8]) -> Result<(), Fault> {
        let said: Said = body::parse(text)?;
        let entry =
            self.face.find_live(&self.welcome.caller().who, self.entry.key.id.as_str(), Role::Member).await?;
        if entry.key != self.entry.key {
            return Err(Fault::no_session());
        }
        match said {
            Said::Prompt { prompt, mode, attachments } => {
                let (attachments, patience) = (attachments.map(|a| json!(a)), mode.patience());
                // How it ends is told by events.
                self.hub.ask(
                    &self.face,
                    Ask { user: self.welcome.caller().who.user.clone(), prompt, attachments, patience },
                    None,
                );
                Ok(())
            }
            Said::Answer { request_id, decision, scope, answer, feedback } => {
                let verdict = Reply { decision, scope, answer, feedback }.verdict()?;
                self.hub.answer(&self.face, &request_id, &verdict).await
            }
            Said::Abort {} => self.hub.abort(&self.face).await.map(drop),
        }
    }
}
