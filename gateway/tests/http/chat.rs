//! The conversations of `seeds/003`, and what a session keeps of its making.

use serde_json::json;

use crate::{
    common::{
        client::{Client, is_event},
        fleet,
        http::Http,
        start, stub, with_http,
    },
    gateway,
};

#[tokio::test]
async fn one_question_leaves_nothing_behind() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let answer = ada.post("/api/v1/analyze", json!({ "prompt": "what is this?" })).await;
    assert_eq!(answer.json()["result"], "You said: what is this?");
    ada.post("/api/v1/analyze", json!({ "prompt": "[[error]]" })).await.problem(502, "turn-failed");
    assert_eq!(stub.received().iter().filter(|r| r.method == "session.delete").count(), 2);
    assert_eq!(stub.stats(0).sessions, 0);
}

#[tokio::test]
async fn a_chat_is_begun_continued_and_ended() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let started = ada.post("/api/v1/chat/start", json!({})).await.json();
    let said = |text: &str| json!({ "sessionId": started["sessionId"], "message": text });
    assert_eq!(ada.post("/api/v1/chat/message", said("one")).await.json()["content"], "You said: one");
    assert_eq!(ada.post("/api/v1/chat/message", said("[[history]]")).await.json()["content"], "History: one");
    let bob = Http::user(&gateway, "bob");
    bob.post("/api/v1/chat/message", said("mine?")).await.problem(404, "session-not-found");
    let end = json!({ "sessionId": started["sessionId"] });
    assert_eq!(ada.post("/api/v1/chat/end", end).await.json(), json!({ "success": true }));
}

#[tokio::test]
async fn everybody_has_a_chat_of_their_own() {
    let (_stub, gateway, _dir) = gateway("").await;
    let (ada, bob) = (Http::user(&gateway, "ada"), Http::user(&gateway, "bob"));
    let say = async |user: &Http, text: &str| {
        let answer = user.post("/api/v1/chat", json!({ "message": text })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["content"].as_str().unwrap().to_owned()
    };
    let (one, other) = tokio::join!(say(&ada, "one"), say(&bob, "other"));
    assert_eq!((one.as_str(), other.as_str()), ("You said: one", "You said: other"));
    assert_eq!(say(&ada, "[[history]]").await, "History: one");
    assert_eq!(say(&bob, "[[history]]").await, "History: other");
}

/// Everybody's turn comes, one after the other, and everybody hears the answer to what they said.
#[tokio::test]
async fn a_team_takes_turns() {
    let (stub, gateway, _dir) = gateway("").await;
    let team: Vec<_> = (0..6).map(|n| format!("user{n}")).collect();
    let members: Vec<_> = team.iter().map(|user| json!({ "user": user })).collect();
    let ada = Http::user(&gateway, "ada");
    ada.post("/api/v1/team-chat", json!({ "message": "hi" })).await.problem(404, "session-not-found");
    ada.create(json!({ "name": "team-project-review", "members": members })).await;
    let saying: Vec<_> = team
        .iter()
        .map(|user| {
            let (http, user) = (Http::user(&gateway, user), user.clone());
            tokio::spawn(async move {
                let body = json!({ "message": format!("[[delay 5]] I am {user}") });
                let answer = http.post("/api/v1/team-chat", body).await;
                assert_eq!(answer.json()["content"], format!("You said: I am {user}"), "{}", answer.text);
            })
        })
        .collect();
    for said in saying {
        said.await.unwrap();
    }
    assert_eq!(stub.ledger().findings().overlaps, []);
    let outsider = Http::user(&gateway, "eve");
    let body = json!({ "session": "team-project-review", "message": "me too" });
    outsider.post("/api/v1/team-chat", body).await.problem(404, "session-not-found");
}

/// Whose turn it is is told by name, though one client of the owner's stands for all.
#[tokio::test]
async fn a_turn_is_its_members() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let session = ada.create(json!({ "name": "team", "members": [{ "user": "bob" }] })).await;
    let mut sdk = Client::hello(gateway.sdk, "ada").await;
    sdk.call("session.resume", json!({ "sessionId": session })).await.unwrap();
    let bob = Http::user(&gateway, "bob");
    bob.post("/api/v1/team-chat", json!({ "message": "hi" })).await;
    let started = sdk.find(0, |m| is_event(m, &session, "session.info")).await;
    assert_eq!(started["params"]["event"]["data"]["message"], "bob", "{started}");
}

/// A restart of Jetway keeps what is no secret; the tenant's provider is there again.
#[tokio::test]
async fn settings_survive_a_restart() {
    let (stub, dir) = (stub(1), tempfile::tempdir().unwrap());
    let more = format!(
        "directory.path = \"{}\"\n[tenants.default.provider]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m1\"\n",
        dir.path().join("directory.db").display()
    );
    let toml = with_http(&fleet(stub.addrs(), &more));
    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    let config = json!({ "cpu_limit": "2", "memory_limit": "4Gi", "pvc_enabled": true, "pvc_storage_size": "10Gi",
        "timeout_minutes": 60, "auto_delete_after_hours": 24 });
    let id = ada.create(json!({ "permissions": "approve", "config": config })).await;
    ada.ask(&id, "before").await;
    gateway.app.drain(std::future::ready(())).await;

    let gateway = start(&toml).await;
    let ada = Http::user(&gateway, "ada");
    let session = ada.get(&format!("/api/v1/sessions/{id}")).await.json();
    assert_eq!(
        (&session["permissions"], &session["config"]["timeout_minutes"]),
        (&json!("approve"), &json!(60))
    );
    assert_eq!(ada.ask(&id, "[[history]] [[permission]]").await, "History: beforepermission: approve-once");
    for call in
        stub.received().iter().filter(|r| ["session.create", "session.resume"].contains(&r.method.as_str()))
    {
        let params: serde_json::Value = serde_json::from_str(&call.params).unwrap();
        let provider = json!({ "type": "openai", "baseUrl": "http://127.0.0.1:9/v1" });
        assert_eq!((&params["provider"], &params["model"]), (&provider, &json!("m1")));
    }
    for (field, bad) in [("cpu_limit", "two"), ("memory_limit", "-1"), ("pvc_storage_size", "10GiB")] {
        let problem = ada.post("/api/v1/sessions", json!({ "config": { (field): bad } })).await;
        assert_eq!(problem.problem(422, "invalid-request")["field"], format!("config.{field}"));
    }
}
