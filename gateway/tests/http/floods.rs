//! Check 21: what floods of HTTP cost is over when they are, on the real program.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::common::{fleet, http::Http, program::Program, stub, with_http};

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(2);
/// By when its cost must be over.
const REST: Duration = Duration::from_secs(5);
/// Over which time the cost is looked at, and how much of a core counts as rest.
const LOOK: Duration = Duration::from_millis(500);
const IDLE: f64 = 0.05;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
/// `GET / http x`, by HPACK's static table.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

struct Scene {
    jetway: Program,
    http: Http,
    session: String,
    _stub: jetway_loadtest::stub::Stub,
}

impl Scene {
    async fn start() -> Self {
        let stub = stub(1);
        let jetway = Program::start(&with_http(&fleet(stub.addrs(), "")));
        let http = Http::at(jetway.http.unwrap()).with("jetway-user", "ada");
        let session = http.create(json!({})).await;
        Self { jetway, http, session, _stub: stub }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.jetway.http.unwrap()
    }

    /// Somebody else is served meanwhile.
    async fn ask(&self) -> Duration {
        let since = Instant::now();
        assert_eq!(self.http.ask(&self.session, "hello").await, "You said: hello");
        since.elapsed()
    }

    /// Waits until the program rests again, and says how long that took.
    async fn rest(&self, what: &str) {
        let over = Instant::now();
        loop {
            let (before, since) = (self.jetway.cpu(), Instant::now());
            sleep(LOOK).await;
            let share = (self.jetway.cpu() - before).as_secs_f64() / since.elapsed().as_secs_f64();
            let took = over.elapsed();
            if share <= IDLE {
                println!(
                    "CHECK 21: {what}: at rest ({:.1} % of a core) {took:.1?} after the flood",
                    share * 100.0
                );
                return;
            }
            assert!(took < REST, "{what}: still {:.1} % of a core after {took:.1?}", share * 100.0);
        }
    }
}

/// Writes what `next` makes until the flood is over or the connection is closed, and comes back with another. Returns
/// how many connections that took, and how many frames.
async fn flood(to: std::net::SocketAddr, mut next: impl FnMut(u64) -> Vec<u8>) -> (u64, u64) {
    let until = Instant::now() + FLOOD;
    let (mut connections, mut frames) = (0, 0);
    while Instant::now() < until {
        let Ok(mut stream) = TcpStream::connect(to).await else { continue };
        connections += 1;
        if stream.write_all(PREFACE).await.is_err() {
            continue;
        }
        let (mut read, mut write) = stream.split();
        let reading = async {
            let mut buffer = [0; 4096];
            while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        };
        let writing = async {
            for n in 0.. {
                if Instant::now() >= until || write.write_all(&next(n)).await.is_err() {
                    break;
                }
                frames += 1;
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    }
    (connections, frames)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_21_rapid_reset() {
    let scene = Scene::start().await;
    let to = scene.address();
    let floods: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(flood(to, |n| {
                let stream = (2 * n + 1) as u32;
                let mut out = frame(HEADERS, 0x5, stream, GET);
                out.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                out
            }))
        })
        .collect();
    sleep(FLOOD / 2).await;
    let took = scene.ask().await;
    let mut sum = (0, 0);
    for flood in floods {
        let (connections, frames) = flood.await.unwrap();
        sum = (sum.0 + connections, sum.1 + frames);
    }
    scene
        .rest(&format!("{} streams reset on {} connections, another's turn took {took:.0?}", sum.1, sum.0))
        .await;
    scene.ask().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_21_continuation_flood() {
    let scene = Scene::start().await;
    let to = scene.address();
    let floods: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(flood(to, |n| match n {
                0 => frame(HEADERS, 0x1, 1, GET),
                // A header of its own in each, and never the last.
                _ => frame(CONTINUATION, 0, 1, &[&[0x00, 0x04][..], b"name", &[0x40], &[b'x'; 64]].concat()),
            }))
        })
        .collect();
    sleep(FLOOD / 2).await;
    let took = scene.ask().await;
    let mut sum = (0, 0);
    for flood in floods {
        let (connections, frames) = flood.await.unwrap();
        sum = (sum.0 + connections, sum.1 + frames);
    }
    scene
        .rest(&format!(
            "{} frames of headers on {} connections, another's turn took {took:.0?}",
            sum.1, sum.0
        ))
        .await;
    scene.ask().await;
}

/// Half of them never say anything of a request; all are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_21_slowloris() {
    const MANY: usize = 300;
    let scene = Scene::start().await;
    let to = scene.address();
    let drips: Vec<_> = (0..MANY)
        .map(|n| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(to).await.unwrap();
                let since = Instant::now();
                let bytes: &[u8] = match n % 3 {
                    0 => b"GET /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nX: a",
                    1 => b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
                    _ => b"",
                };
                let _ = stream.write_all(bytes).await;
                let mut buffer = [0; 512];
                for _ in 0..60 {
                    if let Ok(read) = timeout(Duration::from_millis(500), stream.read(&mut buffer)).await {
                        match read {
                            Ok(0) | Err(_) => return since.elapsed(),
                            // It says why first.
                            Ok(_) => continue,
                        }
                    }
                    if !bytes.is_empty() && stream.write_all(b"a").await.is_err() {
                        return since.elapsed();
                    }
                }
                panic!("still open after {:?}", since.elapsed());
            })
        })
        .collect();
    sleep(FLOOD / 2).await;
    let took = scene.ask().await;
    let mut last = Duration::ZERO;
    for drip in drips {
        last = last.max(drip.await.unwrap());
    }
    scene
        .rest(&format!(
            "{MANY} slow connections, the last closed after {last:.1?}, another's turn took {took:.0?}"
        ))
        .await;
    assert!(last < Duration::from_secs(15), "{last:?}");
}
