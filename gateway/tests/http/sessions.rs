//! Sessions as resources: made, found, listed, changed, shared, ended.

use hyper::Method;
use serde_json::{Value, json};

use crate::{
    common::{client::Client, http::Http, until},
    gateway,
};

#[tokio::test]
async fn a_session_is_made_found_and_ended() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let created = ada.post("/api/v1/sessions", json!({ "name": "Feature Work", "model": "stub" })).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let session = created.json();
    let id = session["session_id"].as_str().unwrap();
    assert_eq!(created.headers["location"], format!("/api/v1/sessions/{id}"));
    assert_eq!((&session["name"], &session["user"]), (&json!("Feature Work"), &json!("ada")));
    assert!(session["connection_url"].as_str().unwrap().ends_with(&format!("/ws/sessions/{id}")));
    assert!(session["created_at"].as_str().unwrap().ends_with('Z'));
    let secure = ada.clone().with("x-forwarded-proto", "https").get(&format!("/api/v1/sessions/{id}")).await;
    assert!(
        secure.json()["connection_url"].as_str().unwrap().starts_with("wss://"),
        "behind a proxy with TLS"
    );
    for reference in [id, &id[..8], "feature%20work", "latest"] {
        let found = ada.get(&format!("/api/v1/sessions/{reference}")).await;
        assert_eq!((found.status.as_u16(), &found.json()["session_id"]), (200, &json!(id)), "{reference}");
    }
    let bob = Http::user(&gateway, "bob");
    let (mine, nobodys) =
        (bob.get(&format!("/api/v1/sessions/{id}")).await, bob.get("/api/v1/sessions/nothing").await);
    mine.problem(404, "session-not-found");
    assert_eq!(mine.text, nobodys.text, "existence does not leak");

    assert_eq!(ada.delete(&format!("/api/v1/sessions/{id}")).await.status, 204);
    // It is noted a moment later; then a record is all that is left.
    let path = format!("/api/v1/sessions/{id}");
    for _ in 0..1000 {
        if ada.get(&path).await.json()["status"] == "terminated" {
            break;
        }
    }
    let record = ada.get(&path).await.json();
    assert_eq!((&record["status"], &record["reason"]), (&json!("terminated"), &json!("deleted")));
    ada.post(&format!("{path}/messages"), json!({ "prompt": "hi" })).await.problem(410, "session-ended");
}

#[tokio::test]
async fn lists_have_pages_and_an_order() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(ada.create(json!({ "name": format!("s{n}") })).await);
    }
    Http::user(&gateway, "bob").create(json!({})).await;
    let mut seen = Vec::new();
    let mut path = "/api/v1/sessions?sort=started_at&order=asc&limit=2".to_owned();
    loop {
        let page = ada.get(&path).await.json();
        let sessions = page["sessions"].as_array().unwrap();
        seen.extend(sessions.iter().map(|s| s["session_id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/sessions?sort=started_at&order=asc&limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    for bad in ["status=odd", "sort=name", "order=up", "limit=0", "limit=x", "cursor=zz", "page=2"] {
        ada.get(&format!("/api/v1/sessions?{bad}")).await.problem(422, "invalid-request");
    }
    assert_eq!(ada.get("/api/v1/sessions?status=failed").await.json()["sessions"], json!([]));
}

#[tokio::test]
async fn an_ambiguous_name_lists_its_candidates() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let both = [ada.create(json!({ "name": "Twin" })).await, ada.create(json!({ "name": "twin" })).await];
    let problem = ada.get("/api/v1/sessions/TWIN").await.problem(409, "ambiguous-reference");
    let mut found: Vec<_> =
        problem["candidates"].as_array().unwrap().iter().map(|c| c["session_id"].clone()).collect();
    found.sort_by_key(Value::to_string);
    let mut expected = both.map(Value::from);
    expected.sort_by_key(Value::to_string);
    assert_eq!(found, expected);
    let renamed =
        ada.patch(&format!("/api/v1/sessions/{}", both_id(&expected[0])), json!({ "name": "Other" })).await;
    assert_eq!(renamed.json()["name"], "Other");
    assert_eq!(ada.get("/api/v1/sessions/twin").await.json()["session_id"], expected[1]);
}

fn both_id(id: &Value) -> &str {
    id.as_str().unwrap()
}

#[tokio::test]
async fn what_is_shared_is_shared_by_role() {
    let (_stub, gateway, _dir) = gateway("").await;
    let (ada, bob) = (Http::user(&gateway, "ada"), Http::user(&gateway, "bob"));
    let id = ada.create(json!({ "members": [{ "user": "bob", "role": "viewer" }] })).await;
    let path = format!("/api/v1/sessions/{id}");
    assert_eq!(bob.get(&path).await.json()["role"], "viewer");
    bob.post(&format!("{path}/messages"), json!({ "prompt": "hi" })).await.problem(403, "forbidden");
    assert_eq!(ada.put(&format!("{path}/members/bob"), json!({ "role": "member" })).await.status, 204);
    assert_eq!(bob.ask(&id, "hi").await, "You said: hi");
    assert_eq!(ada.ask(&id, "[[history]]").await, "History: hi");
    bob.put(&format!("{path}/members/eve"), json!({ "role": "member" })).await.problem(403, "forbidden");
    bob.delete(&path).await.problem(403, "forbidden");
    assert_eq!(bob.delete(&format!("{path}/members/bob")).await.status, 204);
    bob.get(&path).await.problem(404, "session-not-found");
    ada.put(&format!("{path}/members/eve"), json!({ "role": "boss" })).await.problem(422, "invalid-request");
}

/// Made on one face, used on the other, and back.
#[tokio::test]
async fn both_faces_see_the_same_sessions() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    ada.ask(&id, "over HTTP").await;
    let mut sdk = Client::hello(gateway.sdk, "ada").await;
    sdk.call("session.resume", json!({ "sessionId": id })).await.unwrap();
    assert_eq!(sdk.turn(&id, "[[history]]").await, "History: over HTTP");
    sdk.create("made-by-sdk").await;
    sdk.turn("made-by-sdk", "over the SDK port").await;
    until("the directory knows it", || true).await;
    assert_eq!(ada.ask("made-by-sdk", "[[history]]").await, "History: over the SDK port");
}

