//! The HTTP shell: accepts, reads, waits, sends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, sleep};

use super::ledger::{Call, Entry, Event, Ledger, now_ms};
use super::reply::{Frame, Reply};
use super::request::Ask;
use super::script::End;
use super::{MAX_BODY, MAX_CONNECTIONS, MAX_WAIT};

/// A running endpoint. Dropping it closes every connection.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    ledger: Ledger,
    task: JoinHandle<()>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a provider's `baseUrl` is set to: `http://ADDR/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What it was asked.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the scripted model on `listener`, on the current Tokio runtime, until the handle is dropped.
///
/// # Errors
/// When the listener's own address cannot be read.
pub fn serve(listener: TcpListener, ledger: Ledger) -> io::Result<Handle> {
    let addr = listener.local_addr()?;
    // From the clock: ids of tool calls stay unique in a conversation that outlives this process.
    let shared = Arc::new(Shared { ledger: ledger.clone(), serial: AtomicU64::new(now_ms() << 16) });
    let router = Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .route("/ledger", get(read_ledger))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared);
    Ok(Handle { addr, ledger, task: tokio::spawn(accept(listener, router)) })
}

/// Connections live in a set, so that aborting this task ends them too.
async fn accept(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else {
                    // Out of file descriptors, most likely: wait for some to come back.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let service = TowerToHyperService::new(router.clone());
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(async move {
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(Debug)]
struct Shared {
    ledger: Ledger,
    serial: AtomicU64,
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let ask = match Ask::read(&body) {
        Ok(ask) => ask,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message),
    };
    let serial = shared.serial.fetch_add(1, Ordering::Relaxed);
    let call = shared.ledger.open(Entry {
        at_ms: now_ms(),
        call: serial,
        nonce: ask.nonce.clone(),
        event: Event::Began,
        model: ask.model.clone(),
        api_key_sha256_prefix: key_prefix(&headers),
        messages: ask.messages,
        round: ask.round,
    });
    let reply = Reply::to(&ask, serial, body.len());
    drop(body);
    sleep(if reply.is_silent() { MAX_WAIT } else { reply.delay }).await;
    if let End::Error { status, message } = &reply.end {
        call.ended();
        return error(StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message);
    }
    if ask.stream {
        let stream = stream::unfold((reply.frames(), Some(call)), next_bytes);
        return ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response();
    }
    match reply.end {
        End::Hang => sleep(MAX_WAIT).await,
        End::Cut => {
            let cut = stream::iter([Ok(Bytes::from_static(b"{")), Err(io::ErrorKind::ConnectionAborted)]);
            return Body::from_stream(stream::StreamExt::map(cut, |item| item.map_err(io::Error::from)))
                .into_response();
        }
        End::Stop | End::Error { .. } => sleep(reply.pauses().min(MAX_WAIT)).await,
    }
    call.ended();
    Json(reply.whole()).into_response()
}

/// The next bytes of a streamed answer; an error makes hyper close the connection without a last chunk.
async fn next_bytes<I>(
    (mut frames, mut call): (I, Option<Call>),
) -> Option<(io::Result<Bytes>, (I, Option<Call>))>
where
    I: Iterator<Item = Frame>,
{
    loop {
        match frames.next() {
            Some(Frame::Data(data)) => return Some((Ok(data.into()), (frames, call))),
            Some(Frame::Pause(wait)) => sleep(wait).await,
            Some(Frame::Hang) => sleep(MAX_WAIT).await,
            Some(Frame::Cut) => {
                // Let what was said leave first: hyper drops unsent bytes when the body fails.
                sleep(Duration::from_millis(20)).await;
                drop(call.take());
                return Some((Err(io::ErrorKind::ConnectionAborted.into()), (frames, None)));
            }
            None => {
                if let Some(call) = call {
                    call.ended();
                }
                return None;
            }
        }
    }
}

fn key_prefix(headers: &HeaderMap) -> Option<String> {
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let key = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())?;
    Some(Sha256::digest(key).iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn error(status: StatusCode, message: &str) -> Response {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": null}});
    let mut response = (status, Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

async fn models() -> Json<serde_json::Value> {
    Json(
        json!({"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "jetway"}]}),
    )
}

#[derive(Deserialize)]
struct LedgerQuery {
    nonce: Option<String>,
}

async fn read_ledger(State(shared): State<Arc<Shared>>, Query(query): Query<LedgerQuery>) -> Response {
    let wanted = |entry: &Entry| query.nonce.is_none() || entry.nonce == query.nonce;
    let entries = shared.ledger.entries().into_iter().filter(wanted);
    let lines = entries.map(|entry| {
        let mut line = serde_json::to_string(&entry).expect("an entry has only plain fields");
        line.push('\n');
        Ok::<_, Infallible>(line)
    });
    let lines: Vec<_> = lines.collect();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream::iter(lines))).into_response()
}
