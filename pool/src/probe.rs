//! Does a server speak our protocol? `connect` and `ping`, as an SDK begins.

use std::io;

use jetway_config::{SecretString, limits::FRAME_HEADER_BYTES};
use jetway_wire::{
    frame::Caps,
    peer::{CallError, Incoming, Peer, connect_params},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc};

use crate::server::Failure;

/// The protocol of the SDKs that Jetway serves.
const PROTOCOL: i64 = 3;
/// A probe's answers are short; but a server tells every connection about its sessions' lives.
const CAPS: Caps = Caps { header: FRAME_HEADER_BYTES, body: 1 << 20 };
/// JSON-RPC's "method not found": servers before `connect` had none, and SDKs take that well.
const METHOD_NOT_FOUND: i64 = -32601;

/// Why a server does not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("cannot connect: {0}")]
    Dial(#[from] io::Error),
    #[error("`{0}`: {1}")]
    Call(&'static str, CallError),
    #[error("it speaks protocol version {0}, not {PROTOCOL}")]
    Protocol(Value),
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        match error {
            ProbeError::Dial(error) => Self::of_dial(&error),
            other => Self::new(other.to_string()),
        }
    }
}

/// A connection over which a server has proved itself.
#[derive(Debug)]
pub(crate) struct Proved {
    pub(crate) version: Option<String>,
    line: Line,
}

#[derive(Debug)]
struct Line {
    peer: Peer,
    incoming: mpsc::Receiver<Incoming>,
}

impl Line {
    async fn call(&mut self, method: &'static str, params: Value) -> Result<Value, CallError> {
        tokio::select! {
            reply = self.peer.call(method, params) => reply,
            // A server tells everybody about its sessions' lives: left lying, that would block the reply.
            () = drain(&mut self.incoming) => Err(CallError::Closed),
        }
    }

    async fn ping(&mut self) -> Result<Value, ProbeError> {
        self.call("ping", json!({})).await.map_err(|e| ProbeError::Call("ping", e))
    }
}

/// Takes what the server sends unasked until the connection ends.
async fn drain(incoming: &mut mpsc::Receiver<Incoming>) {
    while incoming.recv().await.is_some() {}
}

impl Proved {
    /// Whether the server still answers.
    pub(crate) async fn ping(&mut self) -> Result<(), ProbeError> {
        self.line.ping().await.map(drop)
    }

    /// Waits until the connection ends. Cancel safe.
    pub(crate) async fn broken(&mut self) {
        drain(&mut self.line.incoming).await;
    }
}

/// Connects. Without a limit in time: wrap it in one.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Authenticates, pings. Without a limit in time, likewise.
pub(crate) async fn prove(stream: TcpStream, token: Option<&SecretString>) -> Result<Proved, ProbeError> {
    let (peer, incoming) = Peer::new(stream, CAPS);
    let mut line = Line { peer, incoming };
    let hello = match line.call("connect", connect_params(token.map(|t| t.expose().as_str()))).await {
        Err(CallError::Refused { code: METHOD_NOT_FOUND, .. }) => Value::Null,
        hello => hello.map_err(|e| ProbeError::Call("connect", e))?,
    };
    let pong = line.ping().await?;
    for protocol in [&hello["protocolVersion"], &pong["protocolVersion"]] {
        if !protocol.is_null() && protocol.as_i64() != Some(PROTOCOL) {
            return Err(ProbeError::Protocol(protocol.clone()));
        }
    }
    Ok(Proved { version: hello["version"].as_str().map(str::to_owned), line })
}
