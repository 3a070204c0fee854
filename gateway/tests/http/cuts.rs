//! Connections that are cut at random bytes: what is read is what was told, once, and what was asked is done once.
//!
//! `JETWAY_CUTS` is how many streams are cut; 1,000 with `make faces`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use jetway_loadtest::model::{self, Ledger};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    common::{Gateway, PATIENCE, http::Http, per_user, runtime, start, with_http},
    gateway,
};

/// The most that is read of an answer before it is cut, as a power of two: some events have 30 KB.
const STRETCH: u64 = 17;
/// How far the reader that is cut may lag behind before the next turn begins: a quarter of what is kept.
const BEHIND: usize = 512 << 10;
/// How often a request is cut before it is let through.
const STUBBORN: u64 = 6;

fn cuts(least: usize) -> usize {
    std::env::var("JETWAY_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(least)
}

/// splitmix64, from a seed that is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("seed {seed}");
        Self(seed)
    }

    /// How much to read: as often little as much.
    fn stretch(&mut self) -> usize {
        let scale = 1 << (5 + self.below(STRETCH - 5));
        1 + self.below(2 * scale) as usize
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

/// A request of HTTP/1.0, whose answer has no chunks and ends with its connection.
fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nJetway-User: ada\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    )
}

/// Sends `sent` bytes of a request, reads `most` bytes of the answer's body, and is gone. Returns the status, if it
/// came so far, what was read, and whether that was all there was.
async fn cut(to: SocketAddr, request: &str, sent: usize, most: usize) -> (Option<u16>, String, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&request.as_bytes()[..sent]).await.unwrap();
    if sent < request.len() {
        return (None, String::new(), false);
    }
    let (mut read, mut buffer) = (Vec::new(), [0; 512]);
    loop {
        let head = read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        let body = head.map_or(0, |head| read.len() - head);
        let next = buffer.len().min(most.saturating_sub(body));
        let n = match next {
            0 => 0,
            next => timeout(PATIENCE * 2, stream.read(&mut buffer[..next]))
                .await
                .expect("something in time")
                .unwrap_or(0),
        };
        read.extend_from_slice(&buffer[..n]);
        if n == 0 {
            let text = String::from_utf8_lossy(&read).into_owned();
            let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
            return (status, text[head.unwrap_or(text.len())..].to_owned(), next > 0);
        }
    }
}

/// The events that came whole, as they were sent, and the id of the last.
fn whole(body: &str) -> Vec<String> {
    let end = body.rfind("\n\n").map_or(0, |at| at + 2);
    let blocks = body[..end].split_terminator("\n\n");
    blocks.filter(|block| block.starts_with("id: ")).map(str::to_owned).collect()
}

fn id_of(block: &str) -> &str {
    block.strip_prefix("id: ").and_then(|rest| rest.split('\n').next()).unwrap()
}

/// Asks, again and again by the same key, until an answer came to its end. Returns what was answered, and how often
/// it was cut before.
async fn ask(to: SocketAddr, path: &str, key: usize, prompt: &str, random: &mut Random) -> (Value, u64) {
    let events = random.below(2) == 0;
    let accept = if events { "Accept: text/event-stream\r\n" } else { "" };
    let headers = format!("Idempotency-Key: key-{key}\r\n{accept}");
    let request = request("POST", path, &headers, &json!({ "prompt": prompt }).to_string());
    for tried in 0.. {
        let last = tried == STUBBORN;
        let sent = if last || random.below(4) > 0 {
            request.len()
        } else {
            random.below(request.len() as u64) as usize
        };
        let most = if last { usize::MAX } else { random.stretch() };
        let (status, body, ended) = cut(to, &request, sent, most).await;
        if !ended {
            continue;
        }
        assert_eq!(status, Some(200), "{body}");
        if !events {
            return (serde_json::from_str(&body).unwrap(), tried);
        }
        let end = whole(&body).pop().unwrap();
        assert!(end.contains("\nevent: jetway.turn_ended\n"), "{end}");
        let data = end.split_once("\ndata: ").unwrap().1;
        return (serde_json::from_str(data).unwrap(), tried);
    }
    unreachable!()
}

