//! Whatever a client and a CLI server say to each other arrives, in order, at the right one, and nowhere else.

mod common;

use std::collections::HashSet;

use common::{client::Client, start, start_fleet, stub, until};
use jetway_config::keys::KeyHash;
use jetway_loadtest::stub::{Options, Stub};
use jetway_wire::catalogue::{self, Grant, Scope, Surface};
use serde_json::{Value, json};

/// One tenant, whose users may call everything.
fn full() -> String {
    format!("auth.keys = [{}]\ntenants.acme.surface = \"full\"", pinned("acme"))
}

/// The entry for the pinned token `<tenant>-token`.
fn pinned(tenant: &str) -> String {
    let hash = KeyHash::of(&format!("{tenant}-token")).to_hex();
    format!("{{ id = \"{tenant}\", tenant = \"{tenant}\", user = \"me\", sha256 = \"{hash}\" }}")
}

/// Sends `text` and returns the bytes of the reply, its id replaced.
async fn ask_raw(client: &mut Client, id: &str, method: &str, params: &Value) -> String {
    let from = client.seen.len();
    let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
    client.send_text(&request).await.unwrap();
    let wanted: Value = serde_json::from_str(id).unwrap();
    client.find_raw(from, |m| m["id"] == wanted && m["method"].is_null()).await.to_owned()
}

#[tokio::test]
async fn ids_are_each_clients_own() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    for id in ["7", "0", "-3", "9007199254740992", "\"7\"", "\"a b\"", "\"\\u0041\""] {
        let ping = |who: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping","params":{{"message":"{who}"}}}}"#)
        };
        // Both are under way at once.
        alice.send_text(&ping("alice")).await.unwrap();
        bob.send_text(&ping("bob")).await.unwrap();
        for (client, who) in [(&mut alice, "alice"), (&mut bob, "bob")] {
            client.next().await.unwrap();
            let (last, raw) = (client.seen.last().unwrap(), client.raw.last().unwrap());
            assert_eq!(last["result"]["message"], format!("pong: {who}"));
            assert!(raw.contains(&format!("\"id\":{id},")), "{raw} echoes {id} as it was spelled");
        }
    }
}

/// One request after the other, without waiting: each reply finds its own.
#[tokio::test]
async fn many_requests_in_flight() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    let mut ids = Vec::new();
    for n in 0..500 {
        ids.push(alice.request("ping", json!({ "message": n.to_string() })).await);
    }
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(alice.reply(id).await.unwrap()["message"], format!("pong: {n}"));
    }
}

#[tokio::test]
async fn answers_to_nothing_go_nowhere() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    for id in ["0", "1", "-1", "\"x\"", "9007199254740992"] {
        for outcome in ["\"result\":1", "\"error\":{\"code\":1,\"message\":\"m\"}"] {
            alice.send_text(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{outcome}}}")).await.unwrap();
        }
    }
    alice.call("ping", json!({})).await.unwrap();
    assert_eq!(stub.ledger().findings().malformed, []);
}

/// The same conversation, directly and through the gateway: the same messages in the same order.
#[tokio::test]
async fn order_is_kept() {
    async fn talk(address: std::net::SocketAddr, token: Option<&str>) -> Vec<String> {
        let mut client = Client::dial(address).await;
        client.call("connect", token.map_or(json!({}), |t| json!({ "token": t }))).await.unwrap();
        client.create("s").await;
        client.turn("s", "[[deltas 300 10 0]]").await;
        client.turn("s", "[[say one two three]] [[error]]").await;
        client.call("session.detach", json!({ "sessionId": "s" })).await.unwrap();
        client.call("session.resume", json!({ "sessionId": "s" })).await.unwrap();
        client.turn("s", "[[history]]").await;
        let spell = |m: &Value| {
            let (event, text) = (&m["params"]["event"], &m["params"]["event"]["data"]["deltaContent"]);
            format!("{} {} {} {} {text}", m["id"], m["method"], m["params"]["type"], event["type"])
        };
        client.seen.iter().map(spell).collect()
    }
    let directly = talk(stub(1).addr(), None).await;
    let (_stub, gateway) = start_fleet(1, "").await;
    let through = talk(gateway.sdk, Some("alice")).await;
    assert!(directly.len() > 350, "{}", directly.len());
    assert_eq!(through, directly);
}

#[tokio::test]
async fn a_session_without_an_id_gets_one() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    let created = alice.call("session.create", json!({ "model": "stub" })).await.unwrap();
    let id = created["sessionId"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 36);
    let create = stub.received().into_iter().find(|r| r.method == "session.create").unwrap();
    let params: Value = serde_json::from_str(&create.params).unwrap();
    assert_eq!((&params["sessionId"], &params["model"]), (&json!(id), &json!("stub")));
    assert_eq!(alice.events(&id, "session.start").len(), 1, "what came before the reply was let through");
    assert_eq!(alice.turn(&id, "hello").await, "You said: hello");
}

