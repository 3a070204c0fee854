//! Check 15 on the HTTP port: what a hostile or broken client sends is refused or closed within a second, costs nobody
//! else anything, and never reaches a CLI server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jetway_config::KeyHash;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::corpus::{self, Case, Ends};
use crate::{
    common::{Gateway, client::Client, http::Http, quantile},
    gateway,
};

/// What a refusal may take.
const SOON: Duration = Duration::from_secs(1);
/// A slow machine's part of it: what is measured is printed.
const LATE: Duration = Duration::from_secs(4);
/// Below this, a request's time says more about the machine than about Jetway.
const NOISE: Duration = Duration::from_millis(20);

/// Only whoever knows the token gets in; what is unfinished is not waited for.
fn guarded() -> String {
    let hash = KeyHash::of("token").to_hex();
    format!(
        "auth.keys = [{{ id = \"k\", tenant = \"t\", user = \"u\", sha256 = \"{hash}\" }}]\n\
         limits = {{ handshake_timeout = \"1s\", partial_frame_timeout = \"1s\" }}\n"
    )
}

/// Counts panics of every thread. Jetway answers those of its handlers itself, so that nobody else would see them.
fn count_panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        // Other tests of this program may fail meanwhile, in their own threads.
        if info.location().is_some_and(|at| !at.file().contains("tests/")) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    count
}

/// Somebody whom Jetway does not serve: what takes longer there is the machine's doing.
fn control(stub: SocketAddr) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<(Instant, Duration)>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut took = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let since = Instant::now();
            // As much as a request of HTTP: a connection of its own.
            let mut client = Client::dial(stub).await;
            client.call("connect", json!({})).await.unwrap();
            client.call("ping", json!({})).await.unwrap();
            took.push((since, since.elapsed()));
            sleep(Duration::from_millis(2)).await;
        }
        took
    });
    (stop, task)
}

/// Somebody who does nothing wrong, and asks all the time. Returns how long it took, by when.
fn bystander(
    gateway: &Gateway,
    session: &str,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<(Instant, Duration)>>) {
    let http = Http::to(gateway).with("authorization", "Bearer token");
    let (stop, path) = (Arc::new(AtomicBool::new(false)), format!("/api/v1/sessions/{session}"));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut took = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let since = Instant::now();
            assert_eq!(http.get(&path).await.status, 200, "others see no error");
            took.push((since, since.elapsed()));
            sleep(Duration::from_millis(2)).await;
        }
        took
    });
    (stop, task)
}

/// Reads until the connection is closed, or for a second. Returns the first answer's status, and whether it was closed.
async fn outcome(to: SocketAddr, bytes: &[u8]) -> (Option<u16>, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A connection that is closed in the middle of a megabyte does not take the rest.
    let _ = timeout(LATE, stream.write_all(bytes)).await;
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    let status = |read: &[u8]| {
        let head = String::from_utf8_lossy(&read[..read.len().min(64)]).into_owned();
        head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
    };
    loop {
        match timeout(LATE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return (status(&read), true),
            Ok(Ok(n)) => {
                read.extend_from_slice(&buffer[..n]);
                if status(&read).is_some() {
                    return (status(&read), false);
                }
            }
            Err(_) => return (status(&read), false),
        }
    }
}

