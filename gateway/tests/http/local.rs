//! A session's limits and files where CLI processes are Jetway's own, with the real runtime.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jetway_loadtest::model::{self, Ledger};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::common::{Gateway, client::Client, http::Http, per_user, program, runtime, start, with_http};

/// The longest that a process may take to be stopped, or held to another limit, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    gateway: Gateway,
    ada: Http,
    _model: model::Handle,
    state: TempDir,
}

async fn scene(test: &str) -> Option<Scene> {
    let runtime = runtime(test)?;
    let state = tempfile::tempdir().unwrap();
    let model = model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Ledger::in_memory()).unwrap();
    let directory = state.path().join("directory.db");
    let more = format!(
        "directory.path = {directory:?}\n[tenants.default]\nuser_share = \"100%\"\n\
         [tenants.default.provider]\nbase_url = \"{}\"\nmodel = \"scripted\"\n",
        model.base_url()
    );
    let gateway = start(&with_http(&per_user(&runtime, &state.path().join("users"), &more))).await;
    let ada = Http::user(&gateway, "ada");
    Some(Scene { gateway, ada, _model: model, state })
}

impl Scene {
    fn home(&self) -> PathBuf {
        self.state.path().canonicalize().unwrap().join("users/local/ada")
    }

    async fn create(&self, config: Value) -> Value {
        let made =
            self.ada.post("/api/v1/sessions", json!({ "permissions": "approve", "config": config })).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()
    }

    async fn session(&self, id: &str) -> Value {
        self.ada.get(&format!("/api/v1/sessions/{id}")).await.json()
    }

    async fn delete(&self, id: &str, query: &str) {
        assert_eq!(self.ada.delete(&format!("/api/v1/sessions/{id}{query}")).await.status, 204);
    }

    /// What is written in a file of the process's control group, of the version that is here; `None` without one.
    async fn controlled(&self, limit: Limit) -> Option<String> {
        let (_, status) = program::get(self.gateway.admin, "/admin/v1/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        let pid = status["servers"][0]["pid"].as_u64()?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let (controller, one, two) = match limit {
            Limit::Memory => ("memory", "memory.limit_in_bytes", "memory.max"),
            Limit::Cpu => ("cpu", "cpu.cfs_quota_us", "cpu.max"),
        };
        let group = |of: &str| groups.lines().find_map(|line| Some(line.split_once(of)?.1.to_owned()));
        let ours = |group: &String| group.contains("jetway-");
        let top = Path::new("/sys/fs/cgroup");
        let file = match group(&format!(":{controller}:")).filter(ours) {
            Some(group) => top.join(controller).join(group.trim_start_matches('/')).join(one),
            None => top.join(group("0::").filter(ours)?.trim_start_matches('/')).join(two),
        };
        Some(std::fs::read_to_string(file).unwrap().trim().to_owned())
    }

