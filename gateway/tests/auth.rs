//! Who calls: keys, pinned tokens, anonymous callers; and that no token is ever told on.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE,
    client::Client,
    issuer::{self, Place, Signer},
    program::Program,
    start_fleet,
};
use jetway_config::{ApiKey, KeyHash};
use jetway_loadtest::stub::{Options, Stub};
use serde_json::{Value, json};

/// What a connection says with this token.
async fn connect(client: &mut Client, token: &Value) -> Result<Value, Value> {
    client.call("connect", json!({ "token": token })).await
}

fn pinned(id: &str, user: &str, token: &str) -> String {
    let hash = KeyHash::of(token).to_hex();
    format!("{{ id = \"{id}\", tenant = \"acme\", user = \"{user}\", sha256 = \"{hash}\" }}")
}

/// A new key of the tenant `acme`, and its entry.
fn key() -> (ApiKey, String) {
    let key = ApiKey::generate();
    let entry = key.entry("acme".parse().unwrap());
    let text =
        format!("{{ id = \"{}\", tenant = \"acme\", sha256 = \"{}\" }}", entry.id, entry.sha256.to_hex());
    (key, text)
}

#[tokio::test]
async fn a_wrong_key_may_be_tried_again() {
    let (key, entry) = key();
    let (stub, gateway) = start_fleet(1, &format!("auth.keys = [{entry}]")).await;
    let before = stub.received().len();
    let mut client = Client::dial(gateway.sdk).await;
    let right = key.expose();
    let mut wrong = vec![json!(null), json!(""), json!(7), json!({}), json!("alice"), json!("jw_x_y")];
    // The same id with another secret, cut short, with more, and another's.
    wrong.push(json!(format!(
        "{}{}",
        &right[..right.len() - 1],
        if right.ends_with('a') { "b" } else { "a" }
    )));
    wrong.push(json!(&right[..right.len() - 1]));
    wrong.push(json!(format!("{right}a")));
    wrong.push(json!(ApiKey::generate().expose()));
    wrong.push(json!(format!("{}:alice", ApiKey::generate().expose())));
    wrong.push(json!(format!("{right}:")));
    wrong.push(json!(format!("{right}:a/b")));
    wrong.push(json!(format!("{right}:..")));
    for token in &wrong {
        let outcome = connect(&mut client, token).await;
        // `key:` alone names nobody else: both readings are safe, and neither is anybody else.
        if *token == json!(format!("{right}:")) && outcome.is_ok() {
            client = Client::dial(gateway.sdk).await;
            continue;
        }
        let error = outcome.unwrap_err();
        assert_eq!(error["code"], -32010, "{token}: {error}");
        assert!(!error.to_string().contains(right), "{error}");
    }
    for (method, params) in [
        ("ping", json!({})),
        ("session.list", json!({})),
        ("nope", json!({})),
        ("runtime.shutdown", json!({})),
    ] {
        assert_eq!(client.call(method, params).await.unwrap_err()["code"], -32010, "{method}");
    }
    let reached: Vec<_> = stub
        .received()
        .split_off(before)
        .into_iter()
        .filter(|r| r.method != "ping" && r.method != "connect")
        .collect();
    assert_eq!(reached, []);
    assert_eq!(connect(&mut client, &json!(right)).await.unwrap()["ok"], true);
    client.call("ping", json!({})).await.unwrap();
    // Introduced once, nobody becomes somebody else.
    client.create("mine").await;
    assert_eq!(connect(&mut client, &json!(format!("{right}:other"))).await.unwrap()["ok"], true);
    client.turn("mine", "still me").await;
}

/// A key may act for any user of its tenant; whose session it is depends on the user.
#[tokio::test]
async fn a_key_acts_for_users() {
    let (key, entry) = key();
    let anothers = pinned("fixed", "alice", "any:form at all");
    let (_stub, gateway) = start_fleet(1, &format!("auth.keys = [{entry}, {anothers}]")).await;
    let key = key.expose();
    let mut alice = Client::dial(gateway.sdk).await;
    connect(&mut alice, &json!(format!("{key}:alice"))).await.unwrap();
    alice.create("hers").await;
    for (token, hers) in [
        (format!("{key}:alice"), true),
        ("any:form at all".into(), true),
        ("any:form at all:alice".into(), true),
        (format!("{key}:bob"), false),
        (key.to_owned(), false),
    ] {
        let mut client = Client::dial(gateway.sdk).await;
        connect(&mut client, &json!(token)).await.unwrap();
        let resumed = client.call("session.resume", json!({ "sessionId": "hers" })).await;
        assert_eq!(resumed.is_ok(), hers, "{token}: {resumed:?}");
    }
    for token in ["any:form at all:bob", "any:form", "any:form at all "] {
        let mut client = Client::dial(gateway.sdk).await;
        assert_eq!(connect(&mut client, &json!(token)).await.unwrap_err()["code"], -32010, "{token}");
    }
}

