//! The admin port: health, readiness and metrics.
//!
//! | family | kind | labels | when |
//! |---|---|---|---|
//! | `jetway_connections` | gauge | `listener` | always |
//! | `jetway_connections_total` | counter | `listener`, `end` | always |
//! | `jetway_calls_total` | counter | `outcome` | always |
//! | `jetway_added_latency_seconds` | histogram | | always |
//! | `jetway_sessions_attached` | gauge | | always |
//! | `jetway_turns_running` | gauge | | always |
//! | `jetway_turns_total` | counter | `outcome` | always |
//! | `jetway_turn_seconds` | histogram | `outcome` | always |
//! | `jetway_first_delta_seconds` | histogram | | always |
//! | `jetway_bytes_total` | counter | `direction` | always |
//! | `jetway_messages_filtered_total` | counter | | always |
//! | `jetway_bad_frames_total` | counter | `kind` | always |
//! | `jetway_draining` | gauge | | draining |
//! | `jetway_backends` | gauge | `state` | always |
//! | `jetway_draining_sessions` | gauge | | always |
//! | `jetway_lock_lost_total` | counter | `cause` | always |
//! | `jetway_backend_up` | gauge | `backend` | always |
//! | `jetway_processes` | gauge | | processes |
//! | `jetway_process_stops_total` | counter | `reason` | processes |
//! | `jetway_spawns_total` | counter | `outcome` | processes |
//! | `jetway_spawn_seconds` | histogram | | processes |
//! | `jetway_sandbox` | gauge | `level` | processes |
//! | `jetway_egress_total` | counter | `outcome` | sandbox |
//! | `jetway_processes_memory_bytes` | gauge | | budget |
//! | `jetway_processes_memory_budget_bytes` | gauge | | budget |
//! | `jetway_lock_wait_seconds` | histogram | `level`, `outcome` | locks |
//! | `jetway_lock_hold_seconds` | histogram | `level` | locks |
//! | `jetway_lock_waiting` | gauge | `level` | locks |
//! | `jetway_lock_held` | gauge | `level` | locks |
//! | `jetway_lock_lost_total` | counter | `cause` | always |
//! | `jetway_lock_watchdog_lateness_seconds` | histogram | | locks |
//! | `jetway_evictions_total` | counter | `reason` | eviction |
//! | `jetway_resumes_total` | counter | `outcome` | eviction |
//! | `jetway_resume_seconds` | histogram | | eviction |
//! | `jetway_lock_lost_total` | counter | `cause` | always |
//! | `jetway_config_reloads_total` | counter | `outcome` | reload |
//! | `jetway_tls_handshakes_total` | counter | `listener`, `outcome` | tls |
//! | `jetway_jwks_fetches_total` | counter | `outcome` | tokens |
//! | `jetway_lock_wait_seconds` | histogram | `level`, `outcome` | shared sessions |
//! | `jetway_lock_hold_seconds` | histogram | `level` | shared sessions |
//! | `jetway_lock_held` | gauge | `level` | shared sessions |
//! | `jetway_lock_waiting` | gauge | `level` | shared sessions |
//! | `jetway_lock_watchdog_lateness_seconds` | histogram | | shared sessions |

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{client::Client, program, program::Program, start_fleet, stub};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The families of a page and, for each, its kind and the names of its labels.
fn families(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut all: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in page.lines().filter(|l| !l.is_empty()) {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            all.entry(name.into()).or_default().0 = kind.into();
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s).filter(|n| all.contains_key(*n)));
            let labels = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|l| l.split_once('='))
                .map(|(n, _)| n.to_owned());
            all.entry(family.unwrap_or(name).into()).or_default().1.extend(labels.filter(|l| l != "le"));
        }
    }
    all
}

/// The rows of the table above of that `when`, or all.
fn documented(when: Option<&str>) -> Vec<(String, String, BTreeSet<String>)> {
    let rows = include_str!("admin.rs").lines().filter_map(|line| line.strip_prefix("//! | `jetway_"));
    let rows = rows.filter(|row| when.is_none_or(|when| row.ends_with(&format!("| {when} |"))));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (format!("jetway_{}", cells[0].trim_end_matches('`')), cells[1].to_owned(), labels)
    })
    .collect()
}

