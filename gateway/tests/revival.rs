//! A CLI process is lost: its users go on as if it had not been, on a real `copilot-runtime`.

mod common;

use std::time::{Duration, Instant};

use common::{Gateway, client::Client, client::is_event, program::bearing};
use jetway_loadtest::model::{self, Ledger};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A gateway before the real runtime, and a scripted model.
struct Scene {
    gateway: Gateway,
    model: model::Handle,
    state: tempfile::TempDir,
}

impl Scene {
    async fn start(test: &str) -> Option<Self> {
        let runtime = common::runtime(test)?;
        let state = tempfile::tempdir().unwrap();
        let gateway = common::start(&common::per_user(&runtime, state.path(), "")).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = model::serve(listener, Ledger::in_memory()).unwrap();
        Some(Self { gateway, model, state })
    }

    fn params(&self, session: &str) -> Value {
        let provider = json!({ "type": "openai", "baseUrl": self.model.base_url(), "apiKey": "sk-canary" });
        json!({ "sessionId": session, "model": "scripted", "provider": provider, "streaming": true })
    }

    async fn client(&self, user: &str) -> Client {
        Client::hello(self.gateway.sdk, user).await
    }

    /// A client with a session of its own.
    async fn session(&self, user: &str, session: &str) -> Client {
        let mut client = self.client(user).await;
        client.call("session.create", self.params(session)).await.unwrap();
        client
    }

    /// Kills every runtime process as the out-of-memory killer would.
    ///
    /// The moment afterwards lets Jetway see it: a prompt that is on its way while the process dies may or may
    /// not have been read, so it is answered `turn_indeterminate` and not what these tests are about.
    async fn kill_all(&self) {
        let pids = bearing(&self.state.path().display().to_string());
        assert!(!pids.is_empty());
        for pid in &pids {
            kill(Pid::from_raw(*pid as i32), Signal::SIGKILL).unwrap();
        }
        let reaped = || pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        common::until("the killed processes are reaped", reaped).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_while_idle_is_not_missed() {
    let Some(scene) = Scene::start("a_process_killed_while_idle_is_not_missed").await else { return };
    let mut ada = scene.session("ada", "s").await;
    assert_eq!(ada.turn("s", "first").await, "You said: first");
    let mode = |mode: &str| json!({ "sessionId": "s", "mode": mode });
    ada.call("session.mode.set", mode("plan")).await.unwrap();
    let killed = Instant::now();
    scene.kill_all().await;
    let from = ada.seen.len();
    // The CLI itself marks prompts in plan mode: the new process knows of it.
    assert_eq!(ada.turn("s", "second").await, "You said: [[PLAN]] second");
    let ended = killed.elapsed();
    ada.call("session.mode.set", mode("interactive")).await.unwrap();
    assert!(ada.turn("s", "history").await.starts_with("History: first |"));
    assert!(ada.events("s", "session.error").is_empty());
    let traces: Vec<_> = ada.seen[from..].iter().filter(|m| is_event(m, "s", "session.resume")).collect();
    assert!(traces.is_empty(), "the resume was seen: {traces:#?}");
    println!("failover of an idle process, kill to the end of the next turn: {ended:?}");
}

/// Others may act in the session by then: what they do is not to be missed.
#[tokio::test(flavor = "multi_thread")]
async fn where_somebody_is_attached_it_comes_back_unasked() {
    let Some(scene) = Scene::start("where_somebody_is_attached_it_comes_back_unasked").await else { return };
    let mut ada = scene.session("ada", "s").await;
    assert_eq!(ada.turn("s", "first").await, "You said: first");
    for _ in 0..3 {
        scene.kill_all().await;
        let back = || !bearing(&scene.state.path().display().to_string()).is_empty();
        common::until("another process", back).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(ada.turn("s", "second").await, "You said: second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_message_is_made_again() {
    let Some(scene) = Scene::start("a_session_without_a_message_is_made_again").await else { return };
    let mut ada = scene.session("ada", "s").await;
    scene.kill_all().await;
    assert_eq!(ada.turn("s", "hello").await, "You said: hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_attached_is_attached_again() {
    let Some(scene) = Scene::start("whoever_is_attached_is_attached_again").await else { return };
    let mut one = scene.session("ada", "s").await;
    one.turn("s", "first").await;
    let mut two = scene.client("ada").await;
    two.call("session.resume", scene.params("s")).await.unwrap();
    scene.kill_all().await;
    // The second client says nothing; it is brought back because it is there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let from = two.seen.len();
    assert_eq!(one.turn("s", "second").await, "You said: second");
    two.find(from, |m| is_event(m, "s", "session.idle")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_37_a_process_killed_in_mid_turn() {
    let Some(scene) = Scene::start("check_37_a_process_killed_in_mid_turn").await else { return };
    let mut ada = scene.session("ada", "s").await;
    ada.turn("s", "first").await;
    ada.prompt("s", "[[say so far]] [[hang]]").await.unwrap();
    ada.find(0, |m| is_event(m, "s", "assistant.message_delta")).await;
    let killed = Instant::now();
    scene.kill_all().await;
    ada.find(0, |m| is_event(m, "s", "session.error")).await;
    let told = killed.elapsed();
    assert_eq!(ada.turn("s", "again").await, "You said: again");
    let answered = killed.elapsed();
    println!("CHECK 37: told after {told:?} (≤ 2 s), answering again after {answered:?} (≤ 5 s)");
    assert!(told < Duration::from_secs(2) && answered < Duration::from_secs(5));
    assert_eq!(ada.events("s", "session.error").len(), 1);
}

/// What comes back unseen was neither deleted nor made: `session.lifecycle` tells of use only.
#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_is_silent_of_what_comes_back_unseen() {
    let Some(scene) = Scene::start("lifecycle_is_silent_of_what_comes_back_unseen").await else { return };
    let mut ada = scene.session("ada", "s").await;
    let told = |client: &Client, from: usize| {
        let told = client.seen[from..].iter().filter(|m| m["method"] == "session.lifecycle");
        told.map(|m| m["params"]["type"].as_str().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    ada.turn("s", "first").await;
    assert!(told(&ada, 0).contains("session.created"), "{:?}", told(&ada, 0));
    let from = ada.seen.len();
    for round in 0..3 {
        scene.kill_all().await;
        ada.turn("s", &format!("round {round}")).await;
    }
    let told = told(&ada, from);
    println!("lifecycle of a session that was lost and came back three times: {told:?}");
    assert!(!told.contains("session.created") && !told.contains("session.deleted"), "{told:?}");
}
