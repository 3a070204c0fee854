//! How sessions end: by themselves, when they are completed, when they are deleted; and what is left of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use jetway_loadtest::redis::Redis;

use crate::{
    common::{
        PATIENCE,
        client::{Client, is_event},
        fleet,
        http::Http,
        start, stub, with_http,
    },
    gateway,
};

/// A session as soon as `holds`.
async fn when(user: &Http, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let session = user.get(&format!("/api/v1/sessions/{id}")).await.json();
        if holds(&session) {
            return session;
        }
        assert!(Instant::now() < deadline, "{session}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sets the clock of a session back by so many minutes.
fn age(dir: &TempDir, id: &str, minutes: u64) {
    let file = rusqlite::Connection::open(dir.path().join("directory.db")).unwrap();
    file.busy_timeout(PATIENCE).unwrap();
    let ms = minutes * 60_000;
    let changed = file.execute(
        "UPDATE session SET created = created - ?2, last_used = last_used - ?2, ends = ends - ?2, due = due - ?2 WHERE id = ?1",
        rusqlite::params![id, ms as i64],
    );
    assert_eq!(changed.unwrap(), 1);
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let (stub, gateway, dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let make = async |config: Value| ada.create(json!({ "config": config })).await;
    let timed = make(json!({ "timeout_minutes": 60 })).await;
    let unused = make(json!({ "auto_delete_after_hours": 1 })).await;
    let never = json!({ "timeout_minutes": 0, "auto_delete_after_hours": 0 });
    let endless = ada.create(json!({ "config": never, "ephemeral": true })).await;
    let ephemeral = ada.create(json!({ "ephemeral": true })).await;
    // On the SDK port it is said to Jetway.
    let mut client = Client::hello(gateway.sdk, "ada").await;
    let params = json!({ "sessionId": "brief", "jetway": { "ephemeral": true } });
    client.call("session.create", params).await.unwrap();
    let brief = "brief".to_owned();
    // Whatever it does.
    let asking = {
        let (ada, messages) = (ada.clone(), format!("/api/v1/sessions/{timed}/messages"));
        tokio::spawn(async move { ada.post(&messages, json!({ "prompt": "[[hang]]" })).await })
    };
    when(&ada, &timed, |s| s["turn"]["status"] == "running").await;
    // Notes of its use are written down a moment later.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for id in [&timed, &unused, &endless, &ephemeral, &brief] {
        age(&dir, id, 61);
    }
    let over = [(&timed, "timeout"), (&unused, "unused"), (&ephemeral, "unused"), (&brief, "unused")];
    for (id, reason) in over {
        let record = when(&ada, id, |s| s["status"] == "terminated").await;
        assert_eq!(record["reason"], reason, "{record}");
        assert!(record["ended_at"].is_string() && record["started_at"].is_string());
    }
    assert_eq!(asking.await.unwrap().json()["outcome"], "aborted");
    let deleted: Vec<_> = stub.received().into_iter().filter(|r| r.method == "session.delete").collect();
    assert!(deleted.len() >= 4 && stub.stats(0).sessions == 1, "nothing is left of them: {deleted:?}");
    assert_eq!(ada.ask(&endless, "still here?").await, "You said: still here?");
    let records = ada.get("/api/v1/sessions?status=terminated").await.json();
    assert_eq!(records["sessions"].as_array().unwrap().len(), 4);
}

/// Of two gateways one ends a session, once.
#[tokio::test]
async fn one_gateway_ends_a_session() {
    let Some(redis) = Redis::start_for("one_gateway_ends_a_session", &[]) else { return };
    let stub = stub(1);
    let stores =
        format!("directory.store = \"redis\"\nlocks.store = \"redis\"\nredis.url = \"{}\"\n", redis.url());
    let toml = with_http(&fleet(stub.addrs(), &stores));
    let (one, other) = (start(&toml).await, start(&toml).await);
    let ada = Http::user(&one, "ada");
    let mut ids = Vec::new();
    for _ in 0..20 {
        let id = ada.create(json!({ "config": { "timeout_minutes": 60 } })).await;
        ada.ask(&id, "hello").await;
        ids.push(id);
    }
    let mut store = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    for id in &ids {
        let (prefix, key) = ("jetway:{directory}:", format!("local/ada {id}"));
        let entry = format!("{prefix}entry:{key}");
        redis::cmd("HSET")
            .arg(entry)
            .arg("created")
            .arg(1000)
            .arg("ends")
            .arg(2000)
            .exec(&mut store)
            .unwrap();
        redis::cmd("ZADD").arg(format!("{prefix}due")).arg(2000).arg(key).exec(&mut store).unwrap();
    }
    let elsewhere = Http::user(&other, "ada");
    for id in &ids {
        let record = when(&elsewhere, id, |s| s["status"] == "terminated").await;
        assert_eq!(record["reason"], "timeout");
    }
    let deleted = stub.received().into_iter().filter(|r| r.method == "session.delete").count();
    assert_eq!(deleted, ids.len());
}

#[tokio::test]
async fn a_completed_session_runs_again_or_is_removed() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let done = json!({ "status": "completed" });
    let id = ada.create(json!({})).await;
    ada.ask(&id, "one").await;
    let completed = ada.patch(&format!("/api/v1/sessions/{id}"), done.clone()).await.json();
    assert_eq!(completed["status"], "completed");
    assert_eq!(completed["completed_at"], completed["ended_at"]);
    assert!(completed["completed_at"].is_string() && completed["duration_seconds"].is_u64());
    // What was noted of its use before is not taken for a new one.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ada.get(&format!("/api/v1/sessions/{id}")).await.json()["status"], "completed");
    assert_eq!(ada.ask(&id, "[[history]]").await, "History: one");
    let again = when(&ada, &id, |s| s["status"] == "running").await;
    assert_eq!((&again["completed_at"], &again["ended_at"]), (&Value::Null, &Value::Null));

    for wish in [json!({ "config": { "auto_delete_on_complete": true } }), json!({ "ephemeral": true })] {
        let brief = ada.create(wish).await;
        let removed = ada.patch(&format!("/api/v1/sessions/{brief}"), done.clone()).await.json();
        assert_eq!((&removed["status"], &removed["reason"]), (&json!("terminated"), &json!("completed")));
    }
}

/// A record holds its id only until somebody makes a new session of it.
#[tokio::test]
async fn a_record_makes_way() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let path = "/api/v1/sessions/mine";
    ada.create(json!({ "session_id": "mine", "name": "old" })).await;
    ada.ask("mine", "one").await;
    assert_eq!(ada.delete(path).await.status, 204);
    let record = ada.get(path).await.json();
    assert_eq!((&record["status"], &record["reason"]), (&json!("terminated"), &json!("deleted")));
    ada.post(&format!("{path}/messages"), json!({ "prompt": "hi" })).await.problem(410, "session-ended");
    ada.create(json!({ "session_id": "mine" })).await;
    assert_eq!(ada.get(path).await.json()["status"], "running");
    assert_eq!(ada.ask("mine", "[[history]]").await, "History: ", "nothing of the old one");
}

