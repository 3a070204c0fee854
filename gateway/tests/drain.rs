//! A gateway that is told to stop loses no turn, and stops.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE,
    client::{Client, is_event},
    program::Program,
    stub, until,
};
use jetway_loadtest::stub::{Event, Stub};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};

fn jetway(stub: &Stub, timeout: &str) -> Program {
    Program::start(&common::fleet(stub.addrs(), &format!("drain.timeout = \"{timeout}\"")))
}

/// What became of one turn, as its client saw it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    acknowledged: bool,
    answered: usize,
    idle: usize,
    errors: usize,
    half_a_frame: bool,
}

/// Runs a turn and listens until the connection ends.
async fn turn(mut client: Client, session: String, nonce: String, millis: u64) -> Seen {
    let prompt = format!("[[deltas {} 30 20]] nonce:{nonce}", millis / 20);
    let acknowledged = client.prompt(&session, &prompt).await.is_ok();
    assert!(client.closes(3 * PATIENCE).await, "{session}: still open");
    Seen {
        acknowledged,
        answered: client.events(&session, "assistant.message").len(),
        idle: client.events(&session, "session.idle").len(),
        errors: client.events(&session, "session.error").len(),
        half_a_frame: client.mid_frame(),
    }
}

/// How often a turn of that nonce began, and how often it ended as it should.
fn in_ledger(stub: &Stub, nonce: &str) -> (usize, usize) {
    let entries = stub.ledger().entries();
    let count = |event: Event| {
        entries.iter().filter(|e| e.nonce.as_deref() == Some(nonce) && e.event == event).count()
    };
    (count(Event::Begin), count(Event::End))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_36_two_hundred_turns() {
    const TURNS: u64 = 200;
    let stub = stub(2);
    let mut jetway = jetway(&stub, "15s");
    let mut clients = Vec::new();
    for n in 0..TURNS {
        let mut client = Client::hello(jetway.sdk, &format!("user-{n}")).await;
        client.create(&format!("s-{n}")).await;
        clients.push(client);
    }
    let mut latecomer = Client::hello(jetway.sdk, "latecomer").await;
    latecomer.create("late").await;
    assert_eq!(jetway.get("/readyz").await.0, 200);
    let mut turns = Vec::new();
    for (n, client) in (0..).zip(clients) {
        // From half a second to three; every tenth at the same moment.
        let millis = if n % 10 == 0 { 1500 } else { 500 + n * 2500 / TURNS };
        turns.push(tokio::spawn(turn(client, format!("s-{n}"), format!("n-{n}"), millis)));
    }
    until("all run", || (0..2).map(|i| stub.stats(i).turns).sum::<usize>() == TURNS as usize).await;
    let since = Instant::now();
    jetway.signal(Signal::SIGTERM);

    // While they run: not ready, and nothing new.
    let unready = loop {
        let (status, body) = jetway.get("/readyz").await;
        if status != 200 {
            break (status, serde_json::from_str::<Value>(&body).unwrap());
        }
        assert!(since.elapsed() < PATIENCE);
    };
    assert_eq!(unready, (503, json!({ "ready": false, "reasons": ["draining"] })));
    assert_eq!(jetway.get("/healthz").await.0, 200);
    assert_eq!(jetway.metric("jetway_draining").await, 1.0);
    for (method, params) in [
        ("session.send", json!({ "sessionId": "late", "prompt": "x nonce:late" })),
        ("session.create", json!({ "sessionId": "later" })),
        ("session.resume", json!({ "sessionId": "late" })),
    ] {
        let error = latecomer.call(method, params).await.unwrap_err();
        assert_eq!(error["code"], -32016, "{method}");
        assert!(error["data"]["retryAfterMs"].is_u64(), "{error}");
    }
    latecomer.call("ping", json!({})).await.unwrap();
    let mut newcomer = Client::dial(jetway.sdk).await;
    assert_eq!(newcomer.call("connect", json!({})).await.unwrap_err()["code"], -32016);
    let refused_after = since.elapsed();

    let mut wrong = Vec::new();
    for (n, task) in turns.into_iter().enumerate() {
        let seen = task.await.unwrap();
        let whole = Seen { acknowledged: true, answered: 1, idle: 1, errors: 0, half_a_frame: false };
        let ledger = in_ledger(&stub, &format!("n-{n}"));
        if seen != whole || ledger != (1, 1) {
            wrong.push(format!("turn {n}: {seen:?}, begun and ended at the CLI: {ledger:?}"));
        }
    }
    let (status, _) = jetway.exit(PATIENCE).await;
    let took = since.elapsed();
    println!(
        "CHECK 36: SIGTERM under {TURNS} running turns: {} lost or repeated; nothing new after {refused_after:.1?}; gone after {took:.1?}, status {status}",
        wrong.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(in_ledger(&stub, "late"), (0, 0));
    assert_eq!(stub.ledger().findings().repeated, []);
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(16));
    assert!(latecomer.closes(PATIENCE).await && !latecomer.mid_frame());
}

/// Turns that end at the very moment at which the last one is waited for, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_turns_end_is_heard() {
    let mut lost = 0;
    for round in 0..8 {
        let stub = stub(1);
        let mut jetway = jetway(&stub, "10s");
        let mut turns = Vec::new();
        for n in 0..8 {
            let mut client = Client::hello(jetway.sdk, "alice").await;
            client.create(&format!("s-{n}")).await;
            turns.push(tokio::spawn(turn(client, format!("s-{n}"), format!("n-{n}"), 100 + 20 * (n % 3))));
        }
        // On a slow machine the first may have ended by then.
        let begun = || stub.ledger().entries().iter().filter(|e| e.event == Event::Begin).count();
        until("all have begun", || begun() == 8).await;
        jetway.signal(Signal::SIGTERM);
        for turn in turns {
            let seen = turn.await.unwrap();
            lost += usize::from((seen.answered, seen.idle) != (1, 1));
        }
        let (status, _) = jetway.exit(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "round {round}");
    }
    println!("CHECK 36: of 64 turns that were the last ones of a drain, {lost} ended unheard");
    assert_eq!(lost, 0);
}

