//! When a CLI server, a client or the gateway itself is lost, everybody concerned hears of it once, and nothing stays.

mod common;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use common::{
    PATIENCE,
    client::Client,
    program::{Program, bearing},
    start, start_fleet, stub, until,
};
use jetway_loadtest::{
    faults::{Fault, FaultProxy},
    model,
    stub::Event,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};

/// Waits for what tells of a lost turn, then for more of it. Returns when the first came.
async fn hears_once(client: &mut Client, session: &str, since: Instant) -> Duration {
    client.find(0, |m| common::client::is_event(m, session, "session.error")).await;
    let after = since.elapsed();
    client.read_until(Duration::from_millis(300), |_| false).await;
    let errors = client.events(session, "session.error");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0]["data"]["errorType"], "turn_indeterminate");
    assert_eq!(client.events(session, "session.idle").len(), 0);
    assert!(!client.closed, "the socket stays");
    after
}

/// Pings until there is a server again. Returns how long that took.
async fn answers_again(client: &mut Client) -> Duration {
    let since = Instant::now();
    while client.call("ping", json!({ "message": "again" })).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(5), "no server for 5 s");
        sleep(Duration::from_millis(20)).await;
    }
    since.elapsed()
}

#[tokio::test]
async fn check_37_a_server_crashes_in_mid_turn() {
    let (stub, gateway) = start_fleet(2, "").await;
    let mut first = Client::hello(gateway.sdk, "alice").await;
    first.create("shared").await;
    first.create("quiet").await;
    let mut second = Client::hello(gateway.sdk, "alice").await;
    second.call("session.resume", json!({ "sessionId": "shared" })).await.unwrap();
    let server = (0..2).find(|i| stub.stats(*i).sessions > 0).unwrap();
    first.prompt("shared", "[[say begun]] [[hang]]").await.unwrap();
    for client in [&mut first, &mut second] {
        client.find(0, |m| common::client::is_event(m, "shared", "assistant.message_delta")).await;
    }
    // Requests that have no answer when it happens.
    stub.hang(server, true);
    let pending = [first.request("ping", json!({})).await, first.request("models.list", json!({})).await];
    let sent = first.request("session.send", json!({ "sessionId": "quiet", "prompt": "x" })).await;
    sleep(Duration::from_millis(50)).await;

    let since = Instant::now();
    stub.crash(server);
    let (one, other) =
        tokio::join!(hears_once(&mut first, "shared", since), hears_once(&mut second, "shared", since));
    for id in pending.into_iter().chain([sent]) {
        let error = first.reply(id).await.unwrap_err();
        assert_eq!(error["code"], -32015, "{error}");
    }
    hears_once(&mut first, "quiet", since).await;
    let again = answers_again(&mut first).await.max(answers_again(&mut second).await);
    println!(
        "CHECK 37: server crashed in mid-turn: its two clients heard after {one:.1?} and {other:.1?}, once each; ping again {again:.1?} later"
    );
    assert!(one.max(other) < Duration::from_secs(2));
    let ledger = stub.ledger().entries();
    assert_eq!(ledger.iter().filter(|e| e.event == Event::Begin).count(), 1, "nothing is repeated");
}

