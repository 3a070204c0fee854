//! The audit log: who was denied what, who used which key, what operators did; and nothing that was said.

mod common;

use std::path::Path;

use common::{PATIENCE, client::Client, program::Program, stub, until};
use jetway_config::{ApiKey, limits::AUDIT_DENIALS};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The lines of a file, as far as they are whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The first line that is like `like`, once it is there.
async fn find(path: &Path, like: Value) -> Value {
    let is = |line: &&Value| like.as_object().unwrap().iter().all(|(name, value)| line[name] == *value);
    until(&format!("{like} is written in {}", path.display()), || lines(path).iter().any(|l| is(&l))).await;
    lines(path).iter().find(is).unwrap().clone()
}

async fn connect(jetway: &Program, token: &str) -> Client {
    let mut client = Client::dial(jetway.sdk).await;
    client.call("connect", json!({ "token": token })).await.unwrap();
    client
}

#[tokio::test]
async fn what_happened_is_written_down_and_not_what_was_said() {
    let key = ApiKey::generate();
    let entry = key.entry("acme".parse().unwrap());
    let (id, hash) = (entry.id.to_string(), entry.sha256.to_hex());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let stub = stub(1);
    let more = format!(
        "auth.keys = [{{ id = '{id}', tenant = 'acme', sha256 = '{hash}' }}]\nlog.audit = '{}'\n",
        path.display()
    );
    let toml = common::fleet(stub.addrs(), &more);
    let jetway = Program::start_in(dir, &toml);

    let mut stranger = Client::dial(jetway.sdk).await;
    stranger.call("connect", json!({ "token": "canary-wrong" })).await.unwrap_err();
    let mut ada = connect(&jetway, &format!("{}:ada", key.expose())).await;
    let bob = connect(&jetway, &format!("{}:bob", key.expose())).await;
    let session = ada.create("hers").await;
    ada.turn(&session, "canary-prompt").await;
    let foreign = json!({ "sessionId": "foreign", "prompt": "canary-prompt" });
    ada.call("session.send", foreign).await.unwrap_err();
    let shell = json!({ "sessionId": session, "command": "canary-command" });
    ada.call("session.shell.exec", shell).await.unwrap_err();
    ada.call("no.such", json!({ "x": "canary-param" })).await.unwrap_err();
    ada.call("canary with spaces", json!({})).await.unwrap_err();

    let who = json!({ "tenant": "acme", "user": "ada", "key_id": id, "event": "denied" });
    let with = |more: Value| {
        let mut like = who.clone();
        like.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        like
    };
    let used = find(&path, json!({ "event": "key_used", "key_id": id })).await;
    find(&path, json!({ "event": "denied", "outcome": "unauthenticated" })).await;
    find(
        &path,
        with(json!({ "method": "session.send", "session": "foreign", "outcome": "session_not_found" })),
    )
    .await;
    find(
        &path,
        with(json!({ "method": "session.shell.exec", "rule": "method", "outcome": "method_not_allowed" })),
    )
    .await;
    let unknown = find(&path, with(json!({ "method": "no.such", "outcome": "method_not_allowed" }))).await;
    assert!(unknown["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{unknown}");
    assert!(used["ts"].as_str().unwrap().ends_with('Z'), "{used}");
    // Two connections, one use in this minute.
    assert_eq!(lines(&path).iter().filter(|l| l["event"] == "key_used").count(), 1);

    // Rotated as logrotate does: moved away, and then it is said.
    let old = path.with_extension("1");
    std::fs::rename(&path, &old).unwrap();
    std::fs::write(jetway.dir.path().join("jetway.toml"), toml.replace("acme", "other")).unwrap();
    jetway.signal(Signal::SIGHUP);
    find(&old, json!({ "event": "operated", "method": "reload", "outcome": "changed" })).await;
    find(&old, json!({ "event": "revoked", "user": "ada", "key_id": id })).await;
    let mut stranger = Client::dial(jetway.sdk).await;
    until("the file is opened again", || path.exists()).await;
    stranger.call("connect", json!({ "token": "canary-wrong" })).await.unwrap_err();
    find(&path, json!({ "event": "denied", "outcome": "unauthenticated" })).await;

    let text = std::fs::read_to_string(&old).unwrap() + &std::fs::read_to_string(&path).unwrap();
    let secret = ApiKey::parse(key.expose()).unwrap().1;
    assert!(!text.contains("canary") && !text.contains(secret.expose()) && !text.contains(&hash), "{text}");
    drop(bob);
}

#[tokio::test]
async fn a_flood_is_counted_and_hides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let stub = stub(1);
    let toml = common::fleet(stub.addrs(), &format!("log.audit = '{}'\n", path.display()));
    let mut jetway = Program::start_in(dir, &toml);
    let mut client = Client::hello(jetway.sdk, "ada").await;
    let flood = 2000;
    for n in 0..flood {
        client.send(&json!({ "jsonrpc": "2.0", "id": 1000 + n, "method": "no.such", "params": {} })).await;
    }
    let answered = |seen: &[Value]| seen.iter().filter(|m| m["error"]["code"] == -32012).count() == flood;
    assert!(client.read_until(PATIENCE, answered).await);
    // What operators do has a share of its own.
    jetway.signal(Signal::SIGTERM);
    assert!(jetway.exit(PATIENCE).await.0.success());
    let lines = lines(&path);
    let count = |event: &str| lines.iter().filter(|l| l["event"] == event).count();
    assert_eq!(count("operated"), 1, "{lines:?}");
    let left_out: u64 =
        lines.iter().filter(|l| l["event"] == "left_out").map(|l| l["count"].as_u64().unwrap()).sum();
    assert!(count("denied") >= AUDIT_DENIALS.1 as usize, "{}", count("denied"));
    assert_eq!(count("denied") + left_out as usize, flood, "each is written or counted");
    println!("{flood} denials: {} written, {left_out} counted", count("denied"));
}

#[test]
fn a_log_that_cannot_be_written_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let toml =
        "listen = { sdk = '127.0.0.1:0', http = 'off', admin = 'off' }\nlog.audit = '/nonexistent/audit'";
    std::fs::write(dir.path().join("jetway.toml"), toml).unwrap();
    let out = common::program::command()
        .args(["serve", "--config", "jetway.toml"])
        .current_dir(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{said}");
    assert!(said.contains("log.audit"), "{said}");
}