#[tokio::test]
async fn callers_are_known_by_their_credential() {
    let (_stub, gateway, _dir) = gateway(
        "[[auth.keys]]\nid = \"k1\"\ntenant = \"acme\"\nsha256 = \"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\nuser = \"ada\"\n",
    )
    .await;
    let nobody = Http::to(&gateway);
    let refused = nobody.get("/api/v1/sessions").await;
    refused.problem(401, "unauthenticated");
    assert_eq!(refused.headers["www-authenticate"], "Bearer realm=\"jetway\"");
    let ada = Http::to(&gateway).with("authorization", "Bearer secret");
    assert_eq!(ada.get("/api/v1/sessions").await.status, 200);
    let wrong = [
        ("authorization", "Basic c2VjcmV0"),
        ("authorization", "Bearer nonsense"),
        ("authorization", "secret"),
    ];
    for (name, value) in wrong {
        Http::to(&gateway).with(name, value).get("/api/v1/sessions").await.problem(401, "unauthenticated");
    }
    let other = ada.with("jetway-user", "bob");
    other.get("/api/v1/sessions").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn bad_requests_have_problems_of_their_own() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    ada.get("/api/v1/nothing").await.problem(404, "not-found");
    let answer = ada.send(Method::PUT, "/api/v1/sessions", None).await;
    answer.problem(405, "method-not-allowed");
    assert!(answer.headers.contains_key("allow"));
    let create = async |body: &str| ada.send(Method::POST, "/api/v1/sessions", Some(body)).await;
    create("{").await.problem(400, "malformed-request");
    create(r#"{"name":"a","name":"b"}"#).await.problem(400, "malformed-request");
    let unknown = create(r#"{"nmae":"a"}"#).await.problem(422, "invalid-request");
    assert_eq!(unknown["field"], "nmae");
    create(r#"{"name":""}"#).await.problem(422, "invalid-request");
    create(r#"{"session_id":"a/b"}"#).await.problem(422, "invalid-request");
    for list in [r#"["mine"]"#, r#"{"config":[null,null]}"#, r#"{"members":[["bob","member"]]}"#] {
        create(list).await.problem(422, "invalid-request");
    }
    create(r#"{"config":{"timeout_minutes":1.5}}"#).await.problem(422, "invalid-request");
    assert_eq!(
        create(r#"{"config":{"timeout_minutes":60.0}}"#).await.json()["config"]["timeout_minutes"],
        60
    );
    let text = ada.clone().with("content-type", "text/plain");
    text.send(Method::POST, "/api/v1/sessions", Some("{}")).await.problem(415, "unsupported-media-type");
    let id = ada.create(json!({ "session_id": "mine" })).await;
    create(r#"{"session_id":"mine"}"#).await.problem(409, "conflict");
    ada.post(&format!("/api/v1/sessions/{id}/messages"), json!({})).await.problem(422, "invalid-request");
    ada.put(&format!("/api/v1/sessions/{id}/members/ada"), json!({ "role": "member" }))
        .await
        .problem(409, "conflict");
    let requested = ada.clone().with("x-request-id", "my-request.1").get("/api/v1/sessions").await;
    assert_eq!(requested.headers["x-request-id"], "my-request.1");
    let made_up = ada.clone().with("x-request-id", "not a name").get("/api/v1/sessions").await;
    assert_eq!(made_up.headers["x-request-id"].len(), 36);
}
