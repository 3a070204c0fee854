//! More users than CLI processes: the least recently used idle ones rest, and nobody notices.

mod common;

use std::time::{Duration, Instant};

use common::{client::Client, program::bearing, quantile};
use jetway_loadtest::model::{self, Ledger};
use serde_json::json;
use tokio::net::TcpListener;

struct Scene {
    gateway: common::Gateway,
    model: model::Handle,
    state: tempfile::TempDir,
}

async fn scene(test: &str, more: &str) -> Option<Scene> {
    let runtime = common::runtime(test)?;
    let state = tempfile::tempdir().unwrap();
    let toml = format!(
        "listen = {{ sdk = \"127.0.0.1:0\", http = \"off\", admin = \"127.0.0.1:0\" }}\n\
         pool.process = {{ command = [{:?}], state_dir = {:?}, {more} }}\n",
        runtime.display().to_string(),
        state.path().display().to_string(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, Ledger::in_memory()).unwrap();
    Some(Scene { gateway: common::start(&toml).await, model, state })
}

impl Scene {
    async fn session(&self, user: &str) -> Client {
        let mut client = Client::hello(self.gateway.sdk, user).await;
        let provider = json!({ "type": "openai", "baseUrl": self.model.base_url(), "apiKey": "sk-x" });
        let params =
            json!({ "sessionId": "chat", "model": "scripted", "provider": provider, "streaming": true });
        client.call("session.create", params).await.unwrap();
        client
    }

    /// CLI processes; what they themselves start does not count.
    fn processes(&self) -> usize {
        let me = std::process::id().to_string();
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned))
        };
        let all = bearing(&self.state.path().display().to_string());
        all.into_iter().filter(|pid| parent(*pid).as_deref() == Some(&me)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_users_than_processes() {
    const USERS: usize = 6;
    let Some(scene) = scene("more_users_than_processes", "max_processes = 2").await else { return };
    let mut clients = Vec::new();
    for user in 0..USERS {
        let mut client = scene.session(&format!("user-{user}")).await;
        assert_eq!(
            client.turn("chat", &format!("first of {user}")).await,
            format!("You said: first of {user}")
        );
        clients.push(client);
        assert!(scene.processes() <= 2, "{} processes", scene.processes());
    }
    let mut took = Vec::new();
    for round in 0..3 {
        for (user, client) in clients.iter_mut().enumerate() {
            let since = Instant::now();
            let heard = client.turn("chat", "history").await;
            took.push(since.elapsed());
            assert!(heard.starts_with(&format!("History: first of {user}")), "round {round}: {heard}");
            assert!(client.events("chat", "session.error").is_empty());
            assert!(scene.processes() <= 2, "{} processes", scene.processes());
        }
    }
    let (p50, p99) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
    println!("turns of users whose process had been stopped: p50 {p50:?}, p99 {p99:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_is_stopped_and_brought_back() {
    let name = "an_idle_process_is_stopped_and_brought_back";
    let Some(scene) = scene(name, "idle_timeout = \"1s\"").await else { return };
    let mut ada = scene.session("ada").await;
    ada.turn("chat", "first").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.processes() > 0 {
        assert!(Instant::now() < deadline, "the process stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ada.turn("chat", "history").await, "History: first");
}
