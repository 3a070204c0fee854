//! A client that sees every message, in order, and can send anything at all.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use jetway_wire::frame::{self, Caps, Decoder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

const CAPS: Caps = Caps { header: 4096, body: 256 << 20 };

pub struct Client {
    pub stream: TcpStream,
    decoder: Decoder,
    next_id: i64,
    /// Everything that came, oldest first; replies that [`Client::call`] returned included.
    pub seen: Vec<Value>,
    /// The same, byte for byte.
    pub raw: Vec<String>,
    /// The end of the stream was seen.
    pub closed: bool,
}

impl Client {
    /// Connects, and says nothing.
    pub async fn dial(address: SocketAddr) -> Self {
        Self::try_dial(address).await.unwrap()
    }

    /// The same where nobody may be there.
    pub async fn try_dial(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::new(CAPS),
            next_id: 0,
            seen: Vec::new(),
            raw: Vec::new(),
            closed: false,
        })
    }

    /// Connects as `user`; where callers need no credential.
    pub async fn hello(address: SocketAddr, user: &str) -> Self {
        let mut client = Self::dial(address).await;
        client.call("connect", json!({ "token": user })).await.unwrap();
        client
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends one frame of whatever text.
    pub async fn send_text(&mut self, body: &str) -> io::Result<()> {
        self.send_raw(&framed(body)).await
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await.unwrap();
    }

    /// Sends a request and returns its id.
    pub async fn request(&mut self, method: &str, params: Value) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        id
    }

    /// The next message; `None` at the end of the stream. Fails when neither comes within [`PATIENCE`].
    pub async fn next(&mut self) -> Option<&Value> {
        let at = self.seen.len();
        assert!(self.read_until(PATIENCE, |seen| seen.len() > at).await || self.closed, "nothing came");
        self.seen.get(at)
    }

    /// Reads until `enough` of what was seen, the end of the stream, or for `within`. Returns the first.
    pub async fn read_until(&mut self, within: Duration, mut enough: impl FnMut(&[Value]) -> bool) -> bool {
        let deadline = Instant::now() + within;
        let mut buf = vec![0; 64 * 1024];
        while !enough(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.closed || left.is_zero() {
                return false;
            }
            match timeout(left, self.stream.read(&mut buf)).await {
                Ok(Ok(n)) if n > 0 => self.take(&buf[..n]),
                Ok(Ok(_) | Err(_)) => self.closed = true,
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut batch = self.decoder.feed(bytes);
        while let Some(frame) = batch.next().expect("Jetway sends frames") {
            let text = String::from_utf8(frame.body.to_vec()).expect("Jetway sends UTF-8");
            self.seen.push(serde_json::from_str(&text).expect("Jetway sends JSON"));
            self.raw.push(text);
        }
    }

    /// Whether bytes of a frame came whose rest did not.
    pub fn mid_frame(&self) -> bool {
        self.decoder.mid_frame()
    }

    /// The first message from `from` on that `is` what is looked for; fails when it does not come.
    pub async fn find(&mut self, from: usize, is: impl Fn(&Value) -> bool) -> &Value {
        let found = self.read_until(PATIENCE, |seen| seen[from..].iter().any(&is)).await;
        assert!(found, "did not come; closed: {}; seen: {:#?}", self.closed, &self.seen[from..]);
        self.seen[from..].iter().find(|m| is(m)).unwrap()
    }

    /// The same, byte for byte.
    pub async fn find_raw(&mut self, from: usize, is: impl Fn(&Value) -> bool) -> &str {
        self.find(from, &is).await;
        let at = self.seen[from..].iter().position(is).unwrap();
        &self.raw[from + at]
    }

    /// The reply to the request `id`: its result or its error.
    pub async fn reply(&mut self, id: i64) -> Result<Value, Value> {
        let reply = self.find(0, |m| m["id"] == id && m["method"].is_null()).await;
        outcome(reply)
    }

    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.request(method, params).await;
        self.reply(id).await
    }

    /// The same where the connection may end before the reply: then `None`.
    pub async fn try_call(&mut self, method: &str, params: Value) -> Option<Result<Value, Value>> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        // A socket that cannot be written to any more may still have something to read.
        let _ = self.send_text(&request.to_string()).await;
        let is = |m: &Value| m["id"] == id && m["method"].is_null();
        let came = self.read_until(6 * PATIENCE, |seen| seen.iter().any(is)).await;
        assert!(came || self.closed, "{method}: no reply within {:?}", 6 * PATIENCE);
        self.seen.iter().find(|m| is(m)).map(outcome)
    }

    /// Creates a session and returns its id.
    pub async fn create(&mut self, session: &str) -> String {
        let params =
            json!({ "sessionId": session, "model": "stub", "hooks": true, "requestUserInput": true });
        self.call("session.create", params).await.unwrap()["sessionId"].as_str().unwrap().to_owned()
    }

    /// Sends a prompt and waits for it to be taken.
    pub async fn prompt(&mut self, session: &str, prompt: &str) -> Result<Value, Value> {
        self.call("session.send", json!({ "sessionId": session, "prompt": prompt })).await
    }

    /// A whole turn; returns what was said.
    pub async fn turn(&mut self, session: &str, prompt: &str) -> String {
        let from = self.seen.len();
        self.prompt(session, prompt).await.unwrap();
        self.find(from, |m| is_event(m, session, "session.idle")).await;
        let said = self.seen[from..].iter().rev().find(|m| is_event(m, session, "assistant.message"));
        said.map(|m| m["params"]["event"]["data"]["content"].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// The events of a kind that came for a session.
    pub fn events(&self, session: &str, kind: &str) -> Vec<&Value> {
        self.seen.iter().filter(|m| is_event(m, session, kind)).map(|m| &m["params"]["event"]).collect()
    }

    /// Waits for the end of the stream, for so long.
    pub async fn closes(&mut self, within: Duration) -> bool {
        self.read_until(within, |_| false).await;
        self.closed
    }
}

pub fn framed(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, &[body.as_bytes()]);
    out
}

pub fn is_event(message: &Value, session: &str, kind: &str) -> bool {
    message["method"] == "session.event"
        && message["params"]["sessionId"] == session
        && message["params"]["event"]["type"] == kind
}

pub fn outcome(reply: &Value) -> Result<Value, Value> {
    match reply.get("result") {
        Some(result) => Ok(result.clone()),
        None => Err(reply["error"].clone()),
    }
}