/// Whether a case came to what it may come to; and how long that took.
async fn judge(to: SocketAddr, case: &Case) -> Result<Duration, String> {
    let since = Instant::now();
    let (status, closed) = outcome(to, &case.bytes).await;
    match status {
        Some(status) if case.statuses.contains(&status) => Ok(since.elapsed()),
        None if closed => Ok(since.elapsed()),
        _ => Err(format!("{}: {status:?}, closed: {closed}", case.name)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_15_http_corpus() {
    let panics = count_panics();
    let (stub, gateway, _dir) = gateway(&guarded()).await;
    let known = Http::to(&gateway).with("authorization", "Bearer token");
    let session = known.create(json!({})).await;
    let to = gateway.http.unwrap();
    let (stop, watching) = bystander(&gateway, &session);
    let (stop_control, controlling) = control(stub.addr());
    sleep(SOON).await;
    let begun = Instant::now();
    let (mut wrong, mut slow, mut count) = (Vec::new(), Vec::new(), 0);
    let cases =
        [corpus::framing(&session), corpus::bodies(&session), corpus::handshakes(&session)].concat_all();
    for _ in 0..2 {
        for case in &cases {
            count += 1;
            match judge(to, case).await {
                Ok(took) if took > SOON + SOON / 2 => slow.push(format!("{}: {took:.1?}", case.name)),
                Ok(_) => {}
                Err(why) => wrong.push(why),
            }
        }
    }
    [stop, stop_control].iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
    let all = watching.await.unwrap();
    let machine = controlling.await.unwrap();
    let p99 = |times: Vec<Duration>| quantile(&mut { times }, 0.99);
    let before = p99(all.iter().filter(|(at, _)| *at < begun).map(|(_, took)| *took).collect());
    let after = p99(all.iter().filter(|(at, _)| *at >= begun).map(|(_, took)| *took).collect());
    let machine = p99(machine.iter().filter(|(at, _)| *at >= begun).map(|(_, took)| *took).collect());
    let beyond = stub.received().iter().filter(|r| r.params.contains("canary")).count();
    let panics = panics.load(Ordering::Relaxed);
    println!(
        "CHECK 15 (HTTP): {count} bad inputs: {} wrong, {} slow, {panics} panics, {beyond} at the CLI; another's request p99 {before:.2?} before, {after:.2?} meanwhile ({} requests; without Jetway {machine:.2?})",
        wrong.len(),
        slow.len(),
        all.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(slow, Vec::<String>::new());
    assert_eq!((panics, beyond), (0, 0));
    let allowed = (2 * before.max(machine)).max(NOISE);
    assert!(after <= allowed, "{after:?} > {allowed:?}");
    assert_eq!(known.ask(&session, "as before").await, "You said: as before");
}

trait ConcatAll<T> {
    fn concat_all(self) -> Vec<T>;
}

impl<T, const N: usize> ConcatAll<T> for [Vec<T>; N] {
    fn concat_all(self) -> Vec<T> {
        self.into_iter().flatten().collect()
    }
}

/// A WebSocket whose frames are written by hand.
pub(crate) struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn open(to: SocketAddr, session: &str) -> Self {
        // Little room for what is not read.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(to).await.unwrap();
        let head = format!(
            "GET /ws/sessions/{session} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer token\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut raw = Self { stream, read: Vec::new() };
        while !raw.read.windows(4).any(|w| w == b"\r\n\r\n") {
            assert!(raw.more().await, "a handshake");
        }
        assert!(raw.read.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&raw.read));
        let end = raw.read.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        raw.read.drain(..end);
        raw
    }

    /// Reads more; whether there was any.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match timeout(LATE, self.stream.read(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 => {
                self.read.extend_from_slice(&buffer[..n]);
                true
            }
            _ => false,
        }
    }

    /// The next frame's kind and payload; `None` when it is closed without one.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, len, ..] = self.read[..] {
                let (from, len) = match len {
                    126 if self.read.len() >= 4 => {
                        (4, u16::from_be_bytes([self.read[2], self.read[3]]).into())
                    }
                    len @ 0..126 => (2, usize::from(len)),
                    _ => (usize::MAX, 0),
                };
                if from != usize::MAX && self.read.len() >= from + len {
                    let payload = self.read[from..from + len].to_vec();
                    self.read.drain(..from + len);
                    return Some((first & 0x0f, payload));
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }
}

async fn judge_websocket(
    to: SocketAddr,
    session: &str,
    name: &str,
    bytes: &[u8],
    ends: Ends,
) -> Result<(), String> {
    let mut raw = Raw::open(to, session).await;
    let since = Instant::now();
    let _ = timeout(LATE, raw.stream.write_all(bytes)).await;
    let mut came = None;
    while let Some((kind, payload)) = raw.frame().await {
        match kind {
            1 => {
                let message: Value = serde_json::from_slice(&payload).unwrap();
                if message["type"] == "jetway.error" {
                    came = Some(Ends::Error(&[]));
                    if let Ends::Error(statuses) = ends {
                        let status = message["data"]["status"].as_u64().unwrap_or_default() as u16;
                        return if statuses.contains(&status) {
                            Ok(())
                        } else {
                            Err(format!("{name}: {status}"))
                        };
                    }
                }
            }
            8 => {
                let code = payload.get(..2).map_or(0, |c| u16::from_be_bytes([c[0], c[1]]));
                return match ends {
                    Ends::Close(expected) if code == expected || code == 0 => Ok(()),
                    _ => Err(format!("{name}: closed with {code} instead of {ends:?}")),
                };
            }
            _ => {}
        }
    }
    let took = since.elapsed();
    match ends {
        Ends::Close(_) if came.is_none() && took < LATE => Ok(()),
        _ => Err(format!("{name}: nothing after {took:?} instead of {ends:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_15_websocket_corpus() {
    let panics = count_panics();
    let (stub, gateway, _dir) = gateway(&guarded()).await;
    let known = Http::to(&gateway).with("authorization", "Bearer token");
    let session = known.create(json!({})).await;
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, bytes, ends) in corpus::websocket() {
        count += 1;
        wrong.extend(judge_websocket(gateway.http.unwrap(), &session, &name, &bytes, ends).await.err());
    }
    let beyond = stub.received().iter().filter(|r| r.params.contains("canary")).count();
    let panics = panics.load(Ordering::Relaxed);
    println!(
        "CHECK 15 (WebSocket): {count} bad inputs: {} wrong, {panics} panics, {beyond} at the CLI",
        wrong.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!((panics, beyond), (0, 0));
    assert_eq!(known.ask(&session, "as before").await, "You said: as before");
}
