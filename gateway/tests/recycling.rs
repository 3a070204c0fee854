//! Worn CLI servers are replaced between turns, and nobody notices.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE,
    client::{Client, is_event},
    program::{Program, bearing},
    until,
};
use jetway_loadtest::{
    model::{self, Ledger},
    stub::{Event, Options, Store, Stub},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Two servers on one state, and the real program before them.
fn sharing(pings: &str, recycle: &str) -> (Stub, Program) {
    let stub =
        Stub::start(Options { servers: 2, store: Some(Store::memory()), ..Options::default() }).unwrap();
    let toml =
        common::fleet_of(stub.addrs(), "state = \"shared\"\n", &format!("pool.recycle = {{ {recycle} }}"));
    let often = format!("interval = {pings:?}, timeout = {pings:?}, failures = 20");
    (stub, Program::start(&toml.replace("interval = \"1s\", timeout = \"1s\"", &often)))
}

async fn row(gateway: &Program, server: usize, stub: &Stub) -> Value {
    let (_, body) = gateway.get(&format!("/admin/v1/servers/{}", stub.addrs()[server])).await;
    serde_json::from_str(&body).unwrap()
}

async fn until_row(
    gateway: &Program,
    server: usize,
    stub: &Stub,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = row(gateway, server, stub).await;
        if holds(&row) {
            return;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {row:#}\n{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn holder(stub: &Stub) -> usize {
    (0..2).find(|i| stub.stats(*i).sessions > 0).expect("some server has it")
}

fn clean(stub: &Stub) {
    let found = stub.ledger().findings();
    assert_eq!((&found.forks, &found.overlaps, &found.repeated), (&vec![], &vec![], &vec![]));
    let lost = stub.ledger().entries().into_iter().filter(|e| matches!(e.event, Event::Lost | Event::Abort));
    assert_eq!(lost.count(), 0, "a turn was cut short");
}

#[tokio::test]
async fn a_fleets_server_that_has_served_its_turns_is_left_between_them() {
    let (stub, gateway) = sharing("100ms", "max_turns = 3");
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    ada.turn("s", "second").await;
    let old = holder(&stub);
    ada.prompt("s", "[[permission]]").await.unwrap();
    let asked = ada.find(0, |m| is_event(m, "s", "permission.requested")).await.clone();
    until_row(&gateway, old, &stub, "it is left", |row| row["draining"] == "recycle").await;
    assert_eq!(row(&gateway, old, &stub).await["worn"], "turns");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stub.stats(old).turns, 1, "its turn goes on");
    let answer = json!({
        "sessionId": "s", "requestId": asked["params"]["event"]["data"]["requestId"],
        "result": { "kind": "approve-once" },
    });
    ada.call("session.permissions.handlePendingPermissionRequest", answer).await.unwrap();
    ada.find(0, |m| is_event(m, "s", "assistant.message") && m.to_string().contains("approve-once")).await;
    until_row(&gateway, old, &stub, "it is drained", |row| row["state"] == "drained").await;
    assert!(ada.turn("s", "[[history]]").await.starts_with("History: first | second"));
    assert_eq!(holder(&stub), 1 - old);
    // It cannot be restarted by Jetway; whoever does that has it back.
    assert_eq!(gateway.metric("jetway_recycles_total{reason=\"turns\"}").await, 1.0);
    assert!(gateway.log().contains("a CLI server is worn and is left: restart it"));
    stub.crash(old);
    stub.restart(old).unwrap();
    let fresh = |row: &Value| row["state"] == "up" && row["worn"].is_null() && row["turnsServed"] == 0;
    until_row(&gateway, old, &stub, "it is used again", fresh).await;
    clean(&stub);
}

#[tokio::test]
async fn a_fleets_server_that_nobody_restarts_is_used_again_and_said_to_be_worn() {
    let (stub, gateway) = sharing("100ms", "max_sessions = 1, restart_wait = \"1s\", share = \"50%\"");
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    let old = holder(&stub);
    until_row(&gateway, old, &stub, "it is left", |row| row["draining"] == "recycle").await;
    let spared = |row: &Value| row["draining"].is_null() && row["worn"] == "sessions";
    until_row(&gateway, old, &stub, "it is used as it is", spared).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(spared(&row(&gateway, old, &stub).await), "and stays so");
    assert_eq!(gateway.metric("jetway_recycles_total{reason=\"sessions\"}").await, 1.0);
    assert!(gateway.log().contains("nobody has restarted a worn CLI server"));
}

#[tokio::test]
async fn a_fleets_server_that_grew_slow_is_left() {
    let (stub, gateway) = sharing("100ms", "latency_factor = 2.0");
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    let old = holder(&stub);
    // It must have been quick at first.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(row(&gateway, old, &stub).await["worn"].is_null());
    // Pings have 100 ms here, so it is by the first deltas of turns that it shows.
    for _ in 0..15 {
        ada.turn("s", "quick").await;
    }
    for _ in 0..9 {
        ada.turn("s", "[[delay 220]] [[say slow]]").await;
    }
    until_row(&gateway, old, &stub, "it is left", |row| row["worn"] == "latency").await;
    until("its session rests", || stub.stats(old).sessions == 0).await;
    assert!(ada.turn("s", "[[history]]").await.starts_with("History: first"));
    assert_eq!(stub.stats(1 - old).sessions, 1, "it has gone on elsewhere");
    clean(&stub);
}

#[tokio::test]
async fn a_fleets_server_whose_pings_take_ever_longer_is_left() {
    let (stub, gateway) = sharing("200ms", "latency_factor = 1.2");
    // It must have been quick at first.
    tokio::time::sleep(Duration::from_millis(200 * 17)).await;
    stub.slow(0, Duration::from_millis(60));
    tokio::time::sleep(Duration::from_millis(260 * 10)).await;
    assert!(row(&gateway, 0, &stub).await["worn"].is_null(), "60 ms are nothing to notice");
    stub.slow(0, Duration::from_millis(160));
    until_row(&gateway, 0, &stub, "it is left", |row| row["draining"] == "recycle").await;
    assert!(row(&gateway, 1, &stub).await["worn"].is_null());
}

/// The only server is never left: its users would have nowhere to go.
#[tokio::test]
async fn a_fleet_of_one_goes_on() {
    let stub = common::stub(1);
    let gateway = Program::start(&common::fleet(stub.addrs(), "pool.recycle.max_turns = 1"));
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    until_row(&gateway, 0, &stub, "it is known to be worn", |row| row["worn"] == "turns").await;
    assert_eq!(row(&gateway, 0, &stub).await["state"], "up");
    Client::hello(gateway.sdk, "bob").await.create("new").await;
}

/// With processes of users' own on a real runtime: each turn or second that is one too many brings a fresh process.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_process_is_replaced_and_its_history_is_there() {
    let name = "a_users_process_is_replaced_and_its_history_is_there";
    let Some(runtime) = common::runtime(name) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, Ledger::in_memory()).unwrap();
    for (recycle, reason) in [("max_turns = 2", "turns"), ("max_age = \"1s\"", "age")] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let toml = common::per_user(&runtime, &state, &format!("pool.recycle = {{ {recycle} }}"));
        let gateway = Program::start_in(dir, &toml);
        let mut ada = Client::hello(gateway.sdk, "ada").await;
        let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-x" });
        let params =
            json!({ "sessionId": "chat", "model": "scripted", "provider": provider, "streaming": true });
        ada.call("session.create", params).await.unwrap();
        assert_eq!(ada.turn("chat", "first").await, "You said: first");
        // One that is longer than its process may become is not cut short.
        let mut said = ada.turn("chat", "[[stream 40 20 50]]").await;
        assert!(said.len() >= 40 * 20, "{said}");
        for n in 0..3 {
            said = ada.turn("chat", "history").await;
            assert!(said.starts_with("History: first |"), "{n}: {said}");
            // So that it is quiet for a moment.
            tokio::time::sleep(Duration::from_millis(1300)).await;
        }
        let recycled = gateway.metric(&format!("jetway_recycles_total{{reason=\"{reason}\"}}")).await;
        let started = gateway.metric("jetway_spawns_total{outcome=\"ready\"}").await;
        println!("{recycle}: 5 turns, {recycled} processes replaced, {started} started");
        assert!(recycled >= 2.0 && started >= recycled, "{}", gateway.log());
        assert!(ada.events("chat", "session.error").is_empty());
        assert_eq!(gateway.metric("jetway_turns_total{outcome=\"completed\"}").await, 5.0);
    }
}

/// A process that hangs holds up its user for as long as it is silent, and nobody's turn is taken for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_process_that_hangs_is_replaced_when_it_is_quiet() {
    let name = "a_users_process_that_hangs_is_replaced_when_it_is_quiet";
    let Some(runtime) = common::runtime(name) else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let toml =
        common::per_user(&runtime, &state, "").replace("sandbox =", "ping_interval = \"200ms\", sandbox =");
    let gateway = Program::start_in(dir, &toml);
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.call("ping", json!({})).await.unwrap();
    let hung = bearing(&state.display().to_string());
    for pid in &hung {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGSTOP)
            .unwrap();
    }
    let deadline = Instant::now() + 2 * PATIENCE;
    while gateway.metric("jetway_process_stops_total{reason=\"recycled\"}").await < 1.0 {
        assert!(Instant::now() < deadline, "{}", gateway.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ada.call("ping", json!({})).await.unwrap();
    assert_eq!(gateway.metric("jetway_recycles_total{reason=\"hung\"}").await, 1.0);
    assert!(hung.iter().all(|pid| !bearing(&state.display().to_string()).contains(pid)));
}
