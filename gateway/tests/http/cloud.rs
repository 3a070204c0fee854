//! Cloud sessions, on both faces: the first prompt is held until the agent has come, and then sent once.

use std::time::Duration;

use hyper::Method;
use jetway_loadtest::{
    redis::Redis,
    stub::{Options, Stub},
};
use serde_json::{Value, json};

use crate::common::{
    Gateway,
    client::{Client, is_event},
    fleet,
    http::Http,
    start, until, with_http,
};

/// A stub whose clouds' agents take so long, and a gateway that waits for them.
async fn clouds(agent: Option<Duration>, more: &str) -> (Stub, Gateway) {
    let stub = Stub::start(Options { cloud: agent, ..Options::default() }).unwrap();
    let gateway = start(&with_http(&fleet(stub.addrs(), more))).await;
    (stub, gateway)
}

fn cloud() -> Value {
    json!({ "repository": { "owner": "myorg", "name": "myrepo", "branch": "main" } })
}

/// The prompts that reached the CLI server.
fn sent(stub: &Stub) -> usize {
    stub.received().iter().filter(|r| r.method == "session.send").count()
}

fn path(id: &str) -> String {
    format!("/api/v1/sessions/{id}")
}

#[tokio::test]
async fn the_first_prompt_waits_for_the_agent() {
    let (stub, gateway) = clouds(None, "").await;
    let ada = Http::user(&gateway, "ada");
    let members = json!([{ "user": "bob" }]);
    let made = ada
        .post("/api/v1/sessions", json!({ "name": "far away", "cloud": cloud(), "members": members }))
        .await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = made.json();
    let id = made["session_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("cloud-"), "the cloud names it: {id}");
    assert_eq!((&made["status"], &made["name"]), (&json!("pending"), &json!("far away")));
    assert_eq!(made["reason"], "waiting for the cloud's agent");
    let create = stub.received().into_iter().find(|r| r.method == "session.create").unwrap();
    let params: Value = serde_json::from_str(&create.params).unwrap();
    assert_eq!((&params["cloud"], &params["sessionId"]), (&cloud(), &Value::Null));

    let body = json!({ "prompt": "hello" }).to_string();
    let mut turn = ada.stream(Method::POST, &format!("{}/messages", path(&id)), Some(&body)).await;
    let held = turn.next().await.unwrap();
    assert_eq!((held.kind.as_str(), &held.data["status"]), ("jetway.turn_pending", &json!("pending")));
    let seen = Http::user(&gateway, "bob").get(&path(&id)).await.json();
    assert_eq!(seen["turn"], json!({ "id": held.data["turn"], "status": "pending", "user": "ada" }));
    let impatient = json!({ "prompt": "me too", "mode": "refuse" });
    let busy = ada.post(&format!("{}/messages", path(&id)), impatient).await.problem(409, "session-busy");
    assert_eq!((&busy["turn"], &busy["user"]), (&held.data["turn"], &json!("ada")));
    assert_eq!(sent(&stub), 0);

    // Whoever else begins is not the agent; and it may say so twice.
    stub.agent_comes(0, &id);
    stub.agent_comes(0, &id);
    let ended = turn.until("jetway.turn_ended").await;
    assert_eq!(ended.data["content"], "You said: hello");
    assert_eq!(sent(&stub), 1);
    let now = ada.get(&path(&id)).await.json();
    assert_eq!((&now["status"], &now["reason"]), (&json!("running"), &Value::Null));
    assert!(now["started_at"].as_str() >= now["created_at"].as_str());
    assert_eq!(ada.ask(&id, "[[history]]").await, "History: hello");
    assert_eq!(Http::user(&gateway, "bob").ask(&id, "and I").await, "You said: and I");
}

/// What comes before the answer to the session's creation is not missed, nor is what comes at once after it.
#[tokio::test]
async fn an_agent_may_be_quick() {
    for agent in [Duration::ZERO, Duration::from_millis(1)] {
        let (_stub, gateway) = clouds(Some(agent), "").await;
        let ada = Http::user(&gateway, "ada");
        let id = ada.create(json!({ "cloud": {} })).await;
        assert_eq!(ada.ask(&id, "hello").await, "You said: hello");
        let mut sdk = Client::hello(gateway.sdk, "bob").await;
        let made = sdk.call("session.create", json!({ "cloud": cloud() })).await.unwrap();
        let id = made["sessionId"].as_str().unwrap().to_owned();
        assert_eq!(sdk.turn(&id, "hello").await, "You said: hello");
        let answer = sdk.seen.iter().position(|m| m["result"]["sessionId"] == id).unwrap();
        let start = sdk.seen.iter().position(|m| is_event(m, &id, "session.start")).unwrap();
        assert!(answer < start, "who does not know the session could not tell whose start it is");
    }
}

#[tokio::test]
async fn an_agent_that_never_comes_is_not_waited_for_any_longer() {
    let (stub, gateway) = clouds(None, "limits.cloud_start = \"1s\"\n").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "cloud": cloud() })).await;
    let keyed = ada.clone().with("idempotency-key", "k1");
    let messages = format!("{}/messages", path(&id));
    let late = keyed.post(&messages, json!({ "prompt": "hello" })).await.problem(504, "cloud-not-started");
    assert_eq!((&late["session_id"], &late["waited_ms"]), (&json!(id), &json!(1000)));
    assert!(late["turn"].as_str().unwrap().starts_with("turn-"));
    assert!(late["detail"].as_str().unwrap().contains("was not sent and will not be"), "{late}");
    assert_eq!(ada.get(&path(&id)).await.json()["status"], "pending");

    let mut sdk = Client::hello(gateway.sdk, "ada").await;
    let far = sdk.call("session.create", json!({ "cloud": cloud() })).await.unwrap();
    let far = far["sessionId"].as_str().unwrap().to_owned();
    let refused = sdk.prompt(&far, "hello").await.unwrap_err();
    assert_eq!((&refused["code"], &refused["data"]["sessionId"]), (&json!(-32018), &json!(far)));
    let held = sdk.events(&far, "session.info");
    assert_eq!(held[0]["data"]["infoType"], "jetway.turn_pending");

    // It comes after all: what was given up stays so, and the same request may be made again.
    stub.agent_comes(0, &id);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sent(&stub), 0);
    let again = keyed.post(&messages, json!({ "prompt": "hello" })).await.json();
    assert_eq!(again["content"], "You said: hello");
    assert_eq!(sent(&stub), 1);
}