#[tokio::test]
async fn metrics_are_there_and_tell_of_nobody() {
    let stub = stub(1);
    let jetway = Program::start(&common::fleet(stub.addrs(), ""));
    // Somebody who is there all the time, of whose sessions nobody else hears.
    let bystander = Client::hello(jetway.sdk, "bystander-canary").await;
    for user in ["user-canary", "other-canary"] {
        let mut client = Client::hello(jetway.sdk, user).await;
        let session = format!("session-canary-{user}");
        client.create(&session).await;
        client.turn(&session, "prompt-canary").await;
        client.turn(&session, "[[error]] prompt-canary").await;
        client.prompt(&session, "[[hang]]").await.unwrap();
        client.call("session.abort", json!({ "sessionId": session })).await.unwrap();
        client.call("session.send", json!({ "sessionId": "foreign-canary" })).await.unwrap_err();
        client.call("method.canary", json!({})).await.unwrap_err();
        client.call("user.settings.set", json!({})).await.unwrap_err();
        client.send_text("canary").await.unwrap();
        client.call("ping", json!({})).await.unwrap();
    }
    Client::hello(jetway.sdk, "third").await.send_raw(b"GET /canary HTTP/1.1\r\n\r\n").await.unwrap();
    drop(bystander);
    for _ in 0..500 {
        if jetway.metric("jetway_connections{listener=\"sdk\"}").await == 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (status, page) = jetway.get("/metrics").await;
    assert_eq!(status, 200);
    let all = families(&page);
    for (name, kind, labels) in documented(Some("always")) {
        let got = all.get(&name).unwrap_or_else(|| panic!("{name} is missing from\n{page}"));
        assert_eq!(*got, (kind, labels), "{name}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} is not described");
    }
    let known: Vec<_> = documented(None).into_iter().map(|(name, ..)| name).collect();
    let unknown: Vec<_> = all.keys().filter(|name| !known.contains(name)).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "not in the table above");
    assert!(!page.contains("canary"), "{page}");
    for (metric, value) in [
        ("jetway_turns_total{outcome=\"completed\"}", 2.0),
        ("jetway_turns_total{outcome=\"failed\"}", 2.0),
        ("jetway_turns_total{outcome=\"aborted\"}", 2.0),
        ("jetway_turns_running", 0.0),
        ("jetway_sessions_attached", 0.0),
        ("jetway_bad_frames_total{kind=\"framing\"}", 1.0),
        ("jetway_bad_frames_total{kind=\"message\"}", 2.0),
        ("jetway_calls_total{outcome=\"session_not_found\"}", 2.0),
        ("jetway_calls_total{outcome=\"method_not_allowed\"}", 4.0),
        ("jetway_connections_total{listener=\"sdk\",end=\"bad_frame\"}", 1.0),
        ("jetway_connections_total{listener=\"sdk\",end=\"closed\"}", 3.0),
    ] {
        assert_eq!(jetway.metric(metric).await, value, "{metric} in\n{page}");
    }
    println!("metrics: {} families, no name of anybody in {} bytes", all.len(), page.len());
}

#[tokio::test]
async fn metrics_of_processes() {
    let Some(runtime) = common::runtime("metrics_of_processes") else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = common::per_user(&runtime, &dir.path().join("state"), "");
    let jetway = Program::start_in(dir, &toml);
    let mut client = Client::hello(jetway.sdk, "user-canary").await;
    client.call("ping", json!({})).await.unwrap();
    let pids = program::bearing(&format!("{}/state", jetway.dir.path().display()));
    for pid in pids {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    for _ in 0..500 {
        if jetway.metric("jetway_processes").await == 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (_, page) = jetway.get("/metrics").await;
    let all = families(&page);
    for (name, kind, labels) in documented(Some("processes")) {
        assert_eq!(all.get(&name), Some(&(kind, labels)), "{name} in\n{page}");
    }
    assert!(!page.contains("canary"), "{page}");
}

#[tokio::test]
async fn ready_while_a_server_is_up() {
    let (stub, gateway) = start_fleet(2, "").await;
    let get = async |path| program::get(gateway.admin, path).await;
    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz").await, (200, json!({ "ready": true, "reasons": [] }).to_string()));
    let down = async |n: usize| {
        for _ in 0..500 {
            let (status, body) = get("/readyz").await;
            let body: Value = serde_json::from_str(&body).unwrap();
            if body["reasons"].as_array().unwrap().len() == n {
                return (status, body);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{n} servers should be down");
    };
    stub.crash(0);
    let (status, body) = down(1).await;
    assert_eq!((status, &body["ready"]), (200, &json!(true)), "the other one takes everybody: {body}");
    stub.crash(1);
    let (status, body) = down(2).await;
    assert_eq!((status, &body["ready"]), (503, &json!(false)), "{body}");
    assert_eq!(get("/healthz").await.0, 200, "it is not Jetway that is ill");
    stub.restart(1).unwrap();
    assert_eq!(down(1).await.0, 200);
}

/// What is no request for a page is answered or closed, and the port goes on.
#[tokio::test]
async fn bad_requests() {
    let (_stub, gateway) = start_fleet(1, "").await;
    for (request, status) in [
        ("GET /nope HTTP/1.0\r\n\r\n", "404"),
        ("GET /../etc/passwd HTTP/1.0\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.0\r\nContent-Length: 10000000000\r\n\r\n", "405"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"),
        ("Content-Length: 2\r\n\r\n{}", "400"),
        ("\0\0\0\0\r\n\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(common::PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&String::from_utf8_lossy(&answer)[9..], status, "{request:?}");
    }
    let header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    let _ = stream.write_all(header.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(common::PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed");
    assert_eq!(program::get(gateway.admin, "/healthz").await.0, 200);
}
