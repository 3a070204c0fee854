//! More users than CLI processes, and more sessions than may be live: the least recently used idle ones rest, and
//! nobody notices.

mod common;

use std::time::{Duration, Instant};

use common::{
    BUSY,
    client::Client,
    program::{Program, bearing},
    quantile,
};
use jetway_loadtest::model::{self, Ledger};
use serde_json::{Value, json};
use tokio::net::TcpListener;

struct Scene {
    gateway: common::Gateway,
    model: model::Handle,
    state: tempfile::TempDir,
}

async fn scene(test: &str, process: &str) -> Option<Scene> {
    scene_with(test, process, "").await
}

async fn scene_with(test: &str, process: &str, more: &str) -> Option<Scene> {
    let runtime = common::runtime(test)?;
    let state = tempfile::tempdir().unwrap();
    let toml = format!(
        "listen = {{ sdk = \"127.0.0.1:0\", http = \"off\", admin = \"127.0.0.1:0\" }}\n\
         pool.process = {{ command = [{:?}], state_dir = {:?}, {process} }}\n{more}",
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
        self.create(&mut client, "chat").await;
        client
    }

    async fn create(&self, client: &mut Client, session: &str) {
        let provider = json!({ "type": "openai", "baseUrl": self.model.base_url(), "apiKey": "sk-x" });
        let params =
            json!({ "sessionId": session, "model": "scripted", "provider": provider, "streaming": true });
        client.call("session.create", params).await.unwrap();
    }

    fn processes(&self) -> usize {
        self.pids().len()
    }

    /// Bytes that the CLI processes hold for themselves alone.
    fn memory(&self) -> u64 {
        let anonymous = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line =
                status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap_or("0 kB").trim().to_owned();
            line.trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        self.pids().iter().map(anonymous).sum()
    }

    /// The CLI processes; what they themselves start does not count.
    fn pids(&self) -> Vec<u32> {
        let me = std::process::id().to_string();
        let parent = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned))
        };
        let all = bearing(&self.state.path().display().to_string());
        all.into_iter().filter(|pid| parent(*pid).as_deref() == Some(&me)).collect()
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
            // All of it is there: what ends when its turn has ended has been written down by then.
            let all = format!("History: first of {user}{}", " | history".repeat(round));
            assert_eq!(heard, all, "round {round}");
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
    until_none(&scene).await;
    assert_eq!(ada.turn("chat", "history").await, "History: first");
}

/// An application that ends leaves all its sessions: no process is started for one that rests.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_a_session_that_rests_wakes_nothing() {
    let name = "who_leaves_a_session_that_rests_wakes_nothing";
    let Some(scene) = scene(name, "idle_timeout = \"1s\"").await else { return };
    let mut ada = scene.session("ada").await;
    ada.turn("chat", "first").await;
    until_none(&scene).await;
    for method in ["session.detach", "session.destroy"] {
        let answer = ada.call(method, json!({ "sessionId": "chat" })).await.unwrap();
        assert_eq!((answer, scene.processes()), (json!({ "success": true }), 0), "{method}");
        // It is there still.
        scene.create(&mut ada, "chat").await;
        assert_eq!(ada.turn("chat", "history").await.split(" |").next(), Some("History: first"));
        until_none(&scene).await;
    }
}

