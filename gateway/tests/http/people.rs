//! Permissions and questions: who may answer, what survives, and how it ends when nobody does.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use hyper::Method;
use jetway_config::Sources;
use jetway_loadtest::model::{self, Ledger};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    common::{
        Gateway, PATIENCE,
        client::Client,
        fleet, fleet_of,
        http::Http,
        per_user, runtime,
        runtime::{CLI_TOKEN, Runtime},
        start, start_from, stub, with_http,
    },
    gateway,
};

fn messages(session: &str) -> String {
    format!("/api/v1/sessions/{session}/messages")
}

/// The first request that waits in a session.
async fn waiting(user: &Http, session: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = user.get(&format!("/api/v1/sessions/{session}/requests")).await.json();
        if let Some(request) = list["requests"].get(0) {
            return request.clone();
        }
        assert!(Instant::now() < deadline, "something waits: {list}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn answer(user: &Http, session: &str, request: &Value, body: Value) -> crate::common::http::Answer {
    let id = request["id"].as_str().unwrap();
    user.post(&format!("/api/v1/sessions/{session}/requests/{id}"), body).await
}

/// A prompt whose stream is not read to its end.
async fn prompt(user: &Http, session: &str, prompt: &str) -> crate::common::http::Stream {
    let body = json!({ "prompt": prompt }).to_string();
    user.stream(Method::POST, &messages(session), Some(&body)).await
}

#[tokio::test]
async fn members_answer_and_viewers_look_on() {
    let (_stub, gateway, _dir) = gateway("").await;
    let [ada, bob, vic, eve] = ["ada", "bob", "vic", "eve"].map(|user| Http::user(&gateway, user));
    let members = json!([{ "user": "bob" }, { "user": "vic", "role": "viewer" }]);
    let id = ada.create(json!({ "permissions": "ask", "members": members })).await;
    let mut turn = prompt(&ada, &id, "[[permission]]").await;
    let request = waiting(&vic, &id).await;
    assert!(request["expires_at"].is_string() && request["created_at"].is_string(), "{request}");
    let yes = json!({ "decision": "approve" });
    answer(&vic, &id, &request, yes.clone()).await.problem(403, "forbidden");
    answer(&eve, &id, &request, yes.clone()).await.problem(404, "session-not-found");
    eve.get(&format!("/api/v1/sessions/{id}/requests")).await.problem(404, "session-not-found");
    assert_eq!(answer(&bob, &id, &request, yes.clone()).await.status, 204);
    answer(&ada, &id, &request, yes).await.problem(404, "not-found");
    assert_eq!(turn.until("jetway.turn_ended").await.data["content"], "permission: approve-once");
}

/// The one who asked is gone, and nobody is connected at all.
#[tokio::test]
async fn what_waits_outlives_its_clients() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "permissions": "ask" })).await;
    for (directive, body, said) in [
        ("[[permission]]", json!({ "decision": "approve" }), "permission: approve-once"),
        ("[[userinput]]", json!({ "answer": "green" }), "green"),
    ] {
        let mut turn = prompt(&ada, &id, directive).await;
        turn.until("user.message").await;
        let place = turn.seen.last().unwrap().id.clone();
        drop(turn);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let request = waiting(&ada, &id).await;
        let mut back = ada.clone().with("last-event-id", &place).events(&id).await;
        assert_eq!(answer(&ada, &id, &request, body).await.status, 204);
        let end = back.until("jetway.turn_ended").await;
        assert!(end.data["content"].as_str().unwrap().contains(said), "{end:?}");
    }
}

