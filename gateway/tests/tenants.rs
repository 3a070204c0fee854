//! What a tenant may have of CLI processes and of live sessions: its own idle ones make room, never another's.

mod common;

use std::path::Path;

use common::{
    PATIENCE,
    client::{Client, is_event},
    key,
    program::Program,
    start_fleet, until,
};
use jetway_loadtest::{
    model::{self, Ledger},
    stub::Event,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Two tenants with processes of their users' own; acme may have `most`.
struct Tenants {
    gateway: Program,
    toml: String,
    acme: String,
    other: String,
}

const MOST: &str = "max_processes = 2";

impl Tenants {
    fn start(program: &Path) -> Self {
        let ((acme, acmes), (other, others)) = (key("acme"), key("other"));
        let dir = tempfile::tempdir().unwrap();
        let limits = format!("auth.keys = [{acmes}, {others}]\ntenants.acme = {{ {MOST} }}");
        let toml = common::per_user(program, &dir.path().join("state"), &limits);
        let toml = toml.replace("sandbox =", "start_timeout = \"2s\", sandbox =");
        Self { gateway: Program::start_in(dir, &toml), toml, acme, other }
    }

    async fn connect(&self, key: &str, user: &str) -> Result<Client, Value> {
        let mut client = Client::dial(self.gateway.sdk).await;
        client.call("connect", json!({ "token": format!("{key}:{user}") })).await.map(|_| client)
    }

    async fn acme(&self, user: &str) -> Client {
        self.connect(&self.acme, user).await.unwrap()
    }

    /// The users that have a process.
    async fn running(&self) -> Vec<String> {
        let (_, body) = self.gateway.get("/admin/v1/status").await;
        let page: Value = serde_json::from_str(&body).unwrap();
        let up = page["servers"].as_array().unwrap().iter().filter(|s| s["state"] == "up");
        let mut all: Vec<_> = up.map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        all.sort();
        all
    }

    async fn until_running(&self, users: &[&str]) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let running = self.running().await;
            if running == users {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{running:?} run instead of {users:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn reload(&self, most: &str) {
        reload(&self.gateway, &self.toml.replace(MOST, most)).await;
    }
}

#[tokio::test]
async fn a_tenants_quiet_processes_make_room_for_its_own_users() {
    let name = "a_tenants_quiet_processes_make_room_for_its_own_users";
    let Some(program) = common::stub_cli(name) else { return };
    let tenants = Tenants::start(&program);
    let mut una = tenants.connect(&tenants.other, "una").await.unwrap();
    una.create("s").await;
    let mut ada = tenants.acme("ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    let mut bob = tenants.acme("bob").await;
    bob.create("s").await;
    bob.turn("s", "[[deltas 3 3]]").await;
    // Una's is the least recently used of all; ada's is that of acme's.
    let mut cyd = tenants.acme("cyd").await;
    cyd.create("s").await;
    tenants.until_running(&["acme/bob", "acme/cyd", "other/una"]).await;
    // Her next use takes bob's in turn, and she notices nothing.
    assert_eq!(ada.turn("s", "[[history]]").await, "History: first");
    tenants.until_running(&["acme/ada", "acme/cyd", "other/una"]).await;

    // While all that acme may have is at work, there is no more for it, who waits for that in vain, and enough for others.
    ada.prompt("s", "[[hang]]").await.unwrap();
    cyd.prompt("s", "[[permission]]").await.unwrap();
    cyd.find(0, |m| is_event(m, "s", "permission.requested")).await;
    let error = tenants.connect(&tenants.acme, "dan").await.err().expect("there is no room");
    assert_eq!((&error["code"], &error["data"]["limit"]), (&json!(-32014), &json!("tenant_max_processes")));
    assert!(error["data"]["retryAfterMs"].as_u64() > Some(0), "{error}");
    let error = bob.prompt("s", "x").await.unwrap_err();
    assert_eq!(error["data"]["limit"], "tenant_max_processes", "{error}");
    assert_eq!(tenants.gateway.metric("jetway_refusals_total{limit=\"tenant_max_processes\"}").await, 2.0);
    assert!(cyd.events("s", "session.error").is_empty() && ada.events("s", "session.error").is_empty());
    let asked = bob.request("session.send", json!({ "sessionId": "s", "prompt": "[[say back]]" })).await;
    tenants.connect(&tenants.other, "ulf").await.unwrap().create("s").await;
    assert!(!tenants.running().await.contains(&"acme/bob".to_owned()));
    // It may have more from now on, and who waits hears of that.
    tenants.reload("max_processes = 3").await;
    bob.reply(asked).await.unwrap();
    bob.find(0, |m| is_event(m, "s", "assistant.message") && m.to_string().contains("back")).await;
}

#[tokio::test]
async fn a_tenant_that_may_have_fewer_is_brought_down_to_that() {
    let name = "a_tenant_that_may_have_fewer_is_brought_down_to_that";
    let Some(program) = common::stub_cli(name) else { return };
    let tenants = Tenants::start(&program);
    let mut una = tenants.connect(&tenants.other, "una").await.unwrap();
    una.create("s").await;
    let mut ada = tenants.acme("ada").await;
    ada.create("s").await;
    ada.turn("s", "first").await;
    let mut bob = tenants.acme("bob").await;
    bob.create("s").await;
    bob.prompt("s", "[[hang]]").await.unwrap();
    tenants.until_running(&["acme/ada", "acme/bob", "other/una"]).await;
    tenants.reload("max_processes = 1").await;
    tenants.until_running(&["acme/bob", "other/una"]).await;
    bob.call("session.abort", json!({ "sessionId": "s" })).await.unwrap();
    // The answer to that may come before the turn's end.
    bob.find(0, |m| is_event(m, "s", "session.idle")).await;
    assert_eq!(ada.turn("s", "[[history]]").await, "History: first");
    tenants.until_running(&["acme/ada", "other/una"]).await;
}

#[tokio::test]
async fn a_tenant_that_may_have_fewer_sessions_keeps_to_that_from_the_next_use_on() {
    const SESSIONS: &str = "max_active_sessions = 3";
    let stub = common::stub(1);
    let toml = common::fleet(stub.addrs(), &format!("tenants.default = {{ {SESSIONS} }}"));
    let gateway = Program::start(&toml);
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    for n in 0..4 {
        ada.create(&format!("s-{n}")).await;
        ada.turn(&format!("s-{n}"), "first").await;
    }
    assert_eq!(stub.stats(0).sessions, 3);
    reload(&gateway, &toml.replace(SESSIONS, "max_active_sessions = 1")).await;
    assert_eq!(ada.turn("s-0", "[[history]]").await, "History: first");
    assert_eq!(stub.stats(0).sessions, 1);
}

/// Has another configuration loaded.
async fn reload(gateway: &Program, toml: &str) {
    std::fs::write(gateway.dir.path().join("jetway.toml"), toml).unwrap();
    let from = gateway.log().len();
    gateway.signal(Signal::SIGHUP);
    until("it is loaded", || gateway.log()[from..].contains("configuration loaded again")).await;
}

/// On a real runtime: five users on two processes of their tenant's.
#[tokio::test(flavor = "multi_thread")]
async fn more_users_than_their_tenant_may_have_processes() {
    const USERS: usize = 5;
    let name = "more_users_than_their_tenant_may_have_processes";
    let Some(runtime) = common::runtime(name) else { return };
    let tenants = Tenants::start(&runtime);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let model = model::serve(listener, Ledger::in_memory()).unwrap();
    tenants.reload("max_processes = 2, policy = { allow_addresses = [\"127.0.0.0/8\"] }").await;
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-x" });
    let params = json!({ "sessionId": "chat", "model": "scripted", "provider": provider, "streaming": true });
    let mut clients = Vec::new();
    for n in 0..USERS {
        let mut client = tenants.acme(&format!("user-{n}")).await;
        client.call("session.create", params.clone()).await.unwrap();
        client.turn("chat", &format!("first of {n}")).await;
        clients.push(client);
    }
    for round in 0..2 {
        for (n, client) in clients.iter_mut().enumerate() {
            let heard = client.turn("chat", "history").await;
            assert!(heard.starts_with(&format!("History: first of {n}")), "round {round}: {heard}");
            assert!(client.events("chat", "session.error").is_empty());
            assert!(tenants.running().await.len() <= 2);
        }
    }
    let started = tenants.gateway.metric("jetway_spawns_total{outcome=\"ready\"}").await;
    println!(
        "{USERS} users of a tenant that may have 2 processes: {} turns, {started} processes started",
        3 * USERS
    );
    assert!(started >= (2 * USERS) as f64);
}

#[tokio::test]
async fn a_tenants_idle_sessions_rest_wherever_they_are() {
    let (acme, acmes) = key("acme");
    let (other, others) = key("other");
    let more = format!(
        "auth.keys = [{acmes}, {others}]\ntenants.default = {{ requests_per_second = 100000 }}\n\
         tenants.acme = {{ max_active_sessions = 3 }}"
    );
    let (stub, gateway) = start_fleet(2, &more).await;
    let live = || stub.stats(0).sessions + stub.stats(1).sessions;
    let connect = async |key: &str, user: &str| {
        let mut client = Client::dial(gateway.sdk).await;
        client.call("connect", json!({ "token": format!("{key}:{user}") })).await.unwrap();
        client
    };
    // Of another tenant, used before all others.
    let mut una = connect(&other, "una").await;
    una.create("una").await;
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = connect(&acme, &format!("user-{n}")).await;
        client.create(&format!("s-{n}")).await;
        client.turn(&format!("s-{n}"), &format!("first of {n}")).await;
        clients.push(client);
        assert!(live() <= 4, "{} are live", live());
    }
    let made = stub.received();
    let on = |server| made.iter().any(|r| r.server == server && r.method == "session.create");
    assert!(on(0) && on(1), "they are on both servers");
    for round in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            let said = client.turn(&format!("s-{n}"), "[[history]]").await;
            assert!(said.starts_with(&format!("History: first of {n}")), "round {round}: {said}");
            assert!(live() <= 4, "{} are live", live());
        }
    }
    // With all three at work no other is to be had; the other tenant goes on.
    for (n, prompt) in [(0, "[[hang]]"), (1, "[[permission]]"), (2, "[[userinput]]")] {
        clients[n].prompt(&format!("s-{n}"), prompt).await.unwrap();
    }
    let error = clients[3].prompt("s-3", "x").await.unwrap_err();
    let limit = (&error["code"], &error["data"]["limit"]);
    assert_eq!(limit, (&json!(-32014), &json!("tenant_max_active_sessions")));
    assert!(error["data"]["retryAfterMs"].as_u64() > Some(0), "{error}");
    una.create("una-2").await;
    assert_eq!(una.turn("una", "hello").await, "You said: hello");
    let from = clients[0].seen.len();
    clients[0].call("session.abort", json!({ "sessionId": "s-0" })).await.unwrap();
    clients[0].find(from, |m| is_event(m, "s-0", "session.idle")).await;
    assert!(clients[3].turn("s-3", "[[history]]").await.starts_with("History: first of 3"));
    let entries = stub.ledger().entries();
    let rested = |s: &str| entries.iter().any(|e| e.event == Event::Close && e.session.starts_with(s));
    assert!(rested("s-") && !rested("una"), "only its own");
    let lost: Vec<_> = entries.iter().filter(|e| e.event == Event::Lost).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let found = stub.ledger().findings();
    assert_eq!((found.forks, found.repeated, found.recreated), (vec![], vec![], vec![]));
}
