//! What a hostile or broken client sends is refused, costs nobody else anything, and never reaches a CLI server.

mod common;
mod corpus;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{PATIENCE, client::Client, quantile, start, stub};
use corpus::{Ends, corpus};
use jetway_config::KeyHash;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::sleep};

/// A second is what a refusal may take, and what silence is waited for.
const SOON: Duration = Duration::from_secs(1);
/// Below this, a ping's time says more about the machine than about Jetway.
const NOISE: Duration = Duration::from_millis(8);

/// Only whoever knows the token gets in; what is unfinished is waited for no longer than is allowed.
fn guarded(timeout: &str) -> String {
    let hash = KeyHash::of("token").to_hex();
    format!(
        "auth.keys = [{{ id = \"k\", tenant = \"t\", user = \"u\", sha256 = \"{hash}\" }}]\n\
         limits = {{ handshake_timeout = \"{timeout}\", partial_frame_timeout = \"{timeout}\" }}"
    )
}

/// Counts panics of every thread; a task's own is otherwise only a line on the terminal.
fn count_panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
    count
}

/// A client that does nothing wrong, and pings all the time.
struct Bystander {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<(Instant, Duration)>>,
}

impl Bystander {
    fn start(mut client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let since = Instant::now();
                client.call("ping", json!({})).await.expect("others see no error");
                took.push((since, since.elapsed()));
                client.seen.clear();
                client.raw.clear();
                sleep(Duration::from_millis(2)).await;
            }
            took
        });
        Self { stop, task }
    }

    /// The 99th percentile of the pings before and after `at`, and how many there were.
    async fn stop(self, at: Instant) -> (Duration, Duration, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.task.await.unwrap();
        let p99 = |pings: Vec<Duration>| quantile(&mut { pings }, 0.99);
        let before = p99(all.iter().filter(|(t, _)| *t < at).map(|(_, d)| *d).collect());
        let after = p99(all.iter().filter(|(t, _)| *t >= at).map(|(_, d)| *d).collect());
        (before, after, all.len())
    }
}

/// Sends a case and judges what comes of it.
async fn judge(mut client: Client, case: &corpus::Case, ends: Ends) -> Result<(), String> {
    let from = client.seen.len();
    let since = Instant::now();
    // A connection that is closed in the middle of a megabyte of header does not take the rest.
    let sent = client.send_raw(&case.bytes).await;
    let came =
        client.read_until(if ends == Ends::Silence { SOON / 10 } else { SOON }, |s| s.len() > from).await;
    let (name, took) = (case.name, since.elapsed());
    match ends {
        Ends::Close if came => Err(format!("{name}: an answer instead of a close: {}", client.seen[from])),
        Ends::Close if !client.closed => Err(format!("{name}: not closed after {took:?}; sent: {sent:?}")),
        Ends::Close => Ok(()),
        Ends::Error(_) | Ends::Silence if client.closed => Err(format!("{name}: closed, not answered")),
        Ends::Silence if came => Err(format!("{name}: answered {}", client.seen[from])),
        Ends::Error(_) if !came => Err(format!("{name}: no answer after {took:?}")),
        Ends::Error(code) if client.seen[from]["error"]["code"] != code => {
            Err(format!("{name}: {} instead of {code}", client.seen[from]))
        }
        Ends::Error(_) | Ends::Silence => {
            // And the connection is as good as before.
            let token = json!({ "token": "token" });
            client.call("connect", token).await.map(drop).map_err(|e| format!("{name}: afterwards {e}"))
        }
    }
}