#[tokio::test]
async fn what_nobody_answers_expires_and_says_so() {
    let (_stub, gateway, _dir) = gateway("http.answer_within = \"1s\"\n").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "permissions": "ask" })).await;
    let mut events = ada.events(&id).await;
    for (directive, said) in [("[[permission]]", "reject"), ("[[userinput]]", "nobody answered in time")] {
        let since = Instant::now();
        let mut turn = prompt(&ada, &id, directive).await;
        let request = waiting(&ada, &id).await;
        let expired = events.until("jetway.request_expired").await;
        assert_eq!(expired.data, json!({ "id": request["id"], "reason": "nobody answered in time" }));
        assert!(since.elapsed() >= Duration::from_secs(1));
        let end = turn.until("jetway.turn_ended").await;
        assert!(end.data["content"].as_str().unwrap().contains(said), "{end:?}");
        answer(&ada, &id, &request, json!({ "decision": "approve" })).await.problem(404, "not-found");
    }
    // A turn that is stopped needs no answer any more.
    let mut turn = prompt(&ada, &id, "[[permission]]").await;
    let request = waiting(&ada, &id).await;
    ada.post(&format!("/api/v1/sessions/{id}/abort"), json!({})).await;
    let expired = turn.until("jetway.request_expired").await;
    assert_eq!(expired.data, json!({ "id": request["id"], "reason": "the turn has ended" }));
    assert_eq!(turn.until("jetway.turn_ended").await.data["outcome"], "aborted");
    assert_eq!(ada.get(&format!("/api/v1/sessions/{id}/requests")).await.json()["requests"], json!([]));
}

#[tokio::test]
async fn a_tenant_may_forbid() {
    let dir = tempfile::tempdir().unwrap();
    let (stub, path) = (stub(1), dir.path().join("jetway.toml"));
    let toml = |more: &str| with_http(&fleet(stub.addrs(), more));
    let all = "tenants.local.policy.permissions = [\"ask\", \"approve\"]";
    std::fs::write(&path, toml(all)).unwrap();
    let sources = Sources::system(Some(&path));
    let gateway = start_from(&sources).await;
    let reload = gateway.app.watch(sources);
    let ada = Http::user(&gateway, "ada");
    let refused = ada.post("/api/v1/sessions", json!({ "permissions": "approve-safe" })).await;
    assert_eq!(refused.problem(403, "forbidden")["field"], "permissions");
    let id = ada.create(json!({ "permissions": "approve" })).await;
    assert_eq!(ada.ask(&id, "[[permission]]").await, "permission: approve-once");
    // What a session has is worth as much as its tenant's policy of the moment.
    let text = std::fs::read_to_string(&path).unwrap().replace(", \"approve\"", "");
    std::fs::write(&path, text).unwrap();
    reload.now();
    let deadline = Instant::now() + PATIENCE;
    while ada.ask(&id, "[[permission]]").await != "permission: reject" {
        assert!(Instant::now() < deadline, "it takes effect");
    }
    let path = format!("/api/v1/sessions/{id}");
    ada.patch(&path, json!({ "permissions": "approve" })).await.problem(403, "forbidden");
    for allowed in ["deny", "ask"] {
        assert_eq!(ada.patch(&path, json!({ "permissions": allowed })).await.status, 200);
    }
}

/// The model asks for a shell command, which wants a permission.
const SHELL: &str = "[[tool bash {\"command\":\"echo from-the-shell\",\"description\":\"look\"}]]";

async fn scripted() -> model::Handle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    model::serve(listener, Ledger::in_memory()).unwrap()
}

fn asking(model: &model::Handle) -> Value {
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-test" });
    json!({ "model": "scripted", "provider": provider, "permissions": "ask" })
}

/// A process of the user's own goes with its gateway; what it asked does not, and the turn goes on with the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_of_ones_own_asked_survives_a_restart() {
    let Some(program) = runtime("what_a_process_of_ones_own_asked_survives_a_restart") else { return };
    survives_a_restart(&program, json!([]), "ada").await;
}

/// Then the turn goes on under a lease of the new gateway's, and whoever takes part may answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_in_a_shared_session_survives_a_restart() {
    let Some(program) = runtime("what_was_asked_in_a_shared_session_survives_a_restart") else { return };
    survives_a_restart(&program, json!([{ "user": "bob", "role": "member" }]), "bob").await;
}