#[tokio::test]
async fn anonymous_callers_are_local_users() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut nobody = Client::dial(gateway.sdk).await;
    nobody.call("connect", json!({})).await.unwrap();
    nobody.create("local-session").await;
    for (token, theirs) in [(json!("local"), true), (json!(""), true), (json!("alice"), false)] {
        let mut client = Client::dial(gateway.sdk).await;
        connect(&mut client, &token).await.unwrap();
        let resumed = client.call("session.resume", json!({ "sessionId": "local-session" })).await;
        assert_eq!(resumed.is_ok(), theirs, "{token}");
    }
    // A secret of any kind is not a name.
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";
    for token in [ApiKey::generate().expose(), jwt, "a/b", "..", "a b", &"x".repeat(129)] {
        let mut client = Client::dial(gateway.sdk).await;
        assert_eq!(connect(&mut client, &json!(token)).await.unwrap_err()["code"], -32010, "{token}");
        connect(&mut client, &json!("alice")).await.unwrap();
    }
    // As with a CLI without a token, the first request need not be `connect`.
    let mut client = Client::dial(gateway.sdk).await;
    client.call("ping", json!({})).await.unwrap();
    client.call("session.resume", json!({ "sessionId": "local-session" })).await.unwrap();
}

/// Wrong tokens do not prolong what a stranger may take, nor do they come without end.
#[tokio::test]
async fn a_stranger_has_a_deadline_and_a_budget() {
    let (_, entry) = key();
    let more = format!("auth.keys = [{entry}]\nlimits.handshake_timeout = \"1s\"");
    let (_stub, gateway) = start_fleet(1, &more).await;
    let mut client = Client::dial(gateway.sdk).await;
    let since = Instant::now();
    let mut tries = 0;
    while !client.closes(Duration::from_millis(50)).await && since.elapsed() < PATIENCE {
        client.request("connect", json!({ "token": "wrong" })).await;
        tries += 1;
    }
    let took = since.elapsed();
    println!("a stranger was closed after {took:.2?} and {tries} wrong tokens");
    assert!(client.closed && took > Duration::from_millis(900) && took < Duration::from_secs(2), "{took:?}");
    assert!(client.seen.iter().all(|m| m["error"]["code"] == -32010));

    let mut client = Client::dial(gateway.sdk).await;
    let token = "x".repeat(3000);
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "connect", "params": { "token": token } });
    let frame = common::client::framed(&request.to_string());
    let mut sent = 0;
    while client.send_raw(&frame).await.is_ok() && !client.closes(Duration::from_millis(5)).await {
        sent += frame.len();
        assert!(sent < 1 << 20, "{sent} bytes of wrong tokens are read");
    }
    println!("a stranger was closed after {sent} bytes of wrong tokens");
}