/// Check 15, but for what takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_15_the_corpus() {
    let panics = count_panics();
    let stub = stub(1);
    let gateway = start(&common::fleet(stub.addrs(), &guarded("5s"))).await;
    let bystander = Bystander::start(Client::hello(gateway.sdk, "token").await);
    // One whom Jetway does not serve: what it sees is the machine's doing.
    let mut direct = Client::dial(stub.addr()).await;
    direct.call("connect", json!({})).await.unwrap();
    let control = Bystander::start(direct);
    sleep(Duration::from_millis(1500)).await;
    let begun = Instant::now();
    let mut wrong = Vec::new();
    let mut count = 0;
    for _ in 0..3 {
        for case in &corpus() {
            let stranger = Client::dial(gateway.sdk).await;
            wrong
                .extend(judge(stranger, case, case.before()).await.err().map(|e| format!("a stranger: {e}")));
            let known = Client::hello(gateway.sdk, "token").await;
            wrong.extend(judge(known, case, case.after).await.err().map(|e| format!("a user: {e}")));
            count += 2;
        }
    }
    let (before, after, pings) = bystander.stop(begun).await;
    let (_, machine, _) = control.stop(begun).await;
    let received = stub.received();
    let beyond =
        received.iter().filter(|r| !matches!(&*r.method, "connect" | "ping") || r.params.contains("canary"));
    let beyond: Vec<_> = beyond.collect();
    println!(
        "CHECK 15: {count} bad inputs: {} wrong, {} panics, {} frames beyond at the CLI; another's ping p99 {before:.2?} before, {after:.2?} meanwhile ({pings} pings; without Jetway {machine:.2?})",
        wrong.len(),
        panics.load(Ordering::Relaxed),
        beyond.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    assert_eq!(beyond, Vec::<&_>::new());
    assert_eq!(stub.ledger().findings().malformed, []);
    let allowed = (2 * before.max(machine)).max(NOISE);
    assert!(after <= allowed, "{after:?} > {allowed:?}");
}

/// Check 15: what is not finished is not waited for.
#[tokio::test]
async fn check_15_unfinished_frames() {
    let stub = stub(1);
    let gateway = start(&common::fleet(stub.addrs(), &guarded("1s"))).await;
    let ping = corpus::frame(br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"canary":1}}"#);
    let short = &ping[..ping.len() - 1];
    for known in [false, true] {
        let dial = async || match known {
            true => Client::hello(gateway.sdk, "token").await,
            false => Client::dial(gateway.sdk).await,
        };
        for part in [short, &short[..1], &short[..20], b"Content-Length: 2\r\n\r"] {
            let mut client = dial().await;
            client.send_raw(part).await.unwrap();
            let since = Instant::now();
            assert!(client.closes(SOON * 2).await, "known: {known}, {} bytes", part.len());
            assert!(since.elapsed() > SOON / 2, "it was waited for");
            // The same, and the client says that it is done: then nobody waits.
            let mut client = dial().await;
            client.send_raw(part).await.unwrap();
            client.stream.shutdown().await.unwrap();
            let since = Instant::now();
            assert!(client.closes(SOON).await && since.elapsed() < SOON / 2, "half-closed");
        }
        // A byte now and then is no progress.
        let mut client = dial().await;
        let since = Instant::now();
        for byte in short {
            if client.send_raw(&[*byte]).await.is_err() || client.closes(Duration::from_millis(250)).await {
                break;
            }
        }
        println!("CHECK 15: one byte every 250 ms, known: {known}: closed after {:.1?}", since.elapsed());
        assert!(since.elapsed() < SOON * 2);
    }
    assert!(stub.received().iter().all(|r| !r.params.contains("canary")));
}

