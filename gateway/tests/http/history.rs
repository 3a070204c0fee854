//! What was said, and what the CLI server cannot do.

use jetway_loadtest::model::{self, Ledger};
use serde_json::json;

use crate::{
    common::{http::Http, per_user, runtime, start, with_http},
    gateway,
};

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

/// On a real runtime, which can do all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_can_be_forked_summed_up_and_taken_back() {
    let Some(program) = runtime("a_session_can_be_forked_summed_up_and_taken_back") else { return };
    let state = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, Ledger::in_memory()).unwrap();
    let gateway = start(&with_http(&per_user(&program, state.path(), ""))).await;
    let ada = Http::user(&gateway, "ada");
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-test" });
    let id = ada.create(json!({ "name": "trunk", "model": "scripted", "provider": provider })).await;
    let path = format!("/api/v1/sessions/{id}");
    for said in ["one", "two", "three"] {
        assert_eq!(ada.ask(&id, &format!("[[say {said}]]")).await, said);
    }
    let fork = ada.post(&format!("{path}/fork"), json!({ "name": "branch" })).await;
    assert_eq!(fork.status, 201, "{}", fork.text);
    let branch = fork.json()["session_id"].as_str().unwrap().to_owned();
    assert_ne!(branch, id);

    let points = ada.get(&format!("{path}/rewind-points")).await.json();
    let points = points.as_object().unwrap().values().find_map(|v| v.as_array()).unwrap().clone();
    let back = json!({ "event_id": points.last().unwrap()["eventId"] });
    let rewound = ada.post(&format!("{path}/rewind"), back).await;
    assert_eq!(rewound.status, 200, "{}", rewound.text);
    assert!(!ada.ask(&id, "history").await.contains("[[say three]]"), "the last turn is taken back");

    let given = json!({ "provider": provider });
    assert_eq!(ada.patch(&format!("/api/v1/sessions/{branch}"), given).await.status, 200);
    assert!(ada.ask(&branch, "history").await.contains("[[say three]]"), "and not in the branch");
    let summed = ada.post(&format!("{path}/compact"), json!({})).await;
    assert_eq!(summed.status, 200, "{}", summed.text);
}
