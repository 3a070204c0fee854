//! Which machines a server that others use too may be sent to: none that is not public, however it is written and
//! wherever it stands in the params.

use serde_json::{Value, json};

use crate::{
    common::{
        client::{Client, is_event},
        trap::Trap,
    },
    scene::Scene,
};

/// Ways to write a port of this machine, and machines that only this one's network has.
fn spellings(port: u16) -> Vec<String> {
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "ada@127.0.0.1",
        "example.com@127.0.0.1",
        "127.0.0.1%2f",
        "127。0。0。1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "metadata.google.internal",
    ];
    let mut all: Vec<_> = hosts.iter().map(|host| format!("http://{host}:{port}/v1")).collect();
    all.push(format!("http:\\\\127.0.0.1:{port}/v1"));
    all.push(format!("http:127.0.0.1:{port}/v1"));
    all.push(format!("HTTP://127.0.0.1:{port}"));
    all.push(format!("ws://127.0.0.1:{port}"));
    all
}

/// The places of an address in the params of a call.
fn places(address: &str) -> Vec<(&'static str, Value)> {
    let provider = json!({ "type": "openai", "baseUrl": address, "apiKey": "sk-x" });
    let named = json!([{ "name": "p", "type": "openai", "baseUrl": address, "apiKey": "sk-x" }]);
    let server = |kind: &str| json!({ "m": { "type": kind, "url": address, "tools": ["*"] } });
    let agents = json!([{ "name": "x", "description": "d", "prompt": "p", "mcpServers": server("http") }]);
    let with = |key: &str, value: &Value| json!({ key: value });
    let mut all = Vec::new();
    for method in ["session.create", "session.resume"] {
        all.push((method, with("provider", &provider)));
        all.push((method, with("providers", &named)));
        all.push((method, with("mcpServers", &server("http"))));
        all.push((method, with("mcpServers", &server("sse"))));
        all.push((method, with("customAgents", &agents)));
    }
    all.push(("session.provider.add", with("providers", &named)));
    all
}

async fn with_model(client: &mut Client, base: Value, session: &str, prompt: &str) {
    client.call("session.create", base).await.unwrap();
    let from = client.seen.len();
    client.prompt(session, prompt).await.unwrap();
    let ends = |m: &Value| is_event(m, session, "session.idle") || is_event(m, session, "session.error");
    client.find(from, ends).await;
}

/// Check 28, on a shared server; a redirect and a name that changes its address are the way out's to judge, see
/// `sandbox.rs` and `egress::judge`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_28_machines_that_are_not_public() {
    let Some(scene) = Scene::start("check_28_machines_that_are_not_public").await else { return };
    let trap = Trap::lay();
    // Without a gateway the CLI goes where it is told: so the test can fail.
    let mut direct = scene.runtime.connect().await;
    let mut base = scene.params("direct");
    base["provider"]["baseUrl"] = json!(format!("http://{}/v1", trap.address));
    base["mcpServers"] =
        json!({ "m": { "type": "http", "url": format!("http://{}/", trap.address), "tools": ["*"] } });
    direct.call("session.create", base).await.unwrap();
    direct.prompt("direct", "go").await.unwrap();
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while trap.count() == 0 {
        assert!(std::time::Instant::now() < deadline, "the CLI itself went nowhere");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    direct.call("session.delete", json!({ "sessionId": "direct" })).await.unwrap();
    drop(direct);

    let before = trap.count();
    let mut tried = 0;
    // Not even where the operator allows every method.
    for who in ["eve", "mal"] {
        let mut client = scene.client(who).await;
        let session = format!("of-{who}");
        with_model(&mut client, scene.params(&session), &session, "hello").await;
        for address in spellings(trap.address.port()) {
            for (n, (method, more)) in places(&address).into_iter().enumerate() {
                let id = if method == "session.create" { format!("{session}-{n}") } else { session.clone() };
                let mut params = match method {
                    "session.provider.add" => json!({ "sessionId": id }),
                    _ => scene.params(&id),
                };
                params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                let error = client.call(method, params).await.expect_err(&address);
                let rule = error["data"]["rule"].as_str().unwrap_or_default();
                let known = matches!(rule, "address" | "url" | "unresolved_name")
                    || (rule == "method" && method == "session.provider.add");
                assert!(known && error["code"] == -32012, "{method} {address}: {error}");
                tried += 1;
            }
        }
        client.turn(&session, "whatever connects with the next prompt").await;
    }
    let connections = trap.count() - before;
    println!("CHECK 28: {tried} addresses that are not public, all refused: {connections} connections");
    assert_eq!(connections, 0);
}
