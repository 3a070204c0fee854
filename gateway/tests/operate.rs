//! What operators see and do: `jetway status`, `drain`, `undrain`, and who may.

mod common;

use std::{net::SocketAddr, process::Output, time::Duration};

use common::{
    PATIENCE,
    client::{Client, is_event},
    program::{Program, command},
    stub,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Runs a command against that gateway.
fn jetway(admin: SocketAddr, args: &[&str]) -> Output {
    command().args(args).args(["--admin", &format!("http://{admin}")]).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a command printed as JSON.
fn json_of(admin: SocketAddr, args: &[&str]) -> Value {
    let out = jetway(admin, &[args, &["--json"]].concat());
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn row<'a>(page: &'a Value, list: &str, key: &str, value: &str) -> &'a Value {
    let rows = page[list].as_array().unwrap();
    rows.iter().find(|row| row[key] == value).unwrap_or_else(|| panic!("no {value} in {rows:#?}"))
}

/// Asks until `holds` of a server's row.
async fn until_server(admin: SocketAddr, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let page = json_of(admin, &["status"]);
        let server = row(&page, "servers", "id", id);
        if holds(server) {
            return server.clone();
        }
        assert!(std::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {server:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn status_tells_of_servers_users_and_sessions() {
    let stub = stub(2);
    let gateway = Program::start(&common::fleet(stub.addrs(), ""));
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("done").await;
    ada.turn("done", "hello").await;
    ada.create("works").await;
    ada.prompt("works", "[[say so]] [[hang]]").await.unwrap();
    ada.find(0, |m| is_event(m, "works", "assistant.message_delta")).await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("asks").await;
    bob.prompt("asks", "[[userinput]]").await.unwrap();
    bob.find(0, |m| m["method"] == "userInput.request").await;

    let page = json_of(gateway.admin, &["status"]);
    assert_eq!((&page["state"], &page["mode"]), (&json!("serving"), &json!("fleet")));
    let totals = &page["totals"];
    assert_eq!((&totals["servers"]["up"], &totals["servers"]["down"]), (&json!(2), &json!(0)));
    let counts =
        ["connections", "users", "sessions", "resting", "turns"].map(|k| totals[k].as_u64().unwrap());
    assert_eq!(counts, [2, 2, 3, 0, 2]);
    let works = row(&page, "sessions", "id", "works");
    assert_eq!((&works["owner"], &works["attached"]), (&json!("local/ada"), &json!(1)));
    assert_eq!(works["turns"].as_array().unwrap().len(), 1);
    assert!(row(&page, "sessions", "id", "done")["lastTurnSeconds"].is_f64());
    let home = row(&page, "servers", "id", works["server"].as_str().unwrap());
    assert!(home["sessions"].as_u64() >= Some(2) && home["turns"].as_u64() >= Some(1), "{home}");
    assert!(home["ageSeconds"].is_f64() && home["version"].is_string(), "{home}");
    let bobs = row(&page, "users", "user", "local/bob");
    assert_eq!((&bobs["sessions"], &bobs["unanswered"]), (&json!(1), &json!(1)));

    let few = json_of(gateway.admin, &["status", "--limit", "1"]);
    assert_eq!(few["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(few["totals"]["sessions"], 3, "totals count all");

    let out = jetway(gateway.admin, &["status"]);
    let page = text(&out.stdout);
    for part in
        ["2 connections of 2 users; 3 sessions attached", "servers (2 up)", "local/ada", "works", "asks"]
    {
        assert!(page.contains(part), "{part} is missing from\n{page}");
    }
    println!("{page}");
}

#[tokio::test]
async fn a_drained_server_takes_nobody_new_and_loses_no_turn() {
    let stub = stub(2);
    let gateway = Program::start(&common::fleet(stub.addrs(), ""));
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("long").await;
    let page = json_of(gateway.admin, &["status"]);
    let home = row(&page, "sessions", "id", "long")["server"].as_str().unwrap().to_owned();
    ada.prompt("long", "[[deltas 20 10 50]]").await.unwrap();

    let drained = json_of(gateway.admin, &["drain", &home]);
    assert_eq!((&drained["state"], &drained["draining"]), (&json!("draining"), &json!("operator")));
    assert_eq!((&drained["sessions"], &drained["turns"]), (&json!(1), &json!(1)));
    // Old and new users alike go to the other one, with what is new.
    ada.create("new").await;
    for n in 0..10 {
        Client::hello(gateway.sdk, &format!("user-{n}")).await.create(&format!("s-{n}")).await;
    }
    let page = json_of(gateway.admin, &["status"]);
    let there = page["sessions"].as_array().unwrap().iter().filter(|s| s["server"] == *home);
    assert_eq!(there.map(|s| s["id"].as_str().unwrap()).collect::<Vec<_>>(), ["long"]);
    ada.find(0, |m| is_event(m, "long", "session.idle")).await;
    assert!(ada.events("long", "session.error").is_empty(), "its turn went on");
    assert_eq!(ada.turn("long", "still here").await, "You said: still here");

    let out = jetway(gateway.admin, &["drain", &home, "--wait", "--timeout", "0"]);
    assert_eq!(out.status.code(), Some(69), "a session without shared state stays: {}", text(&out.stdout));
    assert!(text(&out.stdout).contains("draining: 0 turns, 1 sessions (they stay"), "{}", text(&out.stdout));
    ada.call("session.destroy", json!({ "sessionId": "long" })).await.unwrap();
    let out = jetway(gateway.admin, &["drain", &home, "--wait"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).ends_with("drained: 0 turns, 0 sessions\n"), "{}", text(&out.stdout));

    let back = json_of(gateway.admin, &["undrain", &home]);
    assert_eq!((&back["state"], &back["draining"]), (&json!("up"), &Value::Null));
    let mut ada = Client::hello(gateway.sdk, "ada-again").await;
    ada.create("after").await;
}

#[tokio::test]
async fn a_drained_process_is_replaced_between_turns() {
    let Some(runtime) = common::runtime("a_drained_process_is_replaced_between_turns") else { return };
    let dir = tempfile::tempdir().unwrap();
    let toml = common::per_user(&runtime, &dir.path().join("state"), "");
    let gateway = Program::start_in(dir, &toml);
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.call("ping", json!({})).await.unwrap();
    let before = json_of(gateway.admin, &["status"])["servers"][0].clone();
    assert_eq!((&before["id"], &before["state"]), (&json!("local/ada"), &json!("up")));
    let out = jetway(gateway.admin, &["drain", "local/ada", "--wait"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    ada.call("ping", json!({})).await.unwrap();
    let after = until_server(gateway.admin, "local/ada", "it is up", |s| s["state"] == "up").await;
    assert_ne!(after["pid"], before["pid"]);
    let page = json_of(gateway.admin, &["status"]);
    assert_eq!(page["departed"][0]["why"], "the CLI process was stopped (drained)");
}

#[tokio::test]
async fn who_is_not_there_or_not_known_is_told_clearly() {
    let stub = stub(1);
    let gateway = Program::start(&common::fleet(stub.addrs(), ""));
    let out = jetway(gateway.admin, &["drain", "10.0.0.1:4321"]);
    assert_eq!(out.status.code(), Some(69));
    assert!(text(&out.stderr).contains("there is no server 10.0.0.1:4321"), "{}", text(&out.stderr));
    let (nobody, _kept) = common::deaf_address();
    let out = jetway(nobody, &["status"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(69), ""));
    let told = text(&out.stderr);
    assert!(
        told.contains(&format!("no gateway answers at {nobody}")) && told.contains("jetway serve"),
        "{told}"
    );
    let out = command().args(["status"]).env("JETWAY__LISTEN__ADMIN", "off").output().unwrap();
    assert!(text(&out.stderr).contains("listen.admin is \"off\""), "{}", text(&out.stderr));
}

/// The status of an answer to a request of raw headers.
async fn asked(admin: SocketAddr, request: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.0\r\n{headers}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn operators_have_a_token_or_are_on_this_machine() {
    const TOKEN: &str = "operators-canary-token";
    let stub = stub(1);
    let (server, toml) = (stub.addr(), common::fleet(stub.addrs(), ""));
    let requests = ["GET /admin/v1/status", &format!("POST /admin/v1/drain/{server}")];
    let open = Program::start(&toml);
    for request in requests {
        assert_eq!(asked(open.admin, request, "Host: 127.0.0.1").await, 200, "{request}");
        let foreign = asked(open.admin, request, "Host: 127.0.0.1\r\nOrigin: http://evil.example").await;
        assert_eq!(foreign, 403, "{request} of another site's page");
        assert_eq!(asked(open.admin, request, "Host: evil.example").await, 403, "{request} by rebinding");
    }

    let with_token = format!("admin.token_env = \"OPS_TOKEN\"\n{toml}");
    let env = [("OPS_TOKEN", TOKEN)];
    let closed = Program::start_with(tempfile::tempdir().unwrap(), &with_token, &env);
    let bearer = |token: &str| format!("Host: gw.internal\r\nAuthorization: Bearer {token}");
    for request in requests {
        assert_eq!(asked(closed.admin, request, "Host: 127.0.0.1").await, 401, "{request}");
        for wrong in ["", "x", &TOKEN[1..], &format!("{TOKEN}x")] {
            assert_eq!(asked(closed.admin, request, &bearer(wrong)).await, 401, "{request} {wrong:?}");
        }
        assert_eq!(asked(closed.admin, request, &bearer(TOKEN)).await, 200, "{request}");
    }
    for page in ["/metrics", "/healthz"] {
        assert_eq!(closed.get(page).await.0, 200, "{page} is for probes and scrapers");
    }
    // The command takes the token from the gateway's own configuration.
    let config = closed.dir.path().join("jetway.toml").display().to_string();
    let admin = format!("http://{}", closed.admin);
    let status = |env: &[(&str, &str)]| {
        let args = ["status", "--json", "--config", &config, "--admin", &admin];
        command().args(args).envs(env.iter().copied()).output().unwrap()
    };
    assert_eq!(status(&env).status.code(), Some(0));
    let other = status(&[("OPS_TOKEN", "another-canary-token")]);
    assert_eq!(other.status.code(), Some(69));
    let told = text(&other.stderr);
    assert!(told.contains("the operators' token is wanted") && !told.contains("canary"), "{told}");
    assert!(!closed.log().contains("canary"), "{}", closed.log());
}
