//! What was said, and what the CLI server cannot do.

use serde_json::json;

use crate::{common::http::Http, gateway};

#[tokio::test]
async fn what_was_said_can_be_read_and_taken_away() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "name": "a <b>" })).await;
    ada.ask(&id, "one & two").await;
    let history = ada.get(&format!("/api/v1/sessions/{id}/messages")).await.json();
    let said: Vec<_> =
        history["messages"].as_array().unwrap().iter().map(|m| (&m["role"], &m["content"])).collect();
    assert_eq!(
        said,
        [(&json!("user"), &json!("one & two")), (&json!("assistant"), &json!("You said: one & two"))]
    );
    let export = async |format: &str| ada.get(&format!("/api/v1/sessions/{id}/export?format={format}")).await;
    assert!(export("md").await.text.contains("\n## user ("));
    assert_eq!(export("json").await.json()["messages"], history["messages"]);
    let page = export("html").await;
    assert!(page.text.contains("a &lt;b&gt;") && page.text.contains("one &amp; two"));
    assert!(page.headers.contains_key("content-security-policy"));
    export("pdf").await.problem(422, "invalid-request");
    let eve = Http::user(&gateway, "eve");
    eve.get(&format!("/api/v1/sessions/{id}/export")).await.problem(404, "session-not-found");
}

/// The stub has none of these methods, as an older CLI might not.
#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    for what in ["fork", "compact"] {
        let answer = ada.post(&format!("/api/v1/sessions/{id}/{what}"), json!({})).await;
        answer.problem(501, "not-implemented");
    }
    let rewind = json!({ "event_id": "x" });
    ada.post(&format!("/api/v1/sessions/{id}/rewind"), rewind).await.problem(501, "not-implemented");
    ada.get("/api/v1/foreground").await.problem(501, "not-implemented");
}