/// Check 31's slice: canaries in tokens, and everything that Jetway says.
#[tokio::test]
async fn check_31_tokens_are_not_told_on() {
    const CLI_TOKEN: &str = "canary-of-the-cli";
    let stub = Stub::start(Options { token: Some(CLI_TOKEN.into()), ..Options::default() }).unwrap();
    let (key, entry) = key();
    let signer = Signer::ec();
    let place = Place::open(&[signer.jwk("k")]).await;
    let header = json!({ "alg": "ES256", "kid": "k" });
    let claims = issuer::claims_with("me", json!({ "note": "canary-claim" }));
    let canaries = [
        key.expose().to_owned(),
        "canary-pinned:token".into(),
        signer.sign(&header, &claims),
        "canary-wrong-token".into(),
        signer.sign(&header, &issuer::claims_with("me", json!({ "aud": "canary-audience" }))),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (audit, directory) = (dir.path().join("audit.jsonl"), dir.path().join("kept/directory.sqlite"));
    let more = format!(
        "auth.keys = [{entry}, {}]\n{}\nlog = {{ level = \"trace\", audit = \"{}\" }}\ndirectory.path = \"{}\"",
        pinned("p", "me", &canaries[1]),
        place.auth(&["ES256"]),
        audit.display(),
        directory.display()
    );
    let toml = common::fleet(stub.addrs(), &more) + "token_env = \"CLI_TOKEN\"\n";
    let jetway = Program::start_with(dir, &toml, &[("CLI_TOKEN", CLI_TOKEN)]);
    let mut said = Vec::new();
    for (n, token) in canaries.iter().enumerate() {
        let mut client = Client::dial(jetway.sdk).await;
        if connect(&mut client, &json!(token)).await.is_ok() {
            let provider =
                json!({ "type": "openai", "baseUrl": "https://example.com/v1", "apiKey": "canary-byok-key" });
            let byok = json!({ "sessionId": format!("b-{n}"), "model": "stub", "provider": provider });
            // Whether such a machine may be named or not.
            let _ = client.call("session.create", byok).await;
            let github =
                json!({ "sessionId": format!("g-{n}"), "model": "stub", "gitHubToken": "canary-github" });
            client.call("session.create", github).await.unwrap();
            client.create(&format!("s-{n}")).await;
            client.turn(&format!("s-{n}"), "canary-prompt").await;
            client.call("nope", json!({ "token": token })).await.unwrap_err();
            client
                .call("session.send", json!({ "sessionId": "foreign", "prompt": "canary-prompt" }))
                .await
                .unwrap_err();
            let id = client.request("session.send", json!({ "sessionId": "x", "prompt": token })).await;
            client.reply(id).await.unwrap_err();
        } else {
            assert!(n >= 3, "only the wrong ones are wrong: {n}");
        }
        // Answers and events may repeat a prompt to whoever wrote it, and nothing else.
        said.extend(client.raw.iter().filter(|m| !m.contains("session.event")).cloned());
        client.send_text(&format!("{{\"token\":\"{token}\"")).await.unwrap();
        client.send_raw(format!("{token}\r\n\r\n").as_bytes()).await.unwrap();
        assert!(client.closes(PATIENCE).await, "that is no frame");
    }
    let (_, metrics) = jetway.get("/metrics").await;
    let (_, ready) = jetway.get("/readyz").await;
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", jetway.pid())).unwrap();
    common::until("logged", || jetway.log().matches("connection ended").count() == canaries.len()).await;
    let files = std::fs::read_dir(directory.parent().unwrap()).unwrap().flatten();
    let kept: Vec<u8> = files.flat_map(|file| std::fs::read(file.path()).unwrap()).collect();
    assert!(String::from_utf8_lossy(&kept).contains("s-0"), "that is where sessions are kept");
    common::until("denials are written down", || {
        std::fs::read_to_string(&audit).is_ok_and(|text| text.contains("session_not_found"))
    })
    .await;
    let secrets = canaries.iter().map(String::as_str).chain([CLI_TOKEN, "canary"]);
    let places = [
        ("log", jetway.log()),
        ("metrics", metrics),
        ("audit log", std::fs::read_to_string(&audit).unwrap()),
        ("directory", String::from_utf8_lossy(&kept).into_owned()),
        ("readyz", ready),
        ("answers", said.join("\n")),
        ("command line", String::from_utf8_lossy(&cmdline).into_owned()),
    ];
    let mut found = Vec::new();
    for secret in secrets {
        found.extend(
            places.iter().filter(|(_, text)| text.contains(secret)).map(|(place, _)| (*place, secret)),
        );
    }
    let connects: Vec<Value> = stub
        .received()
        .iter()
        .filter(|r| r.method == "connect")
        .map(|r| serde_json::from_str(&r.params).unwrap())
        .collect();
    println!(
        "CHECK 31: {} canaries, {} bytes of log at level trace: found {} times; {} connects at the CLI, all with its own token",
        canaries.len() + 2,
        places[0].1.len(),
        found.len(),
        connects.len()
    );
    assert!(connects.len() >= 3 && connects.iter().all(|c| c["token"] == CLI_TOKEN), "{connects:?}");
    assert_eq!(found, []);
    let told_github: Vec<_> =
        stub.received().into_iter().filter(|r| r.params.contains("canary-github")).collect();
    assert_eq!(told_github.len(), 3, "a GitHub token goes to the CLI once");
    assert!(
        told_github.iter().all(|r| r.method == "session.create" && r.params.contains("\"g-")),
        "with its session"
    );
    assert!(places[0].1.contains("\"tenant\":\"acme\""), "who it was is logged");
}