    async fn until_controlled(&self, limit: Limit, values: [&str; 2]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = self.controlled(limit).await;
            if is.as_deref().is_some_and(|is| values.contains(&is)) {
                return;
            }
            assert!(Instant::now() < deadline, "{limit:?} is {is:?}, none of {values:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_memory(&self, bytes: u64) {
        let bytes = bytes.to_string();
        self.until_controlled(Limit::Memory, [&bytes; 2]).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    Memory,
    Cpu,
}

/// Half a core, and no limit, as the versions write them.
const HALF: [&str; 2] = ["50000", "50000 100000"];
const ALL: [&str; 2] = ["-1", "max 100000"];

fn id(session: &Value) -> &str {
    session["session_id"].as_str().unwrap()
}

fn bash(command: &str) -> String {
    format!("[[tool bash {}]]", json!({ "command": command, "description": "d" }))
}

/// The tightest of the live sessions' limits holds, and goes with its session.
#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_while_their_session_is_live() {
    const TEST: &str = "limits_hold_while_their_session_is_live";
    let Some(scene) = scene(TEST).await else { return };
    let one = scene.create(json!({ "memory_limit": "512Mi", "cpu_limit": "500m" })).await;
    if scene.controlled(Limit::Memory).await.is_none() {
        return eprintln!("SKIPPED {TEST}: no control groups may be made here");
    }
    scene.until_memory(512 << 20).await;
    scene.until_controlled(Limit::Cpu, HALF).await;
    assert_eq!(one["warnings"], Value::Null);
    let resources = scene.session(id(&one)).await["resources"].clone();
    assert!(resources["memory_bytes"].as_u64().unwrap() > 1 << 20, "{resources}");
    assert!(resources["cpu_seconds"].as_f64().unwrap() > 0.0, "{resources}");

    scene.create(json!({})).await;
    let tight = scene.create(json!({ "memory_limit": "300Mi", "cpu_limit": "2" })).await;
    scene.until_memory(300 << 20).await;
    scene.until_controlled(Limit::Cpu, HALF).await;
    scene.delete(id(&tight), "").await;
    scene.until_memory(512 << 20).await;
    scene.delete(id(&one), "").await;
    scene.until_memory(4_u64 << 30).await;
    scene.until_controlled(Limit::Cpu, ALL).await;

    let tiny = scene.create(json!({ "memory_limit": "1Mi", "pvc_storage_size": "1Gi" })).await;
    let warnings = [
        "config.memory_limit counts as 128Mi: a CLI server needs as much",
        "config.pvc_storage_size has no effect without config.pvc_enabled",
    ];
    assert_eq!(tiny["warnings"], json!(warnings));
}

/// Who goes beyond a session's limit is stopped; its session has failed, and runs again with its next turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_beyond_its_limit_fails() {
    const TEST: &str = "a_session_beyond_its_limit_fails";
    let Some(scene) = scene(TEST).await else { return };
    let hog = scene.create(json!({ "memory_limit": "256Mi" })).await;
    if scene.controlled(Limit::Memory).await.is_none() {
        return eprintln!("SKIPPED {TEST}: no control groups may be made here");
    }
    let full = scene.create(json!({ "pvc_enabled": true, "pvc_storage_size": "2Mi" })).await;
    assert_eq!(scene.ada.ask(id(&hog), "hello").await, "You said: hello");
    for (session, too_much, reason) in [
        // A tail of what has no lines is all of it.
        (&hog, "head -c 1G /dev/zero | tail; sleep 60", "memory_limit"),
        (&full, "head -c 8M /dev/zero > big; sync big; sleep 60", "disk_limit"),
    ] {
        let messages = format!("/api/v1/sessions/{}/messages", id(session));
        let lost = scene.ada.post(&messages, json!({ "prompt": bash(too_much) })).await;
        lost.problem(502, "turn-indeterminate");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let session = scene.session(id(session)).await;
            if session["status"] == "failed" {
                assert_eq!(session["reason"], reason, "{session}");
                assert!(session["ended_at"].is_string());
                break;
            }
            assert!(Instant::now() < deadline, "{session}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _ = std::fs::remove_file(Path::new(full["workspace"].as_str().unwrap()).join("big"));
        assert_eq!(scene.ada.ask(id(session), "again").await, "You said: again");
        let again = scene.session(id(session)).await;
        assert_eq!((&again["status"], &again["reason"]), (&json!("running"), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_stays_or_goes_with_its_session() {
    let Some(scene) = scene("a_workspace_stays_or_goes_with_its_session").await else { return };
    let make = async |name: &str, durable: bool| {
        let wish =
            json!({ "session_id": name, "permissions": "approve", "config": { "pvc_enabled": durable } });
        let made = scene.ada.post("/api/v1/sessions", wish).await;
        assert_eq!(made.status, 201, "{}", made.text);
        PathBuf::from(made.json()["workspace"].as_str().unwrap())
    };
    let path = make("kept", true).await;
    assert_eq!(path, scene.home().join("workspaces/kept"));
    scene.ada.ask("kept", &bash("pwd > where; head -c 100000 /dev/zero > big")).await;
    assert_eq!(std::fs::read_to_string(path.join("where")).unwrap().trim(), path.to_str().unwrap());
    assert!(scene.session("kept").await["resources"]["workspace_bytes"].as_u64().unwrap() >= 100_000);

    // It outlives its session, and is there for the next one of that name.
    scene.delete("kept", "?delete_pvc=false").await;
    let record = scene.session("kept").await;
    assert_eq!((&record["status"], &record["workspace"]), (&json!("terminated"), &json!(path)));
    assert!(make("kept", true).await.join("where").exists());
    scene.delete("kept", "").await;
    assert!(!path.exists());
    assert_eq!(scene.session("kept").await["workspace"], Value::Null);

    // One that goes with its session does so whatever is asked, and whoever ends it.
    let path = make("brief", false).await;
    scene.ada.ask("brief", &bash("touch here")).await;
    assert!(path.join("here").exists());
    scene.delete("brief", "?delete_pvc=false").await;
    assert!(!path.exists());
    let path = make("brief", false).await;
    assert_eq!(path.read_dir().unwrap().count(), 0);
    let mut sdk = Client::hello(scene.gateway.sdk, "ada").await;
    sdk.call("session.delete", json!({ "sessionId": "brief" })).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while path.exists() {
        assert!(Instant::now() < deadline, "its files stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let both = json!({ "working_directory": "/tmp", "config": { "pvc_enabled": true } });
    let refused = scene.ada.post("/api/v1/sessions", both).await.problem(409, "conflict");
    assert_eq!(refused["field"], "working_directory");
    // Without a word they all work in one place, as ever.
    let plain = scene.create(json!({})).await;
    assert_eq!(plain["workspace"], Value::Null);
    scene.ada.ask(id(&plain), &bash("touch shared")).await;
    assert!(scene.home().join("workspace/shared").exists());
}
