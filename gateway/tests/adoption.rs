//! The gateway is killed and started again: nothing of it was left, and everything is found again. With the real
//! program and the real runtime, a process for every user, behind the strongest walls that there are here.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE,
    client::{Client, is_event},
    program::{Program, bearing},
    runtime, until,
};
use jetway_loadtest::model::{self, Ledger};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const USERS: usize = 4;

struct Scene {
    gateway: Program,
    model: model::Handle,
}

impl Scene {
    async fn start(test: &str, sandbox: &str) -> Option<Self> {
        let runtime = runtime(test)?;
        let model =
            model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Ledger::in_memory()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let toml = common::per_user(&runtime, &dir.path().join("state"), "");
        let toml = toml.replace("sandbox = \"none\"", &format!("sandbox = \"{sandbox}\""));
        Some(Self { gateway: Program::start_in(dir, &toml), model })
    }

    fn settings(&self, session: &str) -> Value {
        let provider = json!({ "type": "openai", "baseUrl": self.model.base_url(), "apiKey": "sk-x" });
        json!({ "sessionId": session, "model": "scripted", "provider": provider, "streaming": true })
    }

    /// What every CLI process of this gateway has in its environment.
    fn mark(&self) -> String {
        format!("{}/state", self.gateway.dir.path().canonicalize().unwrap().display())
    }

    /// Kills the gateway. Returns how long its processes outlived it.
    async fn kill(&mut self) -> Duration {
        let mark = self.mark();
        assert!(bearing(&mark).len() >= USERS);
        self.gateway.signal(Signal::SIGKILL);
        let since = Instant::now();
        until("nothing is left", || bearing(&mark).is_empty()).await;
        let took = since.elapsed();
        self.gateway.exit(PATIENCE).await;
        took
    }
}

fn user(n: usize) -> (String, String) {
    (format!("user-{n}"), format!("session-{n}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_resumes_after_kill_9() {
    let Some(mut scene) = Scene::start("every_session_resumes_after_kill_9", "auto").await else { return };
    let mut clients = Vec::new();
    for n in 0..USERS {
        let (name, session) = user(n);
        let mut client = Client::hello(scene.gateway.sdk, &name).await;
        client.call("session.create", scene.settings(&session)).await.unwrap();
        client.turn(&session, &format!("first of {n}")).await;
        clients.push(client);
    }
    // One is in the middle of a turn, one has a session that nothing was said in yet.
    let busy = &mut clients[0];
    busy.prompt("session-0", "[[stream 1000 20 20]] nonce:cut").await.unwrap();
    busy.find(0, |m| is_event(m, "session-0", "assistant.message_delta") && m.to_string().contains("xxx"))
        .await;
    clients[1].call("session.create", scene.settings("empty")).await.unwrap();

    let outlived = scene.kill().await;
    scene.gateway.start_again();
    let ready = Instant::now();
    for n in 0..USERS {
        let (name, session) = user(n);
        let mut client = Client::hello(scene.gateway.sdk, &name).await;
        let listed = client.call("session.list", json!({})).await.unwrap();
        assert!(listed.to_string().contains(&session), "{name}: {listed}");
        client.call("session.resume", scene.settings(&session)).await.unwrap();
        let history = client.turn(&session, "history").await;
        assert!(history.starts_with(&format!("History: first of {n}")), "{name}: {history}");
        // Nobody else's.
        let other = client.call("session.resume", scene.settings(&user((n + 1) % USERS).1)).await;
        assert!(other.is_err(), "{other:?}");
    }
    println!(
        "ADOPTION: kill -9 of the gateway: its {USERS} CLI processes were gone after {outlived:.1?}; started again, \
         {USERS} of {USERS} sessions resumed with their history in {:.1?}",
        ready.elapsed()
    );
    assert!(outlived < Duration::from_secs(2));
    let mut one = Client::hello(scene.gateway.sdk, "user-1").await;
    let empty = match one.call("session.resume", scene.settings("empty")).await {
        Ok(_) => Ok(()),
        // What nothing was said in is not on disk: it is made again under its name, which is still its owner's.
        Err(_) => one.call("session.create", scene.settings("empty")).await.map(drop),
    };
    assert_eq!(empty, Ok(()));
    assert_eq!(one.turn("empty", "hello").await, "You said: hello");
    // What was cut off was not begun again.
    let cut = scene.model.ledger().entries();
    let began = cut.iter().filter(|e| e.nonce.as_deref() == Some("cut") && e.event == model::Event::Began);
    assert_eq!(began.count(), 1);
}

/// Without namespaces of its own a child may hide: what is left of it ends when the gateway starts again.
#[tokio::test(flavor = "multi_thread")]
async fn what_hides_ends_with_the_next_start() {
    let test = "what_hides_ends_with_the_next_start";
    let Some(mut scene) = Scene::start(test, "none").await else { return };
    if scene.gateway.log().contains("no control groups") {
        return eprintln!("SKIPPED {test}: no control groups may be made here");
    }
    let sleeper = || {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = pids.filter_map(|pid| std::fs::read(pid.path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(b"sleep\x0087654\0")).count()
    };
    for n in 0..USERS {
        let (name, session) = user(n);
        let mut client = Client::hello(scene.gateway.sdk, &name).await;
        client.call("session.create", scene.settings(&session)).await.unwrap();
        if n == 0 {
            let hidden = "setsid env -i sleep 87654 < /dev/null > /dev/null 2>&1 &";
            client
                .call("session.shell.exec", json!({ "sessionId": session, "command": hidden }))
                .await
                .unwrap();
        }
    }
    until("it hides", || sleeper() == 1).await;
    scene.kill().await;
    assert_eq!(sleeper(), 1, "nobody knew of it");
    scene.gateway.start_again();
    until("it is gone", || sleeper() == 0).await;
}