/// A turn that does not end is waited for no longer than is allowed.
#[tokio::test]
async fn check_36_a_turn_that_hangs() {
    let stub = stub(1);
    let mut jetway = jetway(&stub, "3s");
    let mut client = Client::hello(jetway.sdk, "alice").await;
    client.create("s").await;
    client.prompt("s", "[[hang]]").await.unwrap();
    until("it runs", || stub.stats(0).turns == 1).await;
    jetway.signal(Signal::SIGTERM);
    let (status, took) = jetway.exit(PATIENCE).await;
    println!("CHECK 36: a turn that hangs, drain.timeout 3 s: gone after {took:.1?}, status {status}");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(client.closes(PATIENCE).await && !client.mid_frame());
}

#[tokio::test]
async fn a_second_signal_hurries() {
    for signals in [[Signal::SIGTERM, Signal::SIGTERM], [Signal::SIGINT, Signal::SIGTERM]] {
        let stub = stub(1);
        let mut jetway = jetway(&stub, "60s");
        let mut client = Client::hello(jetway.sdk, "alice").await;
        client.create("s").await;
        client.prompt("s", "[[deltas 100000 100 1]]").await.unwrap();
        until("it runs", || stub.stats(0).turns == 1).await;
        jetway.signal(signals[0]);
        until("it drains", || jetway.log().contains("\"draining\"")).await;
        sleep(Duration::from_millis(300)).await;
        assert!(jetway.is_running(), "it waits for the turn");
        jetway.signal(signals[1]);
        let (status, took) = jetway.exit(PATIENCE).await;
        println!("CHECK 36: a second signal: gone after {took:.1?}");
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert!(client.closes(PATIENCE).await && !client.mid_frame(), "no half frame");
        let deltas = client.seen.iter().filter(|m| is_event(m, "s", "assistant.message_delta")).count();
        assert!(deltas > 50, "{deltas}");
    }
}

/// Whoever holds a connection open does not hold the gateway.
#[tokio::test]
async fn idle_and_broken_connections_do_not_delay() {
    let stub = stub(1);
    let mut jetway = jetway(&stub, "3s");
    let _silent = Client::dial(jetway.sdk).await;
    let mut unfinished = Client::dial(jetway.sdk).await;
    unfinished.send_raw(b"Content-Length: 10\r\n\r\n{").await.unwrap();
    let _known = Client::hello(jetway.sdk, "alice").await;
    let _silent_admin = TcpStream::connect(jetway.admin).await.unwrap();
    jetway.signal(Signal::SIGTERM);
    let (status, took) = jetway.exit(PATIENCE).await;
    println!("CHECK 36: idle and unfinished connections, no turn: gone after {took:.1?}");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_half_request_on_the_admin_port_does_not_delay() {
    let stub = stub(1);
    let mut jetway = jetway(&stub, "2s");
    let mut admin = TcpStream::connect(jetway.admin).await.unwrap();
    admin.write_all(b"GET /metrics HTT").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    jetway.signal(Signal::SIGTERM);
    let (status, took) = jetway.exit(PATIENCE).await;
    println!("CHECK 36: half a request on the admin port: gone after {took:.1?}");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// A client that reads slowly gets its frames whole, or not at all.
#[tokio::test]
async fn a_slow_reader_gets_whole_frames() {
    let stub = stub(1);
    let mut jetway = jetway(&stub, "10s");
    let mut client = Client::hello(jetway.sdk, "alice").await;
    client.create("s").await;
    client.prompt("s", "[[quiet]] [[deltas 400 50000 0]]").await.unwrap();
    jetway.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(500)).await;
    assert!(client.closes(PATIENCE).await);
    let idle = client.events("s", "session.idle").len();
    assert_eq!((idle, client.mid_frame()), (1, false), "20 MB, to the end");
    let (status, _) = jetway.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0));
}