#[tokio::test]
async fn a_held_prompt_can_be_given_up() {
    let (stub, gateway) = clouds(None, "").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "cloud": cloud() })).await;
    let mut events = ada.events(&id).await;
    let asking = {
        let (ada, messages) = (ada.clone(), format!("{}/messages", path(&id)));
        tokio::spawn(async move { ada.post(&messages, json!({ "prompt": "hello" })).await })
    };
    let held = events.until("jetway.turn_pending").await;
    let stopped = ada.post(&format!("{}/abort", path(&id)), json!({})).await.json();
    assert_eq!(stopped["turn_id"], held.data["turn"]);
    asking.await.unwrap().problem(409, "aborted");
    events.until("jetway.turn_refused").await;

    // By the SDK: aborted, and left.
    let mut sdk = Client::hello(gateway.sdk, "bob").await;
    let made = sdk.call("session.create", json!({ "cloud": cloud() })).await.unwrap();
    let bobs = made["sessionId"].as_str().unwrap().to_owned();
    let prompt = json!({ "sessionId": bobs, "prompt": "hello" });
    let first = sdk.request("session.send", prompt.clone()).await;
    sdk.find(0, |m| is_event(m, &bobs, "session.info")).await;
    sdk.call("session.abort", json!({ "sessionId": bobs })).await.unwrap();
    assert_eq!(sdk.reply(first).await.unwrap_err()["code"], -32017);
    sdk.request("session.send", prompt).await;
    drop(sdk);
    until("its session is left", || stub.stats(0).sessions == 1).await;

    stub.agent_comes(0, &id);
    stub.agent_comes(0, &bobs);
    assert_eq!(ada.ask(&id, "now").await, "You said: now");
    assert_eq!(sent(&stub), 1, "nothing that was given up was sent");
}

/// The reader of a held turn may leave; a turn over HTTP goes on without it. Ending the session ends the turn.
#[tokio::test]
async fn a_held_turn_needs_no_reader() {
    let (stub, gateway) = clouds(None, "").await;
    let ada = Http::user(&gateway, "ada");
    let [one, other] = [ada.create(json!({ "cloud": {} })).await, ada.create(json!({ "cloud": {} })).await];
    let mut events = ada.events(&one).await;
    let body = json!({ "prompt": "hello" }).to_string();
    let reader = ada.stream(Method::POST, &format!("{}/messages", path(&one)), Some(&body)).await;
    events.until("jetway.turn_pending").await;
    drop(reader);
    stub.agent_comes(0, &one);
    assert_eq!(events.until("jetway.turn_ended").await.data["content"], "You said: hello");

    let mut events = ada.events(&other).await;
    let asking = {
        let (ada, messages) = (ada.clone(), format!("{}/messages", path(&other)));
        tokio::spawn(async move { ada.post(&messages, json!({ "prompt": "hello" })).await })
    };
    events.until("jetway.turn_pending").await;
    assert_eq!(ada.delete(&path(&other)).await.status, 204);
    asking.await.unwrap().problem(409, "aborted");
    assert_eq!(sent(&stub), 1);
}