/// The connection to the server breaks in the middle of a frame.
#[tokio::test]
async fn check_37_a_leg_breaks_in_mid_frame() {
    for fault in [Fault::Cut, Fault::Reset] {
        let stub = stub(1);
        let proxy = FaultProxy::start(stub.addr().to_string()).await.unwrap();
        let gateway = start(&common::fleet(&[proxy.addr()], "")).await;
        let mut client = Client::hello(gateway.sdk, "alice").await;
        client.create("s").await;
        client.prompt("s", "[[quiet]] [[deltas 200 1000000 0]]").await.unwrap();
        client.find(0, |m| common::client::is_event(m, "s", "assistant.message_delta")).await;
        let since = Instant::now();
        proxy.set(fault).await;
        let heard = hears_once(&mut client, "s", since).await;
        assert!(!client.mid_frame(), "what came was whole");
        let again = answers_again(&mut client).await;
        client.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
        assert_eq!(client.turn("s", "again").await, "You said: again");
        println!("CHECK 37: {fault:?} in mid-frame: heard after {heard:.1?}, ping again {again:.1?} later");
        assert!(heard < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_turn() {
    let stub = stub(1);
    let jetway = Program::start(&common::fleet(stub.addrs(), "pool.keep_turns = \"0s\""));
    let mut stays = Client::hello(jetway.sdk, "alice").await;
    let mut leaves = Client::hello(jetway.sdk, "alice").await;
    leaves.create("own").await;
    leaves.create("both").await;
    stays.call("session.resume", json!({ "sessionId": "both" })).await.unwrap();
    leaves.prompt("own", "[[hang]]").await.unwrap();
    leaves.prompt("both", "[[delay 500]] [[say done]]").await.unwrap();
    until("both run", || stub.stats(0).turns == 2).await;
    assert_eq!(jetway.metric("jetway_turns_running").await, 2.0);
    drop(leaves);
    stays.find(0, |m| common::client::is_event(m, "both", "session.idle")).await;
    until("the other is over", || stub.stats(0).turns == 0).await;
    let lost: Vec<_> = stub.ledger().entries().into_iter().filter(|e| e.event == Event::Lost).collect();
    assert_eq!(lost.iter().map(|e| &*e.session).collect::<Vec<_>>(), ["own"]);
    // The leg is gone by which the other one's end would be told: the CLI server is asked.
    let deadline = Instant::now() + PATIENCE;
    for outcome in ["aborted", "completed"] {
        let metric = format!("jetway_turns_total{{outcome=\"{outcome}\"}}");
        while jetway.metric(&metric).await < 1.0 {
            assert!(Instant::now() < deadline, "{outcome}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(jetway.metric("jetway_turns_running").await, 0.0);
    let log = jetway.log();
    let line = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let line = line.into_iter().find(|l| l["message"] == "turn ended" && l["session"] == "own").unwrap();
    assert_eq!((&line["outcome"], &line["user"]), (&json!("aborted"), &json!("alice")));
    println!("CHECK 37: a client left in mid-turn: aborted; the session that another holds went on");
}

/// A gateway with CLI processes, and a session of alice's on one.
async fn with_runtime(runtime: &Path, model: &model::Handle) -> (Program, Client, Value) {
    let dir = tempfile::tempdir().unwrap();
    let toml = common::per_user(runtime, &dir.path().join("state"), "");
    let jetway = Program::start_in(dir, &toml);
    let mut client = Client::hello(jetway.sdk, "alice").await;
    let settings = json!({
        "sessionId": "real", "model": "scripted", "streaming": true, "workingDirectory": jetway.dir.path(),
        "provider": { "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-test" },
    });
    client.call("session.create", settings.clone()).await.unwrap();
    (jetway, client, settings)
}

async fn model() -> model::Handle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    model::serve(listener, model::Ledger::in_memory()).unwrap()
}

fn state_of(jetway: &Program) -> String {
    format!("{}/state", jetway.dir.path().display())
}

#[tokio::test]
async fn check_37_a_real_process_is_killed_in_mid_turn() {
    let Some(runtime) = common::runtime("check_37_a_real_process_is_killed_in_mid_turn") else { return };
    let model = model().await;
    let (jetway, mut first, settings) = with_runtime(&runtime, &model).await;
    let mut second = Client::hello(jetway.sdk, "alice").await;
    second.call("session.resume", settings.clone()).await.unwrap();
    first.prompt("real", "[[stream 1000 20 20]] nonce:real-1").await.unwrap();
    for client in [&mut first, &mut second] {
        client.find(0, |m| common::client::is_event(m, "real", "assistant.message_delta")).await;
    }
    let processes = bearing(&state_of(&jetway));
    assert!(!processes.is_empty());
    let all = |signal| {
        for pid in &processes {
            // A helper of the runtime's may have ended by itself.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    };
    all(Signal::SIGSTOP);
    let accepted = "jetway_calls_total{outcome=\"accepted\"}";
    let before = jetway.metric(accepted).await;
    // It must be on its way to the old process; one that is not goes to the new one. The last call of each client
    // may be counted only now: so it takes three more, of which the first is taken first.
    let pending = first.request("ping", json!({})).await;
    for _behind in 0..2 {
        first.request("ping", json!({})).await;
    }
    let deadline = Instant::now() + common::PATIENCE;
    while jetway.metric(accepted).await < before + 3.0 {
        assert!(Instant::now() < deadline, "the ping was not taken");
        sleep(Duration::from_millis(5)).await;
    }
    let since = Instant::now();
    all(Signal::SIGKILL);
    let (one, other) =
        tokio::join!(hears_once(&mut first, "real", since), hears_once(&mut second, "real", since));
    assert_eq!(first.reply(pending).await.unwrap_err()["code"], -32015);
    let again = answers_again(&mut first).await;
    answers_again(&mut second).await;
    println!(
        "CHECK 37: real process killed in mid-turn: its two clients heard after {one:.1?} and {other:.1?}, once each; ping from a new process {again:.1?} later"
    );
    assert!(one.max(other) < Duration::from_secs(2));
    // The session is there, and its lost turn is not run again.
    first.call("session.resume", settings).await.unwrap();
    let from = first.seen.len();
    first.prompt("real", "[[say still here]]").await.unwrap();
    first.find(from, |m| common::client::is_event(m, "real", "session.idle")).await;
    let said = first.events("real", "assistant.message").last().unwrap()["data"]["content"].clone();
    assert_eq!(said, "still here");
    let asked = model.ledger().entries().iter().filter(|e| format!("{e:?}").contains("real-1")).count();
    assert!(asked <= 2, "one request to the model: {asked} lines");
    assert_eq!(jetway.metric("jetway_turns_total{outcome=\"indeterminate\"}").await, 1.0);
}

#[tokio::test]
async fn a_killed_gateway_leaves_no_process() {
    let Some(runtime) = common::runtime("a_killed_gateway_leaves_no_process") else { return };
    let model = model().await;
    let (mut jetway, mut alice, _) = with_runtime(&runtime, &model).await;
    alice.prompt("real", "[[stream 1000 20 20]]").await.unwrap();
    let _bob = Client::hello(jetway.sdk, "bob").await;
    let state = state_of(&jetway);
    assert!(bearing(&state).len() >= 2);
    jetway.signal(Signal::SIGKILL);
    jetway.exit(PATIENCE).await;
    let since = Instant::now();
    until("all are gone", || bearing(&state).is_empty()).await;
    println!("CHECK 37: kill -9 of the gateway: its CLI processes were gone after {:.1?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_drained_gateway_leaves_no_process() {
    let Some(runtime) = common::runtime("a_drained_gateway_leaves_no_process") else { return };
    let model = model().await;
    let (mut jetway, mut alice, _) = with_runtime(&runtime, &model).await;
    alice.prompt("real", "[[stream 50 20 20]]").await.unwrap();
    let state = state_of(&jetway);
    jetway.signal(Signal::SIGTERM);
    alice.find(0, |m| common::client::is_event(m, "real", "session.idle")).await;
    let (status, _) = jetway.exit(2 * PATIENCE).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(bearing(&state), Vec::<u32>::new());
}