/// Check 16.
#[tokio::test]
async fn check_16_duplicate_keys() {
    let stub = stub(1);
    let gateway = start(&common::fleet(stub.addrs(), "")).await;
    let mut client = Client::hello(gateway.sdk, "alice").await;
    client.create("mine").await;
    let frames = stub.ledger().frames();
    let mut pings = stub.received().iter().filter(|r| r.method == "ping").count() as u64;
    let mut refused = 0;
    for (a, b) in
        [("sessionId", "sessionId"), ("sessionId", "session\\u0049d"), ("\\u0073essionId", "sessionId")]
    {
        for params in [
            format!(r#"{{"{a}":"mine","prompt":"x","{b}":"other"}}"#),
            format!(r#"{{"{b}":"other","prompt":"x","{a}":"mine"}}"#),
            format!(r#"{{"sessionId":"mine","prompt":"x","deep":[{{"{a}":1,"{b}":1}}]}}"#),
        ] {
            let request = format!(r#"{{"jsonrpc":"2.0","id":9,"method":"session.send","params":{params}}}"#);
            let from = client.seen.len();
            client.send_text(&request).await.unwrap();
            let reply = client.find(from, |m| m["error"].is_object()).await;
            assert_eq!((&reply["error"]["code"], &reply["id"]), (&json!(-32700), &Value::Null), "{request}");
            refused += 1;
        }
    }
    for envelope in [
        r#"{"jsonrpc":"2.0","id":9,"method":"ping","method":"session.send","params":{"sessionId":"mine"}}"#,
        r#"{"jsonrpc":"2.0","id":9,"method":"ping","m\u0065thod":"session.send","params":{"sessionId":"mine"}}"#,
        r#"{"jsonrpc":"2.0","id":9,"method":"session.send","params":{},"params":{"sessionId":"mine"}}"#,
        r#"{"jsonrpc":"2.0","id":9,"id":10,"method":"session.send","params":{"sessionId":"mine"}}"#,
    ] {
        let from = client.seen.len();
        client.send_text(envelope).await.unwrap();
        assert_eq!(client.find(from, |m| m["error"].is_object()).await["error"]["code"], -32700);
        refused += 1;
    }
    // What the fleet's own watching sent meanwhile is no client's.
    pings = stub.received().iter().filter(|r| r.method == "ping").count() as u64 - pings;
    let reached = stub.ledger().frames() - frames - pings;
    println!("CHECK 16: {refused} frames with duplicate keys refused, {reached} reached the CLI");
    assert_eq!(reached, 0);
}

/// Check 17.
#[tokio::test]
async fn check_17_deep_nesting() {
    let stub = stub(1);
    let gateway = start(&common::fleet(stub.addrs(), "")).await;
    let mut client = Client::hello(gateway.sdk, "alice").await;
    let mut worst = Duration::ZERO;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let (open, close) = (open.repeat(200_000), close.repeat(200_000));
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"canary":{open}1{close}}}}}"#);
        let from = client.seen.len();
        client.send_text(&body).await.unwrap();
        let since = Instant::now();
        let reply = client.find(from, |m| m["error"].is_object()).await;
        worst = worst.max(since.elapsed());
        assert_eq!(reply["error"]["code"], -32700);
    }
    println!("CHECK 17: 200,000 levels refused after {worst:.1?}");
    assert!(worst <= Duration::from_millis(50), "{worst:?}");
    client.call("ping", json!({})).await.unwrap();
    assert!(stub.received().iter().all(|r| !r.params.contains("canary")));
}

/// Check 19: what drips is closed, and nobody else notices. The product's own timeouts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_19_a_thousand_slow_drips() {
    let stub = stub(1);
    let gateway = start(&common::fleet(stub.addrs(), "")).await;
    let bystander = Bystander::start(Client::hello(gateway.sdk, "alice").await);
    sleep(SOON).await;
    let begun = Instant::now();
    let mut drips = JoinSet::new();
    for n in 0..1000 {
        let sdk = gateway.sdk;
        drips.spawn(async move {
            let mut client = match n % 2 {
                0 => Client::dial(sdk).await,
                _ => Client::hello(sdk, "mallory").await,
            };
            let since = Instant::now();
            for byte in b"Content-Length: 5000\r\n\r\n{\"jsonrpc\":\"2.0\"" {
                if client.send_raw(&[*byte]).await.is_err() || client.closes(SOON).await {
                    break;
                }
            }
            assert!(client.closed, "still open");
            since.elapsed()
        });
    }
    let all = tokio::time::timeout(3 * PATIENCE, drips.join_all()).await.expect("all are closed");
    let (before, after, pings) = bystander.stop(begun).await;
    let last = all.iter().max().unwrap();
    println!(
        "CHECK 19: 1,000 slow drips, the last one closed after {last:.1?}; another's {pings} pings: 0 errors, p99 {before:.2?} before, {after:.2?} meanwhile"
    );
    assert!(*last <= Duration::from_secs(10), "{last:?}");
}
