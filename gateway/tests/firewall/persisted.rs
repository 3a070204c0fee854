//! To create what there is already goes on with it: the runtime itself would begin a new history in the same file.

use std::path::Path;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    common::{self, client::Client},
    scene::{self, Scene},
};
use jetway_loadtest::model::{self, Ledger};

/// The kinds of the events that the runtime has written down.
fn written(state: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(state.join("events.jsonl")).unwrap();
    let kind = |line: &str| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned();
    text.lines().map(kind).collect()
}

fn begun(state: &Path) -> usize {
    written(state).iter().filter(|kind| *kind == "session.start").count()
}

/// Waits until the runtime has written so many prompts: it does so a moment after it has told of them.
async fn prompts(state: &Path, count: usize) {
    let there = || written(state).iter().filter(|kind| *kind == "user.message").count() == count;
    common::until("the prompts are written down", there).await;
}

/// A second connection creates what the first one is in, both leave, and it is created once more.
async fn create_again(one: &mut Client, two: &mut Client, three: &mut Client, params: &Value, state: &Path) {
    one.call("session.create", params.clone()).await.unwrap();
    assert_eq!(one.turn("kept", "first").await, "You said: first");
    // Live: it is another connection to the same session.
    let live = two.call("session.create", params.clone()).await.unwrap();
    assert_eq!(live["sessionId"], "kept");
    assert_eq!(two.turn("kept", "history").await, "History: first");
    for client in [&mut *one, &mut *two] {
        client.call("session.detach", json!({ "sessionId": "kept" })).await.unwrap();
    }
    // Persisted only.
    three.call("session.create", params.clone()).await.unwrap();
    assert!(three.turn("kept", "history").await.starts_with("History: first |"));
    prompts(state, 3).await;
    assert_eq!(begun(state), 1, "{:?}", written(state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_create_what_is_there_goes_on_with_it_on_a_fleet() {
    let Some(scene) = Scene::start("to_create_what_is_there_goes_on_with_it_on_a_fleet").await else {
        return;
    };
    let mut one = scene.client("ada").await;
    let (mut two, mut three) = (scene.client("ada").await, scene.client("ada").await);
    let (params, state) = (scene.params("kept"), scene.runtime.state_of("kept"));
    create_again(&mut one, &mut two, &mut three, &params, &state).await;
    // Another's create of it is no way in.
    for who in ["bob", "eve"] {
        let mut other = scene.client(who).await;
        let refused = other.call("session.create", params.clone()).await.unwrap_err();
        assert_eq!(refused["code"], -32011, "{refused}");
        three.turn("kept", "still hers").await;
        assert!(other.events("kept", "assistant.message").is_empty());
    }
    prompts(&state, 5).await;
    assert_eq!(begun(&state), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_create_what_is_there_goes_on_with_it_on_a_process_of_ones_own() {
    let name = "to_create_what_is_there_goes_on_with_it_on_a_process_of_ones_own";
    let Some(runtime) = common::runtime(name) else { return };
    let home = tempfile::tempdir().unwrap();
    let model = model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Ledger::in_memory()).unwrap();
    let gateway = common::start(&common::per_user(&runtime, home.path(), "")).await;
    let mut one = Client::hello(gateway.sdk, "ada").await;
    let (mut two, mut three) =
        (Client::hello(gateway.sdk, "ada").await, Client::hello(gateway.sdk, "ada").await);
    let state = home.path().join("local/ada/.copilot/session-state/kept");
    create_again(&mut one, &mut two, &mut three, &scene::params(&model, "kept"), &state).await;
}