async fn survives_a_restart(program: &Path, members: Value, who_answers: &str) {
    let shared = members != json!([]);
    let (state, model) = (tempfile::tempdir().unwrap(), scripted().await);
    let directory = state.path().join("directory.sqlite");
    let more = format!("drain.timeout = \"1s\"\ndirectory.path = \"{}\"", directory.display());
    let toml = with_http(&per_user(program, state.path(), &more));
    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    let mut asked = asking(&model);
    asked["members"] = members;
    let id = ada.create(asked).await;
    let before = json!({ "prompt": "[[say before]]" });
    let once = |gateway: &Gateway| Http::user(gateway, "ada").with("idempotency-key", "before");
    let first = once(&gateway).post(&messages(&id), before.clone()).await.json();
    assert_eq!(first["content"], "before", "{first}");
    let mut turn = prompt(&ada, &id, SHELL).await;
    let request = waiting(&ada, &id).await;
    assert_eq!(gateway.app.drain(std::future::pending()).await, 1, "the turn is cut off");
    assert_eq!(turn.until("jetway.turn_ended").await.data["outcome"], "indeterminate");
    assert!(turn.seen.iter().all(|event| event.kind != "jetway.request_expired"));

    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    // A caller's own provider is a secret, which no gateway keeps.
    let provider = json!({ "provider": asking(&model)["provider"] });
    assert_eq!(ada.patch(&format!("/api/v1/sessions/{id}"), provider).await.status, 200);
    let whoever = Http::user(&gateway, who_answers);
    let again = waiting(&whoever, &id).await;
    assert_eq!((&again["id"], &again["type"]), (&request["id"], &json!("permission")), "{again}");
    assert!(again["expires_at"].is_string(), "{again}");
    if shared {
        let busy = whoever.post(&messages(&id), json!({ "prompt": "x", "mode": "refuse" })).await;
        assert_eq!(busy.status, 409, "{}", busy.text);
    }
    let mut events = ada.events(&id).await;
    assert_eq!(answer(&whoever, &id, &again, json!({ "decision": "approve" })).await.status, 204);
    let said = events.until("assistant.message").await;
    assert!(said.data["content"].as_str().unwrap().contains("from-the-shell"), "{}", said.data);
    events.until("session.idle").await;
    assert_eq!(whoever.ask(&id, "[[say after]]").await, "after");
    let again = once(&gateway).post(&messages(&id), before).await.json();
    assert_eq!((&again["turn_id"], &again["content"]), (&first["turn_id"], &first["content"]), "{again}");
}

/// A CLI server of a fleet stays, and what it asked waits on for as long as somebody has the session attached there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_fleet_server_asked_survives_a_restart() {
    let Some(cli) = Runtime::start_for("what_a_fleet_server_asked_survives_a_restart") else { return };
    let (dir, model) = (tempfile::tempdir().unwrap(), scripted().await);
    let more = format!(
        "drain.timeout = \"1s\"\ntenants.default.policy.host_tools = true\ndirectory.path = \"{}\"",
        dir.path().join("directory.sqlite").display()
    );
    let toml = with_http(&fleet_of(&[cli.address], "token_env = \"CLI_TOKEN\"\n", &more));
    let sources = || Sources::fixed(&toml, &[("CLI_TOKEN", CLI_TOKEN)]);
    let gateway: Gateway = start_from(&sources()).await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(asking(&model)).await;
    assert_eq!(ada.ask(&id, "[[say before]]").await, "before");
    // What another gateway is to the CLI server.
    let mut other: Client = cli.connect().await;
    other.call("session.resume", json!({ "sessionId": id, "disableResume": true })).await.unwrap();
    let _turn = prompt(&ada, &id, SHELL).await;
    let request = waiting(&ada, &id).await;
    gateway.app.drain(std::future::pending()).await;

    let gateway = start_from(&sources()).await;
    let ada = Http::user(&gateway, "ada");
    let again = waiting(&ada, &id).await;
    assert_eq!((&again["id"], &again["type"]), (&request["id"], &json!("permission")), "{again}");
    let from = other.seen.len();
    assert_eq!(answer(&ada, &id, &again, json!({ "decision": "approve" })).await.status, 204);
    let said = other.find(from, |m| m["params"]["event"]["type"] == "session.idle").await;
    assert_eq!(said["params"]["sessionId"], id, "the turn ends");
    let said = ada.get(&messages(&id)).await.text;
    assert!(said.contains("from-the-shell"), "{said}");
}