async fn until_none(scene: &Scene) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.processes() > 0 {
        assert!(Instant::now() < deadline, "the process stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_stay_inside_the_memory_budget() {
    const USERS: usize = 8;
    const BUDGET: u64 = 160 << 20;
    let name = "processes_stay_inside_the_memory_budget";
    let Some(scene) = scene(name, "memory_budget = \"160MiB\"").await else { return };
    let (mut clients, mut most) = (Vec::new(), 0);
    for user in 0..USERS {
        let mut client = scene.session(&format!("user-{user}")).await;
        client.turn("chat", &format!("first of {user}")).await;
        clients.push(client);
        // A pool looks every half second: users who come faster than that are ahead of it.
        tokio::time::sleep(Duration::from_millis(700)).await;
        most = most.max(scene.memory());
    }
    for (user, client) in clients.iter_mut().enumerate() {
        let heard = client.turn("chat", "history").await;
        assert!(heard.starts_with(&format!("History: first of {user}")), "{heard}");
        tokio::time::sleep(Duration::from_millis(700)).await;
        most = most.max(scene.memory());
    }
    println!("{USERS} users inside a budget of {} MiB: at most {} MiB", BUDGET >> 20, most >> 20);
    assert!(most <= BUDGET + BUDGET / 20, "{} MiB", most >> 20);
}

/// Sessions of one tenant, of which fewer may be live: on one process, and on another user's.
#[tokio::test(flavor = "multi_thread")]
async fn more_sessions_than_their_tenant_may_have_live() {
    let name = "more_sessions_than_their_tenant_may_have_live";
    let limits = "tenants.default.max_active_sessions = 2\n";
    let Some(scene) = scene_with(name, "max_processes = 2", limits).await else { return };
    let mut clients = [scene.session("ada").await, scene.session("bob").await];
    scene.create(&mut clients[0], "second").await;
    scene.create(&mut clients[0], "third").await;
    let sessions = [(0, "chat"), (0, "second"), (1, "chat"), (0, "third")];
    for (n, session) in sessions {
        clients[n].turn(session, &format!("first of {n} in {session}")).await;
    }
    for round in 0..3 {
        for (n, session) in sessions {
            let heard = clients[n].turn(session, "history").await;
            let all = format!("History: first of {n} in {session}{}", " | history".repeat(round));
            assert_eq!(heard, all, "round {round}");
            assert!(clients[n].events(session, "session.error").is_empty());
            assert!(live(&scene).await <= 2, "{} sessions are live", live(&scene).await);
        }
    }
}

/// How many sessions are attached in CLI processes, as the gateway says.
async fn live(scene: &Scene) -> u64 {
    let (_, body) = common::program::get(scene.gateway.admin, "/admin/v1/status").await;
    serde_json::from_str::<Value>(&body).unwrap()["totals"]["sessions"].as_u64().unwrap()
}

#[tokio::test]
async fn check_42_only_quiet_processes_are_stopped() {
    const ROUNDS: usize = 4;
    let Some(stub) = common::stub_cli("check_42_only_quiet_processes_are_stopped") else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let toml = common::per_user(&stub, &state, "").replace("sandbox =", "max_processes = 6, sandbox =");
    let gateway = Program::start_in(dir, &toml);
    let mut busy = Vec::new();
    for (user, prompt) in BUSY {
        let mut client = Client::hello(gateway.sdk, user).await;
        client.create("s").await;
        client.prompt("s", prompt).await.unwrap();
        busy.push(client);
    }
    // Two places are left for five.
    let mut others = Vec::new();
    for n in 0..5 {
        let mut client = Client::hello(gateway.sdk, &format!("user-{n}")).await;
        client.create("s").await;
        client.turn("s", &format!("first of {n}")).await;
        others.push(client);
    }
    for round in 0..ROUNDS {
        for (n, client) in others.iter_mut().enumerate() {
            let said = client.turn("s", "[[history]]").await;
            assert!(said.starts_with(&format!("History: first of {n}")), "round {round}: {said}");
        }
    }
    let (_, page) = gateway.get("/admin/v1/status").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let gone: Vec<_> =
        page["departed"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap()).collect();
    let taken = gone.iter().filter(|id| BUSY.iter().any(|(user, _)| **id == format!("local/{user}"))).count();
    println!("CHECK 42: {} processes stopped for others, {taken} of them with something to do", gone.len());
    assert!(gone.len() >= 5 * ROUNDS / 2, "{gone:?}");
    assert_eq!((taken, page["totals"]["turns"].as_u64()), (0, Some(BUSY.len() as u64)));
    for client in &mut busy {
        let from = client.seen.len();
        client.call("session.abort", json!({ "sessionId": "s" })).await.unwrap();
        client.find(from, |m| common::client::is_event(m, "s", "session.idle")).await;
    }
}
