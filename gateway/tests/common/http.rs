//! An HTTP client that sees everything: status, headers, problems, and streams event by event.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{Gateway, PATIENCE};

/// A user of the HTTP port. Each request has a connection of its own.
#[derive(Clone)]
pub struct Http {
    address: SocketAddr,
    headers: Vec<(String, String)>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl Http {
    pub fn to(gateway: &Gateway) -> Self {
        Self::at(gateway.http.expect("HTTP is on"))
    }

    pub fn at(address: SocketAddr) -> Self {
        Self { address, headers: Vec::new() }
    }

    /// Where callers need no credential.
    pub fn user(gateway: &Gateway, user: &str) -> Self {
        Self::to(gateway).with("jetway-user", user)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    async fn open(&self, method: Method, path: &str, body: Option<&str>) -> hyper::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if body.is_some() && !self.headers.iter().any(|(name, _)| name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default().to_owned()));
        sender.send_request(request.body(body).unwrap()).await.unwrap()
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        let whole = async {
            let response = self.open(method, path, body).await;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            Answer { status: parts.status, headers: parts.headers, text }
        };
        timeout(PATIENCE * 2, whole).await.expect("an answer in time")
    }

    /// The headers of an answer, whose body is not read.
    pub async fn headers(&self, method: Method, path: &str) -> HeaderMap {
        timeout(PATIENCE, self.open(method, path, None)).await.expect("an answer in time").headers().clone()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(&body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(&body.to_string())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(&body.to_string())).await
    }

    /// Creates a session and returns its id.
    pub async fn create(&self, body: Value) -> String {
        let created = self.post("/api/v1/sessions", body).await;
        assert_eq!(created.status, 201, "{}", created.text);
        created.json()["session_id"].as_str().unwrap().to_owned()
    }

    /// A whole turn; returns what was said.
    pub async fn ask(&self, session: &str, prompt: &str) -> String {
        let path = format!("/api/v1/sessions/{session}/messages");
        let answer = self.post(&path, serde_json::json!({ "prompt": prompt })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["content"].as_str().unwrap().to_owned()
    }

    /// Opens a stream of events.
    pub async fn stream(&self, method: Method, path: &str, body: Option<&str>) -> Stream {
        let asking = self.clone().with("accept", "text/event-stream");
        let response = timeout(PATIENCE, asking.open(method, path, body)).await.expect("an answer in time");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { body: response.into_body(), read: String::new(), seen: Vec::new(), comments: 0 }
    }

    /// Opens a session's events.
    pub async fn events(&self, session: &str) -> Stream {
        self.stream(Method::GET, &format!("/api/v1/sessions/{session}/events"), None).await
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// Fails unless it is that problem.
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        let problem = self.json();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["type"], format!("urn:jetway:problem:{slug}"), "{problem}");
        assert_eq!(problem["status"], status);
        problem
    }
}

/// A stream of events, as far as it was read.
pub struct Stream {
    body: Incoming,
    read: String,
    pub seen: Vec<Event>,
    pub comments: usize,
}

impl Stream {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.read.split_once("\n\n") {
                let event = parse(block);
                self.read = rest.to_owned();
                match event {
                    Some(event) => {
                        self.seen.push(event.clone());
                        return Some(event);
                    }
                    None => self.comments += 1,
                }
                continue;
            }
            let frame = timeout(PATIENCE * 2, self.body.frame()).await.expect("something in time")?;
            let data = frame.ok()?.into_data().unwrap_or_default();
            self.read.push_str(std::str::from_utf8(&data).expect("events are UTF-8 and whole"));
        }
    }

    /// Reads until an event of a kind; a stream that is silent is kept open, and so is not waited for without end.
    pub async fn until(&mut self, kind: &str) -> Event {
        let coming = async {
            while let Some(event) = self.next().await {
                if event.kind == kind {
                    return Some(event);
                }
            }
            None
        };
        match timeout(6 * PATIENCE, coming).await {
            Ok(Some(event)) => event,
            Ok(None) => panic!("the stream ended without {kind}: {:#?}", self.seen),
            Err(_) => panic!("no {kind} in {:?}: {:#?}", 6 * PATIENCE, self.seen),
        }
    }

    /// What was said in deltas.
    pub fn deltas(&self) -> String {
        deltas(&self.seen)
    }
}

pub fn deltas(events: &[Event]) -> String {
    let deltas = events.iter().filter(|e| e.kind == "assistant.message_delta");
    deltas.map(|e| e.data["deltaContent"].as_str().unwrap()).collect()
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    // What is no event of anything, as why the stream ends, has no id.
    let (id, kind) = (field("id").unwrap_or_default(), field("event")?);
    let data = serde_json::from_str(field("data").unwrap_or("null")).unwrap();
    Some(Event { id: id.to_owned(), kind: kind.to_owned(), data })
}