/// A turn may end first, whoever began it; unless the deletion is forced.
#[tokio::test]
async fn deletion_waits_for_the_turn() {
    for force in [false, true] {
        let (_stub, gateway, _dir) = gateway("").await;
        let ada = Http::user(&gateway, "ada");
        let mut sdk = Client::hello(gateway.sdk, "ada").await;
        sdk.create("chat").await;
        sdk.prompt("chat", "[[delay 1000]] slow").await.unwrap();
        let begun = Instant::now();
        assert_eq!(ada.delete(&format!("/api/v1/sessions/chat?force={force}")).await.status, 204);
        let took = begun.elapsed();
        sdk.call("ping", json!({})).await.unwrap();
        let said = sdk.seen.iter().any(|m| is_event(m, "chat", "assistant.message"));
        assert_eq!((said, took > Duration::from_millis(700)), (!force, !force), "{took:?}");
    }
}

/// What a fleet's servers do not do for a session is said, and its request is good all the same.
#[tokio::test]
async fn what_has_no_effect_is_said() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let config =
        json!({ "cpu_limit": "2", "memory_limit": "4Gi", "pvc_enabled": true, "pvc_storage_size": "10Gi" });
    let made = ada.post("/api/v1/sessions", json!({ "config": config })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = made.json();
    let why = "has no effect: its CLI server is not of this Jetway's making";
    let warnings = ["cpu_limit", "memory_limit", "pvc_enabled", "pvc_storage_size"];
    assert_eq!(made["warnings"], json!(warnings.map(|name| format!("config.{name} {why}"))));
    assert_eq!((&made["config"], &made["workspace"]), (&config, &Value::Null));
    let create = stub.received().into_iter().find(|r| r.method == "session.create").unwrap();
    assert!(!create.params.contains("workingDirectory"));
    let plain = ada.post("/api/v1/sessions", json!({ "config": { "timeout_minutes": 60 } })).await.json();
    assert_eq!(plain["warnings"], Value::Null);
    // It is shown who runs a turn, also one of the SDK port's.
    let mut sdk = Client::hello(gateway.sdk, "ada").await;
    sdk.create("chat").await;
    sdk.prompt("chat", "[[hang]]").await.unwrap();
    let chat = when(&ada, "chat", |s| s["turn"]["status"] == "running").await;
    assert_eq!(chat["turn"]["id"], Value::Null);
}
