//! The gateway whose turn it is dies, or stands still.

use std::time::{Duration, Instant};

use jetway_loadtest::{model, redis::Redis, stub::Event};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    common::{
        client::Client,
        program::Program,
        runtime::{CLI_TOKEN, Runtime},
    },
    scene::{self, Person, SLACK, Scene, is_of_room},
};

const TTL: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_2_the_holders_gateway_is_killed() {
    let Some(mut scene) = Scene::start("check_2_the_holders_gateway_is_killed", 2, "3s", &[]) else { return };
    let mut people = scene.room(&["ada", "bob"]).await;
    let held = people[0].begin("[[say begun]] [[hang]]").await.unwrap();
    let before = scene.fence();
    let (_, waiting) = people[1].ask("mine").await;
    scene.until_lock(1, "bob waits", |row| row["elsewhere"]["holder"] == "ada").await;
    scene.gateways[0].signal(Signal::SIGKILL);
    let since = Instant::now();
    people[1].reply(waiting).await.unwrap();
    let took = since.elapsed();
    people[1].end().await.unwrap();
    scene.gateways[0].exit(SLACK).await;
    scene.no_overlap();
    scene.line(&held, Event::Abort).await;
    assert!(scene.fence() > before);
    println!(
        "CHECK 2: kill -9 of the holder's gateway in mid-turn: the next turn began {took:.1?} later (ttl {TTL:?})"
    );
    assert!(took < TTL + Duration::from_secs(1) + SLACK);
}

/// The same before a real runtime, which goes on with the turn of a gateway that has died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_2_on_a_real_runtime() {
    const TEST: &str = "check_2_on_a_real_runtime";
    let Some((runtime, redis)) = Runtime::start_for(TEST).zip(Redis::start_for(TEST, &[])) else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, model::Ledger::in_memory()).unwrap();
    let toml = scene::toml_of(&redis, "3s", &[runtime.address], "token_env = \"CLI_TOKEN\"");
    let start = || Program::start_with(tempfile::tempdir().unwrap(), &toml, &[("CLI_TOKEN", CLI_TOKEN)]);
    let mut gateways = [start(), start()];
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "k" });
    let settings = json!({ "sessionId": "room", "model": "scripted", "provider": provider });
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.sdk).collect();
    let people = scene::room(&addresses, &["ada", "bob"], &settings).await;
    let [mut ada, mut bob] = <[Person; 2]>::try_from(people).ok().unwrap();
    ada.begin("[[hang]]").await.unwrap();
    ada.client.find(0, |m| is_of_room(m, "assistant.turn_start")).await;
    let (_, waiting) = bob.ask("mine").await;
    gateways[0].signal(Signal::SIGKILL);
    let since = Instant::now();
    let taken = bob.reply(waiting).await.unwrap();
    let took = since.elapsed();
    let own = |m: &Value| {
        is_of_room(m, "user.message") && m["params"]["event"]["data"]["messageId"] == taken["messageId"]
    };
    let prompt = bob.client.find(0, own).await;
    assert_eq!(prompt["params"]["event"]["data"]["delivery"], "idle", "hers had ended: {prompt}");
    bob.end().await.unwrap();
    gateways[0].exit(SLACK).await;
    println!(
        "CHECK 2: on a real runtime, kill -9 of the holder's gateway in mid-turn: the next turn began {took:.1?} later (ttl {TTL:?})"
    );
    assert!(took < TTL + Duration::from_secs(1) + SLACK);
}

/// What the CLI server asks in the middle of a turn.
#[derive(Debug, Clone, Copy)]
enum Asks {
    Tool,
    Permission,
    Hook,
}

impl Asks {
    const ALL: [Self; 3] = [Self::Tool, Self::Permission, Self::Hook];

    fn prompt(self) -> &'static str {
        match self {
            Self::Tool => "[[tool tell]] [[hang]]",
            Self::Permission => "[[permission]] [[hang]]",
            Self::Hook => "[[hook]] [[hang]]",
        }
    }

    /// Waits for the question.
    async fn heard(self, client: &mut Client) -> Value {
        let is = |m: &Value| match self {
            Self::Tool => is_of_room(m, "external_tool.requested"),
            Self::Permission => is_of_room(m, "permission.requested"),
            Self::Hook => m["method"] == "hooks.invoke",
        };
        client.find(0, is).await.clone()
    }

    /// Answers it.
    async fn answer(self, client: &mut Client, question: &Value) {
        let request = &question["params"]["event"]["data"]["requestId"];
        let params = |result: Value| json!({ "sessionId": "room", "requestId": request, "result": result });
        match self {
            Self::Tool => {
                client.request("session.tools.handlePendingToolCall", params(json!("late"))).await;
            }
            Self::Permission => {
                let method = "session.permissions.handlePendingPermissionRequest";
                client.request(method, params(json!({ "kind": "approve-once" }))).await;
            }
            Self::Hook => {
                client.send(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": {} })).await;
            }
        }
    }
}

/// Ada's gateway stands still for three ttls while her client goes on talking. Bob's turn runs by then.
async fn stop(scene: &Scene, ada: &mut Person, bob: &mut Person, asks: Asks) {
    let lost = ada.begin(asks.prompt()).await.unwrap();
    let question = asks.heard(&mut ada.client).await;
    scene.gateways[0].signal(Signal::SIGSTOP);
    let since = Instant::now();
    asks.answer(&mut ada.client, &question).await;
    let (queued, later) = ada.ask("mine, later").await;
    bob.begin("[[say so]] [[hang]]").await.unwrap();
    let begun = since.elapsed();
    tokio::time::sleep((3 * TTL).saturating_sub(since.elapsed())).await;
    let from = scene.stub.received().len();
    scene.gateways[0].signal(Signal::SIGCONT);
    ada.client.find(0, |m| is_of_room(m, "session.error")).await;
    // Whatever of hers was under way has come to its end when these have.
    ada.client.call("ping", json!({})).await.unwrap();
    scene.until_lock(0, "ada waits", |row| row["waiting"][0]["user"] == "ada").await;
    let stale = scene.stub.received().split_off(from).into_iter().filter(|r| {
        let method = r.method.as_str();
        // An answer has none.
        method.is_empty() || method == "session.send" || method.contains("handlePending")
    });
    assert_eq!(stale.collect::<Vec<_>>(), [], "{asks:?}: stale frames reached the CLI server");
    let errors = ada.client.events("room", "session.error");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0]["data"]["errorType"], "turn_indeterminate");
    scene.line(&lost, Event::Abort).await;
    bob.client.call("session.abort", json!({ "sessionId": "room" })).await.unwrap();
    bob.end().await.unwrap();
    // Her queued prompt was never part of the lost turn: its own turn comes.
    scene.line(&queued, Event::End).await;
    ada.reply(later).await.unwrap();
    ada.end().await.unwrap();
    println!("CHECK 3: {asks:?}: the next turn began {begun:.1?} after the holder was stopped (ttl {TTL:?})");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_3_a_stopped_holder_sends_nothing_stale() {
    let Some(scene) = Scene::start("check_3_a_stopped_holder_sends_nothing_stale", 2, "3s", &[]) else {
        return;
    };
    let [mut ada, mut bob] = <[Person; 2]>::try_from(scene.room(&["ada", "bob"]).await).ok().unwrap();
    for asks in Asks::ALL {
        stop(&scene, &mut ada, &mut bob, asks).await;
    }
    scene.no_overlap();
    println!("CHECK 3: stopped for {:?} in 3 turns, then continued: 0 stale frames reached the CLI", 3 * TTL);
}
