//! Sessions go from one CLI server to another that shares its state, closed on the old one first, and rest where a
//! server has too many: all of it unseen.

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{
    BUSY, Gateway, PATIENCE,
    client::{Client, is_event},
    start, until,
};
use jetway_loadtest::stub::{Event, Options, Store, Stub};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Servers on one state, and a gateway before them.
async fn sharing(servers: usize, more: &str) -> (Stub, Gateway) {
    let store = Some(Store::memory());
    let stub = Stub::start(Options { servers, store, ..Options::default() }).unwrap();
    let gateway = start(&common::fleet_of(stub.addrs(), "state = \"shared\"\n", more)).await;
    (stub, gateway)
}

/// Asks the admin port something about a server.
async fn operate(gateway: &Gateway, request: &str, server: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    let request = format!("{request}/{server} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn drain(gateway: &Gateway, server: SocketAddr) {
    assert!(operate(gateway, "POST /admin/v1/drain", server).await["draining"].is_string());
}

async fn drained(gateway: &Gateway, server: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = operate(gateway, "GET /admin/v1/servers", server).await;
        if row["state"] == "drained" {
            return;
        }
        assert!(Instant::now() < deadline, "not drained within {PATIENCE:?}: {row:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn undrain(gateway: &Gateway, server: SocketAddr) {
    assert_eq!(operate(gateway, "POST /admin/v1/undrain", server).await["state"], "up");
}

/// The only server that has sessions.
fn holder(stub: &Stub, servers: usize) -> usize {
    let mut all = (0..servers).filter(|i| stub.stats(*i).sessions > 0);
    let one = all.next().expect("some server has it");
    assert_eq!(all.next(), None, "and no other");
    one
}

fn clean(stub: &Stub) {
    let found = stub.ledger().findings();
    assert_eq!((&found.forks, &found.overlaps, &found.repeated), (&vec![], &vec![], &vec![]));
    assert_eq!(found.recreated, [], "a session's history was put out of reach");
}

#[tokio::test]
async fn a_drained_servers_sessions_move() {
    let (stub, gateway) = sharing(2, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    for session in ["idle", "busy"] {
        ada.create(session).await;
        ada.turn(session, "first").await;
    }
    let mut other = Client::hello(gateway.sdk, "ada").await;
    other.call("session.resume", json!({ "sessionId": "idle" })).await.unwrap();
    let old = holder(&stub, 2);
    ada.prompt("busy", "[[permission]]").await.unwrap();
    let asked = ada.find(0, |m| is_event(m, "busy", "permission.requested")).await.clone();
    drain(&gateway, stub.addrs()[old]).await;

    // The idle one goes at once, while the other's turn goes on.
    until("it is gone", || stub.stats(old).sessions == 1).await;
    let from = (ada.seen.len(), other.seen.len());
    assert_eq!(ada.turn("idle", "[[history]]").await, "History: first");
    other.find(from.1, |m| is_event(m, "idle", "session.idle")).await;
    assert_eq!(stub.stats(1 - old).sessions, 1);
    assert_eq!(stub.stats(old).sessions, 1);
    let from_busy = ada.seen.len();
    let answer = json!({
        "sessionId": "busy", "requestId": asked["params"]["event"]["data"]["requestId"],
        "result": { "kind": "approve-once" },
    });
    ada.call("session.permissions.handlePendingPermissionRequest", answer).await.unwrap();
    ada.find(from_busy, |m| is_event(m, "busy", "session.idle")).await;
    drained(&gateway, stub.addrs()[old]).await;
    // The fleet's own probe stays.
    until("nobody is left", || stub.stats(old).connections <= 1).await;
    assert!(ada.turn("busy", "[[history]]").await.starts_with("History: first"));
    let resumed = |m: &Value| is_event(m, "idle", "session.resume") || is_event(m, "busy", "session.resume");
    assert_eq!(ada.seen[from.0..].iter().filter(|m| resumed(m)).count(), 0, "the move was seen");
    assert!(ada.events("busy", "session.error").is_empty());
    clean(&stub);
}

/// Check 11, a slice of it: `JETWAY_MOVES` has more.
#[tokio::test]
async fn check_11_a_session_moves_again_and_again() {
    let moves = std::env::var("JETWAY_MOVES").map_or(20, |n| n.parse().unwrap());
    let (stub, gateway) = sharing(2, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    let mut other = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    other.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
    for n in 0..moves {
        let old = holder(&stub, 2);
        drain(&gateway, stub.addrs()[old]).await;
        // Used in the very moment of the move, by both in turn.
        let client = if n % 2 == 0 { &mut ada } else { &mut other };
        client.turn("s", &format!("nonce:move-{n}")).await;
        drained(&gateway, stub.addrs()[old]).await;
        client.turn("s", &format!("nonce:moved-{n}")).await;
        assert_eq!(holder(&stub, 2), 1 - old);
        undrain(&gateway, stub.addrs()[old]).await;
    }
    let opened = stub.ledger().entries().iter().filter(|e| e.event == Event::Open).count();
    println!("CHECK 11: {moves} moves of one session under two clients, {opened} times opened: 0 forks");
    assert_eq!(opened, moves + 1);
    clean(&stub);
}

#[tokio::test]
async fn what_nobody_has_attached_moves_when_it_is_resumed() {
    let (stub, gateway) = sharing(2, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    let old = holder(&stub, 2);
    drain(&gateway, stub.addrs()[old]).await;
    drop(ada);
    let mut again = Client::hello(gateway.sdk, "ada").await;
    again.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
    assert_eq!(again.turn("s", "[[history]]").await, "History: first");
    assert_eq!(holder(&stub, 2), 1 - old);
    clean(&stub);
}

#[tokio::test]
async fn a_lost_servers_sessions_go_on_elsewhere() {
    let (stub, gateway) = sharing(2, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    for session in ["idle", "busy"] {
        ada.create(session).await;
        ada.turn(session, "first").await;
    }
    let old = holder(&stub, 2);
    ada.prompt("busy", "[[say so far]] [[hang]]").await.unwrap();
    ada.find(0, |m| is_event(m, "busy", "assistant.message_delta")).await;
    let lost = Instant::now();
    stub.crash(old);
    ada.find(0, |m| is_event(m, "busy", "session.error")).await;
    let told = lost.elapsed();
    assert!(ada.turn("busy", "[[history]]").await.starts_with("History: first"));
    let answered = lost.elapsed();
    assert_eq!(ada.turn("idle", "[[history]]").await, "History: first");
    assert_eq!(
        (ada.events("busy", "session.error").len(), ada.events("idle", "session.error").len()),
        (1, 0)
    );
    println!(
        "CHECK 37: a fleet's server crashed: told after {told:?}, answering elsewhere after {answered:?}"
    );
    assert!(told < Duration::from_secs(2) && answered < Duration::from_secs(5));
    assert_eq!(holder(&stub, 2), 1 - old);
    clean(&stub);
}

/// Of a server that is silent nobody knows whether it still writes to its sessions: they wait for it.
#[tokio::test]
async fn a_silent_servers_sessions_stay() {
    let (stub, gateway) = sharing(2, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    let old = holder(&stub, 2);
    stub.hang(old, true);
    let deadline = Instant::now() + 2 * PATIENCE;
    while operate(&gateway, "GET /admin/v1/servers", stub.addrs()[old]).await["state"] == "up" {
        assert!(Instant::now() < deadline, "its silence is not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is new goes elsewhere; what lives there does not.
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("new").await;
    let error = loop {
        match ada.prompt("s", "x").await {
            Err(error) if error["code"] == -32014 => break error,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    };
    assert!(error["data"]["retryAfterMs"].is_u64(), "{error}");
    assert_eq!(stub.stats(1 - old).sessions, 1, "only bob's");
    stub.hang(old, false);
    while ada.prompt("s", "[[history]] nonce:once").await.is_err() {
        assert!(Instant::now() < deadline, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ada.find(0, |m| is_event(m, "s", "assistant.message") && m.to_string().contains("History: first")).await;
    clean(&stub);
}

#[tokio::test]
async fn check_42_only_what_is_idle_rests() {
    const ROUNDS: usize = 10;
    let (stub, gateway) = sharing(1, "pool.max_active_sessions = 6").await;
    let mut busy = Client::hello(gateway.sdk, "busy").await;
    for (session, prompt) in BUSY {
        busy.create(session).await;
        busy.prompt(session, &format!("{prompt} nonce:{session}")).await.unwrap();
    }
    until("all of them run", || stub.stats(0).turns == BUSY.len()).await;
    // Two places are left for five sessions, each with a client of its own.
    let mut others = Vec::new();
    for n in 0..5 {
        let mut client = Client::hello(gateway.sdk, "others").await;
        client.create(&format!("s-{n}")).await;
        client.turn(&format!("s-{n}"), &format!("first of {n}")).await;
        others.push(client);
    }
    for round in 0..ROUNDS {
        for (n, client) in others.iter_mut().enumerate() {
            let said = client.turn(&format!("s-{n}"), "[[history]]").await;
            assert!(said.starts_with(&format!("History: first of {n}")), "round {round}: {said}");
            assert!(stub.stats(0).sessions <= 6, "{:?}", stub.stats(0));
        }
    }
    assert_eq!(stub.stats(0).turns, BUSY.len(), "those that work go on");
    let entries = stub.ledger().entries();
    let lost = entries.iter().filter(|e| matches!(e.event, Event::Lost | Event::Abort)).count();
    let rested = entries.iter().filter(|e| e.event == Event::Close).count();
    println!("CHECK 42: {rested} sessions rested, {lost} of them with something to do");
    assert!(rested >= 5 * ROUNDS / 2, "{rested}");
    assert_eq!(lost, 0);
    // With every place taken by work nobody new comes in, and nothing is taken from anybody.
    for (n, client) in others.iter_mut().enumerate().take(2) {
        client.prompt(&format!("s-{n}"), "[[hang]]").await.unwrap();
    }
    let error = others[2].prompt("s-2", "x").await.unwrap_err();
    assert_eq!((&error["code"], &error["data"]["limit"]), (&json!(-32014), &json!("max_active_sessions")));
    for (n, client) in others.iter_mut().enumerate().take(2) {
        let from = client.seen.len();
        client.call("session.abort", json!({ "sessionId": format!("s-{n}") })).await.unwrap();
        client.find(from, |m| is_event(m, &format!("s-{n}"), "session.idle")).await;
    }
    assert_eq!(others[2].turn("s-2", "again").await, "You said: again");
    clean(&stub);
}

/// A prompt that waits for room to run is something to do.
#[tokio::test]
async fn check_42_a_prompt_that_waits_keeps_its_session() {
    const ROUNDS: usize = 10;
    let one_turn_each = "pool.max_active_sessions = 3\n\
         tenants.default = { max_concurrent_turns = 2, user_share = \"50%\", requests_per_second = 100000 }";
    let (stub, gateway) = sharing(1, one_turn_each).await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("works").await;
    ada.create("waits").await;
    ada.prompt("works", "[[hang]]").await.unwrap();
    let waits = ada.request("session.send", json!({ "sessionId": "waits", "prompt": "nonce:queued" })).await;
    until("it runs", || stub.stats(0).turns == 1).await;
    // One place is left for the others.
    for n in 0..ROUNDS {
        let mut bob = Client::hello(gateway.sdk, &format!("bob-{n}")).await;
        bob.create(&format!("s-{n}")).await;
        bob.turn(&format!("s-{n}"), "hello").await;
    }
    let closed = |s: &str| {
        stub.ledger().entries().iter().filter(|e| e.event == Event::Close && e.session == s).count()
    };
    println!(
        "CHECK 42: {ROUNDS} sessions came, {} times a session was taken whose prompt waited",
        closed("waits")
    );
    assert_eq!((closed("works"), closed("waits")), (0, 0));
    ada.call("session.abort", json!({ "sessionId": "works" })).await.unwrap();
    ada.reply(waits).await.unwrap();
    ada.find(0, |m| is_event(m, "waits", "session.idle")).await;
    clean(&stub);
}

/// Two clients have a session, one of them is about to use it: neither misses what the other does.
#[tokio::test]
async fn a_session_that_two_share_rests_and_wakes_for_both() {
    let (stub, gateway) = sharing(1, "pool.max_active_sessions = 1").await;
    let mut one = Client::hello(gateway.sdk, "ada").await;
    one.create("s").await;
    one.turn("s", "first").await;
    let mut two = Client::hello(gateway.sdk, "ada").await;
    two.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
    for n in 0..5 {
        let mut third = Client::hello(gateway.sdk, "bob").await;
        third.create(&format!("other-{n}")).await;
        assert_eq!(stub.stats(0).sessions, 1);
        let from = two.seen.len();
        assert!(one.turn("s", "[[history]]").await.starts_with("History: first"));
        two.find(from, |m| is_event(m, "s", "user.message") || is_event(m, "s", "session.idle")).await;
        third.call("session.destroy", json!({ "sessionId": format!("other-{n}") })).await.unwrap();
    }
    // Somebody new has it: both hear of that one as well.
    let mut other = Client::hello(gateway.sdk, "bob").await;
    other.create("other").await;
    other.call("session.destroy", json!({ "sessionId": "other" })).await.unwrap();
    let mut new = Client::hello(gateway.sdk, "ada").await;
    new.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
    let from = [one.seen.len(), two.seen.len()];
    assert!(new.turn("s", "[[delay 200]][[history]]").await.starts_with("History: first"));
    for (client, from) in [one, two].iter_mut().zip(from) {
        client.find(from, |m| is_event(m, "s", "session.idle")).await;
    }
    clean(&stub);
}