/// Check 26's slice: two tenants share a server, 10,000 messages each way of looking.
#[tokio::test(flavor = "multi_thread")]
async fn check_26_nothing_of_another_tenants_sessions() {
    let stub = stub(1);
    let keys = format!("auth.keys = [{}, {}]", pinned("acme"), pinned("evil"));
    let gateway = start(&common::fleet(stub.addrs(), &keys)).await;
    // A connection without a gateway before it hears of everybody: so the test can fail.
    let mut witness = Client::dial(stub.addr()).await;
    witness.call("connect", json!({})).await.unwrap();
    let tenant = async |key: &'static str| {
        let mut client = Client::dial(gateway.sdk).await;
        client.call("connect", json!({ "token": key })).await.unwrap();
        for round in 0..50 {
            for n in 0..5 {
                let session = format!("{key}-{n}");
                if round == 0 {
                    client.create(&session).await;
                }
                client.turn(&session, "[[deltas 10 20 0]] tell").await;
            }
        }
        client.call("session.delete", json!({ "sessionId": format!("{key}-0") })).await.unwrap();
        client
    };
    let (one, other) = tokio::join!(tenant("acme-token"), tenant("evil-token"));
    witness.call("ping", json!({})).await.unwrap();
    let heard =
        |client: &Client, key: &str| client.raw.iter().filter(|raw| raw.contains(&format!("{key}-"))).count();
    let foreign = [(&one, "evil-token"), (&other, "acme-token")].map(|(client, key)| heard(client, key));
    let lifecycle = |c: &Client| c.seen.iter().filter(|m| m["method"] == "session.lifecycle").count();
    assert!(lifecycle(&one) > 200 && lifecycle(&other) > 200, "one's own are delivered");
    let witnessed = heard(&witness, "evil-token").min(heard(&witness, "acme-token"));
    assert!(witnessed > 200, "the server does tell everybody: {witnessed}");
    let messages = one.seen.len() + other.seen.len();
    println!(
        "CHECK 26: {messages} messages to two tenants of one server: {} foreign ids (directly: {witnessed})",
        foreign[0] + foreign[1]
    );
    assert!(messages >= 10_000, "{messages}");
    assert_eq!(foreign, [0, 0]);
}

/// Whether a method may be called beside other users.
fn granted(method: &catalogue::Method) -> bool {
    matches!(method.grant(Surface::Shared), Grant::Own | Grant::Read)
}

/// Check 25's slice: every method that may be called beside others.
#[tokio::test]
async fn check_25_foreign_is_as_unknown() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    alice.create("private").await;
    alice.turn("private", "secret").await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    let before = stub.received().len();
    let scoped = |m: &&catalogue::Method| granted(m) && matches!(m.scope, Scope::Session | Scope::Resume);
    let mut denials = HashSet::new();
    let mut methods = 0;
    for method in catalogue::all().filter(scoped) {
        for session in ["private", "no-such", "", "a/b", "../private"] {
            let params = json!({ "sessionId": session, "prompt": "x", "requestId": "r", "name": "n" });
            denials.insert(ask_raw(&mut bob, "90001", method.name, &params).await);
        }
        methods += 1;
    }
    for params in
        [json!({ "sessionId": null }), json!({ "sessionId": ["private"] }), json!({ "sessionId": 7 })]
    {
        denials.insert(ask_raw(&mut bob, "90001", "session.send", &params).await);
    }
    let of_another =
        json!({ "sessionId": "mine", "inheritPlanBaseFromSessionId": "private", "mode": "plan" });
    bob.create("mine").await;
    denials.insert(ask_raw(&mut bob, "90001", "session.mode.set", &of_another).await);
    denials.insert(ask_raw(&mut bob, "90001", "session.create", &json!({ "sessionId": "private" })).await);
    let reached = stub.received().split_off(before);
    let reached: Vec<_> = reached.iter().filter(|r| r.params.contains("private")).collect();
    println!(
        "CHECK 25: {methods} methods, foreign and unknown ids: {} spelling(s) of the denial",
        denials.len()
    );
    assert_eq!(reached, Vec::<&_>::new());
    let denial = r#"{"jsonrpc":"2.0","id":90001,"error":{"code":-32011,"message":"Session not found"}}"#;
    assert_eq!(denials, HashSet::from([denial.to_owned()]));
    assert!(bob.seen.iter().all(|m| !m.to_string().contains("secret")));
    assert_eq!(alice.turn("private", "still mine").await, "You said: still mine");
}