/// The way to the CLI server is lost, and the agent comes meanwhile: nobody hears of it, so it is asked for.
#[tokio::test]
async fn an_agent_may_come_unheard() {
    let (stub, gateway) = clouds(None, "").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "cloud": cloud() })).await;
    let mut events = ada.events(&id).await;
    let asking = {
        let (ada, id) = (ada.clone(), id.clone());
        tokio::spawn(async move { ada.ask(&id, "hello").await })
    };
    events.until("jetway.turn_pending").await;
    stub.crash(0);
    stub.agent_comes(0, &id);
    until("its port is free", || stub.restart(0).is_ok()).await;
    assert_eq!(asking.await.unwrap(), "You said: hello");
    assert_eq!(sent(&stub), 1);
}

/// A held prompt is its gateway's: whoever waits hears that the gateway stops. The session is as pending as before.
#[tokio::test]
async fn a_gateway_that_stops_sends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(Options { cloud: None, ..Options::default() }).unwrap();
    let directory = format!("directory.path = \"{}\"\n", dir.path().join("directory.db").display());
    let toml = with_http(&fleet(stub.addrs(), &directory));
    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "cloud": cloud(), "permissions": "approve" })).await;
    let mut events = ada.events(&id).await;
    let asking = {
        let (ada, messages) = (ada.clone(), format!("{}/messages", path(&id)));
        tokio::spawn(async move { ada.post(&messages, json!({ "prompt": "hello" })).await })
    };
    events.until("jetway.turn_pending").await;
    drop(events);
    gateway.app.drain(std::future::ready(())).await;
    asking.await.unwrap().problem(503, "draining");
    assert_eq!(sent(&stub), 0);

    // The agent comes while there is no gateway.
    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    assert_eq!(ada.get(&path(&id)).await.json()["status"], "pending");
    stub.agent_comes(0, &id);
    assert_eq!(ada.ask(&id, "hello again [[permission]]").await, "permission: approve-once");
    assert_eq!(ada.get(&path(&id)).await.json()["status"], "running");
}

/// Several gateways before one fleet know the same of a session, and whoever held its first prompt sends it.
#[tokio::test]
async fn gateways_share_what_is_pending() {
    let Some(redis) = Redis::start_for("gateways_share_what_is_pending", &[]) else { return };
    let stub = Stub::start(Options { cloud: None, ..Options::default() }).unwrap();
    let stores =
        format!("directory.store = \"redis\"\nlocks.store = \"redis\"\nredis.url = \"{}\"\n", redis.url());
    let toml = with_http(&fleet(stub.addrs(), &stores));
    let (one, other) = (start(&toml).await, start(&toml).await);
    let (ada, elsewhere) = (Http::user(&one, "ada"), Http::user(&other, "ada"));
    let id = ada.create(json!({ "cloud": cloud() })).await;
    assert_eq!(elsewhere.get(&path(&id)).await.json()["status"], "pending");
    let mut events = elsewhere.events(&id).await;
    let asking = {
        let (elsewhere, id) = (elsewhere.clone(), id.clone());
        tokio::spawn(async move { elsewhere.ask(&id, "hello").await })
    };
    events.until("jetway.turn_pending").await;
    stub.agent_comes(0, &id);
    assert_eq!(asking.await.unwrap(), "You said: hello");
    assert_eq!(ada.ask(&id, "[[history]]").await, "History: hello");
    assert_eq!(sent(&stub), 2);
    for user in [&ada, &elsewhere] {
        assert_eq!(user.get(&path(&id)).await.json()["status"], "running");
    }
}

#[tokio::test]
async fn what_makes_no_sense_of_a_cloud_is_refused() {
    let (stub, gateway) = clouds(None, "").await;
    let ada = Http::user(&gateway, "ada");
    for (field, wish) in [
        ("cloud.repository.owner", json!({ "cloud": { "repository": { "owner": "", "name": "x" } } })),
        (
            "cloud.repository.branch",
            json!({ "cloud": { "repository": { "owner": "o", "name": "x", "branch": "" } } }),
        ),
        ("name", json!({ "cloud": { "repository": { "owner": "o" } } })),
        ("repo", json!({ "cloud": { "repo": {} } })),
    ] {
        let problem = ada.post("/api/v1/sessions", wish).await.problem(422, "invalid-request");
        assert_eq!(problem["field"], field);
    }
    let named = json!({ "session_id": "mine", "cloud": cloud() });
    assert_eq!(ada.post("/api/v1/sessions", named).await.problem(409, "conflict")["field"], "session_id");
    assert!(!stub.received().iter().any(|r| r.method == "session.create"));
}
