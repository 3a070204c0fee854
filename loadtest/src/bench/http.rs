//! The HTTP port beside HTTP proxies: 64 connections, one request after the other on each, 1 KiB of JSON in answer.
//!
//! What the proxies pass on comes from a small server of hyper's that answers with a fixed 1 KiB. Jetway's request is
//! `GET /api/v1/sessions/{id}/messages`, a different session on each connection: it is authenticated, found in the
//! directory, asked of the CLI server as `session.getMessages` by JSON-RPC, and the answer is written anew.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use hyper::{Request, Response, service::service_fn};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    load::Outcome,
    measure::{Measure, Samples},
    peers::{Kind, Places, haproxy_with, jetway_with, nginx_with, splice_to},
    process::{Process, free_addr},
};

/// Connections.
const CLIENTS: usize = 64;
/// What an answer holds, at Jetway less by some dozen bytes of names and times.
const BODY: usize = 1024;
/// Load before a phase counts.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long anything may take that is not a whole phase.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that is read of an answer.
const MOST: usize = 64 << 10;

/// What the proxies stand before: answers everything with the same 1 KiB, for ever.
///
/// # Errors
/// When it cannot listen.
pub fn upstream(listen: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let text = serde_json::json!({ "text": "x".repeat(BODY - r#"{"text":""}"#.len()) }).to_string();
    let body = Bytes::from(text);
    runtime.block_on(async move {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let body = body.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true).ok();
                let answer = service_fn(|_: Request<hyper::body::Incoming>| {
                    let response = Response::builder().header("content-type", "application/json");
                    let response = response.body(Body::from(body.clone())).unwrap_or_default();
                    async move { Ok::<_, Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    })
}

/// Something to measure.
#[derive(Debug)]
pub struct Target {
    /// What it is.
    pub kind: Kind,
    addr: SocketAddr,
    process: Process,
    /// The requests' path of each connection.
    paths: Vec<String>,
}

/// Starts what the proxies stand before.
///
/// # Errors
/// When it does not come up.
pub fn start_upstream(places: &Places) -> io::Result<(Process, SocketAddr)> {
    let listen = free_addr()?;
    let mut command = Command::new(places.bin.join("bench"));
    command.args(["upstream", "--listen", &listen.to_string()]);
    Ok((Process::start(&mut command)?.listening(listen)?, listen))
}

/// Starts one.
///
/// # Errors
/// When its program is missing or does not come up; the message says which and why.
pub async fn start(
    kind: Kind,
    places: &Places,
    upstream: SocketAddr,
    servers: &[SocketAddr],
) -> io::Result<Target> {
    let mut listen = free_addr()?;
    let up = upstream.to_string();
    let process = match kind {
        // What it costs is the upstream's own.
        Kind::Direct => {
            let (process, addr) = start_upstream(places)?;
            listen = addr;
            process
        }
        Kind::Splice => Process::start(&mut splice_to(places, listen, &[upstream]))?.listening(listen)?,
        Kind::Nginx => {
            let mut command = nginx_with(places, "nginx-http.conf", listen, &[("UPSTREAM", &up)])?;
            Process::start(&mut command)?.listening(listen)?
        }
        Kind::Haproxy => {
            let mut command = haproxy_with(places, "haproxy-http.cfg", listen, &[("UPSTREAM", &up)])?;
            Process::start(&mut command)?.listening(listen)?
        }
        Kind::Jetway => {
            let list: String =
                servers.iter().map(|s| format!("[[pool.fleet]]\naddress = \"{s}\"\n")).collect();
            let mut command = jetway_with(places, "jetway-http.toml", listen, &[("SERVERS", &list)])?;
            Process::start(&mut command)?.listening(listen)?
        }
    };
    let mut paths = vec!["/api/v1/sessions/x/messages".to_owned(); CLIENTS];
    if kind == Kind::Jetway {
        for (n, path) in paths.iter_mut().enumerate() {
            *path = session(listen, n).await?;
        }
    }
    Ok(Target { kind, addr: listen, process, paths })
}

/// Makes a session in which as much was said as the others answer, and returns the path of that.
async fn session(addr: SocketAddr, n: usize) -> io::Result<String> {
    let mut client = Client::open(addr).await?;
    let user = format!("user-{n}");
    let made =
        client.ask("POST", "/api/v1/sessions", &user, &format!("{{\"session_id\":\"http-{n}\"}}")).await?;
    if made.0 != 201 {
        return Err(io::Error::other(format!("no session: {}", made.0)));
    }
    let path = format!("/api/v1/sessions/http-{n}/messages");
    // It is said twice: as it is asked, and as it is answered.
    let said = "x".repeat((BODY - 300) / 2);
    let body = format!("{{\"prompt\":\"[[quiet]] {said}\"}}");
    match client.ask("POST", &path, &user, &body).await?.0 {
        200 => Ok(path),
        status => Err(io::Error::other(format!("no turn: {status}"))),
    }
}

/// A connection.
struct Client {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Client {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buf: vec![0; MOST] })
    }

    /// A request, and the status and length of its answer.
    async fn ask(&mut self, method: &str, path: &str, user: &str, body: &str) -> io::Result<(u16, usize)> {
        let request = request(method, path, user, body);
        timeout(PATIENCE, self.exchange(&request)).await.map_err(|_| io::Error::other("no answer in time"))?
    }

    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, usize)> {
        self.stream.write_all(request).await?;
        let mut have = 0;
        loop {
            let n = self.stream.read(&mut self.buf[have..]).await?;
            if n == 0 {
                return Err(io::Error::other("connection closed, or too long an answer"));
            }
            have += n;
            let Some(head) = memmem::find(&self.buf[..have], b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.buf[..head]).map_err(io::Error::other)?;
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let length = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
            if have >= head + 4 + length {
                let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
                return Ok((status, length));
            }
        }
    }
}

fn request(method: &str, path: &str, user: &str, body: &str) -> Vec<u8> {
    let content = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nJetway-User: {user}\r\n{content}\r\n{body}")
        .into_bytes()
}

/// Requests for as long as a phase lasts.
///
/// # Errors
/// When one is refused.
pub async fn requests(target: &Target, phase: Duration, samples: &mut Samples) -> io::Result<()> {
    let mut clients = Vec::new();
    for (n, path) in target.paths.iter().enumerate() {
        clients.push((Client::open(target.addr).await?, request("GET", path, &format!("user-{n}"), "")));
    }
    load(&mut clients, WARM_UP).await?;
    let before = target.process.cpu()?;
    let outcome = load(&mut clients, phase).await?;
    let used = target.process.cpu()? - before;
    #[allow(clippy::cast_precision_loss)]
    let ops = outcome.ops as f64;
    let values = [
        (Measure::HttpCpu, used / ops * 1e5),
        (Measure::HttpOps, ops / outcome.seconds),
        (Measure::HttpP50, outcome.quantile_us(0.5)),
    ];
    values.into_iter().for_each(|(measure, value)| samples.add(measure, target.kind, value));
    Ok(())
}

async fn load(clients: &mut Vec<(Client, Vec<u8>)>, time: Duration) -> io::Result<Outcome> {
    let begun = Instant::now();
    let end = begun + time;
    let mut working = JoinSet::new();
    for (mut client, request) in clients.drain(..) {
        working.spawn_local(async move {
            let mut times = Vec::new();
            let mut since = Instant::now();
            while since < end {
                let (status, length) = client.exchange(&request).await?;
                // Within a quarter of what the others answer.
                if status != 200 || length.abs_diff(BODY) > BODY / 4 {
                    return Err(io::Error::other(format!("{status} with {length} bytes")));
                }
                let now = Instant::now();
                times.push(u32::try_from((now - since).as_nanos()).unwrap_or(u32::MAX));
                since = now;
            }
            Ok((client, request, times))
        });
    }
    let mut whole = Outcome::default();
    while let Some(done) = working.join_next().await {
        let (client, request, times) = done.map_err(io::Error::other)??;
        whole.times.extend(times);
        clients.push((client, request));
    }
    whole.ops = whole.times.len() as u64;
    whole.seconds = begun.elapsed().as_secs_f64();
    whole.times.sort_unstable();
    Ok(whole)
}
