//! A small JSON-RPC peer over any byte stream, for what Jetway itself asks of a CLI server, and for tests.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::{
    envelope::{self, Envelope, Id, Kind},
    frame::{Caps, Decoder, FrameError},
};

/// Requests and notifications from the other side that wait to be taken; beyond them, reading pauses.
const INBOX: usize = 256;
/// Frames that wait to be written; beyond them, callers wait.
const OUTBOX: usize = 64;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side answered with an error.
    #[error("{message} ({code})")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// Its message.
        message: String,
        /// Its data; `null` without.
        data: Value,
    },
    /// The connection ended first.
    #[error("connection closed")]
    Closed,
}

/// What the other side sent unasked.
#[derive(Debug)]
pub struct Incoming {
    /// Present on a request: pass it to [`Peer::reply`].
    pub id: Option<Id>,
    /// What is asked or told.
    pub method: String,
    /// With what; `null` without.
    pub params: Value,
}

type Pending = Arc<Mutex<Option<HashMap<i64, oneshot::Sender<Result<Value, CallError>>>>>>;

/// One side of a JSON-RPC connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Peer {
    next_id: AtomicI64,
    pending: Pending,
    outbox: mpsc::Sender<Vec<u8>>,
    reader: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The writer ends when the outbox's last sender is gone.
        self.reader.abort();
    }
}

impl Peer {
    /// Speaks over `stream`; what the other side sends unasked comes out of the receiver, which may be dropped.
    pub fn new<S>(stream: S, caps: Caps) -> (Self, mpsc::Receiver<Incoming>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(stream);
        let (outbox, mut frames) = mpsc::channel::<Vec<u8>>(OUTBOX);
        let (inbox, incoming) = mpsc::channel(INBOX);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if write.write_all(&frame).await.is_err() {
                    break;
                }
            }
            let _ = write.shutdown().await;
        });
        let waiting = pending.clone();
        let reader = tokio::spawn(async move {
            // However reading ends, everyone who waits for a reply hears of it.
            let _hang_up = HangUp(waiting.clone());
            let _ = read_all(read, caps, &waiting, &inbox).await;
        });
        (Self { next_id: AtomicI64::new(1), pending, outbox, reader: reader.abort_handle() }, incoming)
    }

    /// Asks, and waits for the reply without limit; wrap it in a timeout.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        lock(&self.pending).as_mut().ok_or(CallError::Closed)?.insert(id, tx);
        let _forget = Forget(&self.pending, id);
        let mut out = Vec::new();
        envelope::write_request(&mut out, &Id::Number(id), method, params.to_string().as_bytes());
        self.outbox.send(out).await.map_err(|_| CallError::Closed)?;
        rx.await.map_err(|_| CallError::Closed)?
    }

    /// Tells.
    pub async fn notify(&self, method: &str, params: Value) -> Result<(), CallError> {
        let mut out = Vec::new();
        envelope::write_notification(&mut out, method, params.to_string().as_bytes());
        self.outbox.send(out).await.map_err(|_| CallError::Closed)
    }

    /// Answers a request of the other side.
    pub async fn reply(&self, id: &Id, outcome: Result<Value, (i64, String)>) -> Result<(), CallError> {
        let mut out = Vec::new();
        match outcome {
            Ok(result) => envelope::write_result(&mut out, id, result.to_string().as_bytes()),
            Err((code, message)) => envelope::write_error(&mut out, Some(id), code, &message, None),
        }
        self.outbox.send(out).await.map_err(|_| CallError::Closed)
    }
}

/// Takes a call that was given up out of the table.
struct Forget<'a>(&'a Pending, i64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(pending) = lock(self.0).as_mut() {
            pending.remove(&self.1);
        }
    }
}

struct HangUp(Pending);

impl Drop for HangUp {
    fn drop(&mut self) {
        lock(&self.0).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_all(
    mut read: impl AsyncRead + Unpin,
    caps: Caps,
    pending: &Pending,
    inbox: &mpsc::Sender<Incoming>,
) -> Result<(), FrameError> {
    let mut decoder = Decoder::new(caps);
    // Small: there is one for each CLI server that is watched.
    let mut buf = vec![0; 4 * 1024];
    loop {
        let n = match read.read(&mut buf).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(n) => n,
        };
        let mut unasked = Vec::new();
        {
            let mut batch = decoder.feed(&buf[..n]);
            while let Some(frame) = batch.next()? {
                if let Ok(message) = Envelope::trusted(frame.body) {
                    unasked.extend(sort(message, pending));
                }
            }
        }
        for message in unasked {
            // Nobody listens: then nobody wants to know.
            let _ = inbox.send(message).await;
        }
    }
}

/// Gives a reply to whom it is for; anything else comes back.
fn sort(message: Envelope<'_>, pending: &Pending) -> Option<Incoming> {
    let parse = |v: crate::Value<'_>| serde_json::from_slice::<Value>(v.text()).unwrap_or_default();
    let incoming = |id, method: std::borrow::Cow<'_, str>, params: Option<_>| {
        Some(Incoming { id, method: method.into_owned(), params: params.map(parse).unwrap_or_default() })
    };
    match message.kind {
        Kind::Request { id, method, params } => incoming(Some(id), method, params),
        Kind::Notification { method, params } => incoming(None, method, params),
        Kind::Reply { id: Id::Number(id), outcome } => {
            if let Some(waiting) = lock(pending).as_mut().and_then(|p| p.remove(&id)) {
                let _ = waiting.send(outcome.map(parse).map_err(|e| refused(parse(e))));
            }
            None
        }
        Kind::Reply { .. } => None,
    }
}

fn refused(error: Value) -> CallError {
    CallError::Refused {
        code: error["code"].as_i64().unwrap_or_default(),
        message: error["message"].as_str().unwrap_or_default().to_owned(),
        data: error["data"].clone(),
    }
}

/// The params of `connect`, the first request on every connection.
pub fn connect_params(token: Option<&str>) -> Value {
    match token {
        Some(token) => json!({ "token": token }),
        None => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { header: 4096, body: 1 << 20 };

    #[tokio::test]
    async fn calls_and_serves() {
        let (a, b) = tokio::io::duplex(64);
        let (a, mut to_a) = Peer::new(a, CAPS);
        let (b, mut to_b) = Peer::new(b, CAPS);
        let serve = tokio::spawn(async move {
            let ask = to_b.recv().await.unwrap();
            assert_eq!(ask.method, "sum");
            b.notify("hello", json!({ "n": 1 })).await.unwrap();
            b.reply(ask.id.as_ref().unwrap(), Ok(json!(3))).await.unwrap();
            let ask = to_b.recv().await.unwrap();
            b.reply(ask.id.as_ref().unwrap(), Err((-1, "no".into()))).await.unwrap();
            to_b.recv().await.unwrap();
        });
        assert_eq!(a.call("sum", json!({ "x": [1, 2] })).await.unwrap(), json!(3));
        assert_eq!(to_a.recv().await.unwrap().params, json!({ "n": 1 }));
        assert!(matches!(a.call("x", json!({})).await, Err(CallError::Refused { code: -1, .. })));
        // The other side goes away in the middle of a call, and later calls fail at once.
        assert!(matches!(a.call("y", json!({})).await, Err(CallError::Closed)));
        assert!(matches!(a.call("z", json!({})).await, Err(CallError::Closed)));
        serve.await.unwrap();
    }
}