/// Check 27's slice.
#[tokio::test]
async fn check_27_what_is_not_in_the_catalogue_is_not_forwarded() {
    for (surface, more) in [("shared", String::new()), ("full", full())] {
        let (stub, gateway) = start_fleet(1, &more).await;
        let mut alice = Client::hello(gateway.sdk, "acme-token").await;
        let before = stub.received().len();
        let strange =
            ["nope", "Ping", "ping ", "session.sendd", "sessions.", "", "rpc.discover", "$/x", "pi\u{0}ng"];
        for method in strange {
            let id = alice.request(method, json!({ "canary": 1 })).await;
            let error = alice.reply(id).await.unwrap_err();
            assert_eq!(
                (&error["code"], &error["data"]["method"]),
                (&json!(-32012), &json!(method)),
                "{surface}"
            );
        }
        for method in ["session.send", "runtime.shutdown", "nope", "$/cancelRequest"] {
            alice.send(&json!({ "jsonrpc": "2.0", "method": method, "params": { "canary": 1 } })).await;
        }
        let mut denied = 0;
        if surface == "shared" {
            for method in catalogue::all().filter(|m| m.scope != Scope::Jetway && !granted(m)) {
                let id = alice.request(method.name, json!({ "canary": 1 })).await;
                let error = alice.reply(id).await.unwrap_err();
                assert_eq!((&error["code"], &error["data"]["method"]), (&json!(-32012), &json!(method.name)));
                denied += 1;
            }
        } else {
            // One that is not for sharing is forwarded, and the server says what it thinks of it.
            let id = alice.request("session.list", json!({})).await;
            assert_eq!(alice.reply(id).await.unwrap(), json!({ "sessions": [] }));
        }
        assert_eq!(alice.call("runtime.shutdown", json!({ "canary": 1 })).await, Ok(Value::Null));
        assert!(alice.closes(common::PATIENCE).await, "that was good-bye");
        let reached: Vec<_> = stub.received().split_off(before);
        let canaries = reached.iter().filter(|r| r.params.contains("canary")).count();
        println!(
            "CHECK 27: surface {surface}: {} strange methods, {denied} that are not for sharing: {canaries} reached the CLI",
            strange.len() + 4
        );
        assert_eq!(canaries, 0, "{reached:?}");
        // And the server is there for the next one.
        Client::hello(gateway.sdk, "acme-token").await.call("ping", json!({})).await.unwrap();
    }
}

/// A connection that ends takes its attachments along.
#[tokio::test]
async fn a_client_that_leaves_leaves_nothing() {
    let (stub, gateway) = start_fleet(1, "").await;
    let connections = stub.stats(0).connections;
    for n in 0..20 {
        let mut client = Client::hello(gateway.sdk, "alice").await;
        client.create(&format!("s-{n}")).await;
    }
    until("all are gone", || {
        let now = stub.stats(0);
        (now.connections, now.sessions) == (connections, 0)
    })
    .await;
}

#[tokio::test]
async fn limits_refuse_with_their_name() {
    let more = "limits = { max_in_flight = 4, max_sessions_per_connection = 3, max_connections = 2 }";
    let stub = Stub::start(Options::default()).unwrap();
    let gateway = start(&common::fleet(stub.addrs(), more)).await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    for n in 0..3 {
        alice.create(&format!("s-{n}")).await;
    }
    let error = alice.call("session.create", json!({ "sessionId": "s-3" })).await.unwrap_err();
    assert_eq!(
        (&error["code"], &error["data"]["limit"]),
        (&json!(-32014), &json!("max_sessions_per_connection"))
    );
    stub.hang(0, true);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(alice.request("ping", json!({})).await);
    }
    let error = alice.reply(ids[4]).await.unwrap_err();
    assert_eq!((&error["code"], &error["data"]["limit"]), (&json!(-32014), &json!("max_in_flight")));
    stub.hang(0, false);
    for id in &ids[..4] {
        alice.reply(*id).await.unwrap();
    }
    // The same id twice is refused while the first is under way, and only then.
    stub.hang(0, true);
    let ping = r#"{"jsonrpc":"2.0","id":"same","method":"ping","params":{}}"#;
    let from = alice.seen.len();
    alice.send_text(ping).await.unwrap();
    alice.send_text(ping).await.unwrap();
    let refused = alice.find(from, |m| m["id"] == "same").await;
    assert_eq!(refused["error"]["code"], -32600);
    stub.hang(0, false);
    alice.find(from, |m| m["id"] == "same" && m["result"].is_object()).await;
    let _second = Client::hello(gateway.sdk, "alice").await;
    let mut third = Client::dial(gateway.sdk).await;
    assert!(third.closes(common::PATIENCE).await, "no room for a third connection");
}