/// Cuts `wanted` streams of a session's events while turns run, whose requests are cut too.
async fn drive(
    gateway: &Gateway,
    session: &str,
    wanted: usize,
    prompt: fn(usize) -> (String, String),
) -> usize {
    let to = gateway.http.unwrap();
    let path = format!("/api/v1/sessions/{session}/events");
    let done = Arc::new(AtomicBool::new(false));
    let cuts = Arc::new(AtomicUsize::new(0));
    // Who lags behind by more than is kept hears that; here nobody is to.
    let (told, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // One that nobody cuts, from the same place on.
    let uncut = {
        let (done, path, told) = (done.clone(), path.clone(), told.clone());
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request("GET", &path, "", "").as_bytes()).await.unwrap();
        tokio::spawn(async move {
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                match timeout(std::time::Duration::from_millis(500), stream.read(&mut buffer)).await {
                    Ok(n) => {
                        text.extend_from_slice(&buffer[..n.unwrap()]);
                        told.store(text.len(), Ordering::Relaxed);
                    }
                    Err(_) if done.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
            let text = String::from_utf8(text).unwrap();
            whole(text.split_once("\r\n\r\n").unwrap().1)
        })
    };
    // It reads from before the first turn on.
    while told.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let asking = {
        let (done, cuts, path) = (done.clone(), cuts.clone(), format!("/api/v1/sessions/{session}/messages"));
        let (told, read) = (told.clone(), read.clone());
        tokio::spawn(async move {
            let mut random = Random::new();
            let (mut turns, mut tries) = (0, 0);
            // Enough of them for as long as the streams are cut, and one after the last.
            while cuts.load(Ordering::Relaxed) < wanted || turns < wanted / 8 {
                while told.load(Ordering::Relaxed) > read.load(Ordering::Relaxed) + BEHIND {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                let (prompt, said) = prompt(turns);
                let (answer, tried) = ask(to, &path, turns, &prompt, &mut random).await;
                assert_eq!((&answer["outcome"], &answer["content"]), (&json!("completed"), &json!(said)));
                turns += 1;
                tries += tried;
            }
            done.store(true, Ordering::Relaxed);
            (turns, tries)
        })
    };
    let mut random = Random::new();
    let mut joined: Vec<String> = Vec::new();
    let mut place: Option<String> = None;
    while !done.load(Ordering::Relaxed) {
        if place.is_none() {
            // It begins with what comes now.
            read.store(told.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let headers = place.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = request("GET", &path, &headers, "");
        let most = random.stretch();
        // Nothing may come any more.
        let piece = timeout(PATIENCE, cut(to, &request, request.len(), most));
        let finished = async {
            while !done.load(Ordering::Relaxed) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let body = tokio::select! {
            piece = piece => piece.expect("something in time").1,
            () = finished => break,
        };
        cuts.fetch_add(1, Ordering::Relaxed);
        joined.extend(whole(&body).into_iter().inspect(|block| {
            read.fetch_add(block.len() + 2, Ordering::Relaxed);
        }));
        place = joined.last().map(|block| id_of(block).to_owned());
    }
    let (turns, tries) = asking.await.unwrap();
    let uncut = uncut.await.unwrap();
    // The first piece began later, and the last may have been cut before the end.
    let from = uncut.iter().position(|block| *block == joined[0]).expect("both saw it");
    assert_eq!(joined[..], uncut[from..from + joined.len()], "what was cut reads like what was not");
    let deltas = joined.iter().filter(|b| b.contains("\nevent: assistant.message_delta\n")).count();
    assert!(!joined.iter().any(|b| b.contains("jetway.snapshot")), "nothing was missed");
    assert!(deltas > 0, "it was about deltas");
    println!(
        "{} streams cut at random bytes: {} events joined, {deltas} of them deltas, all as they were told; {turns} turns asked for, {tries} requests cut",
        cuts.load(Ordering::Relaxed),
        joined.len()
    );
    turns
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_reads_like_what_is_not() {
    let (stub, gateway, _dir) = gateway("").await;
    let id = Http::user(&gateway, "ada").create(json!({})).await;
    let turns =
        drive(&gateway, &id, cuts(100), |n| (format!("[[deltas 40 9 1]] {n}"), "x".repeat(360))).await;
    let sent = stub.received().iter().filter(|r| r.method == "session.send").count();
    println!("{sent} prompts at the CLI server: {} more than turns", sent - turns);
    assert_eq!(sent, turns);
}

/// The same before a real runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_reads_like_what_is_not_on_a_real_runtime() {
    let Some(program) = runtime("what_is_cut_reads_like_what_is_not_on_a_real_runtime") else { return };
    let state = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, Ledger::in_memory()).unwrap();
    let gateway = start(&with_http(&per_user(&program, state.path(), ""))).await;
    let ada = Http::user(&gateway, "ada");
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-test" });
    let id = ada.create(json!({ "model": "scripted", "provider": provider })).await;
    let turns = drive(&gateway, &id, cuts(30), |n| {
        (format!("[[say the {n}th of many words]]"), format!("the {n}th of many words"))
    })
    .await;
    let said = ada.get(&format!("/api/v1/sessions/{id}/messages")).await.json();
    let asked = said["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "user").count();
    println!("{asked} prompts in the session's history: {} more than turns", asked - turns);
    assert_eq!(asked, turns);
}
