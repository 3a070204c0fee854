//! Whose a session is outlasts the gateway, and nobody else can tell whether it is.

mod common;

use common::{client::Client, fleet, per_user, start, start_fleet, stub};
use serde_json::{Value, json};

/// A place for a directory that several gateways use, one after the other.
fn kept() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let more = format!("directory.path = \"{}\"", dir.path().join("directory.sqlite").display());
    (dir, more)
}

fn ids(list: &Value) -> Vec<&str> {
    list["sessions"].as_array().unwrap().iter().map(|s| s["sessionId"].as_str().unwrap()).collect()
}

/// What a call is answered with, byte for byte but for its id.
async fn raw(client: &mut Client, method: &str, params: Value) -> String {
    let from = client.seen.len();
    let id = client.request(method, params).await;
    let reply = client.find_raw(from, |m| m["id"] == id && m["method"].is_null()).await;
    reply.replace(&format!("\"id\":{id}"), "\"id\":_")
}

#[tokio::test]
async fn sessions_are_their_owners_after_a_restart() {
    let (stub, (_dir, more)) = (stub(2), kept());
    let toml = fleet(stub.addrs(), &more);
    let first = start(&toml).await;
    let mut ada = Client::hello(first.sdk, "ada").await;
    ada.create("hers").await;
    ada.turn("hers", "hello").await;
    // What was used is noted within a second or at the end.
    drop(ada);
    first.app.drain(std::future::ready(())).await;

    let second = start(&toml).await;
    let mut bob = Client::hello(second.sdk, "bob").await;
    for method in ["session.resume", "session.send", "session.getMessages", "session.delete", "session.abort"]
    {
        let params = |id| json!({ "sessionId": id, "prompt": "x" });
        let (foreign, never) =
            (raw(&mut bob, method, params("hers")).await, raw(&mut bob, method, params("nope")).await);
        assert_eq!(foreign, never, "{method}");
        assert!(foreign.contains("-32011"), "{foreign}");
    }
    assert_eq!(bob.call("session.list", json!({})).await.unwrap(), json!({ "sessions": [] }));
    assert_eq!(bob.call("session.getLastId", json!({})).await.unwrap(), json!({}));

    let mut ada = Client::hello(second.sdk, "ada").await;
    assert_eq!(ids(&ada.call("session.list", json!({})).await.unwrap()), ["hers"]);
    assert_eq!(ada.call("session.getLastId", json!({})).await.unwrap()["sessionId"], "hers");
    ada.call("session.resume", json!({ "sessionId": "hers" })).await.unwrap();
    assert_eq!(ada.turn("hers", "[[history]]").await, "History: hello");
}

/// The CLI would begin a new history in the same file; what is meant is to go on.
#[tokio::test]
async fn to_create_what_is_there_goes_on_with_it() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    ada.create("kept").await;
    ada.turn("kept", "hello").await;
    ada.call("session.detach", json!({ "sessionId": "kept" })).await.unwrap();
    ada.create("kept").await;
    assert_eq!(ada.turn("kept", "[[history]]").await, "History: hello");
    // What never had a message cannot be resumed, and is made anew.
    ada.create("empty").await;
    ada.call("session.detach", json!({ "sessionId": "empty" })).await.unwrap();
    ada.create("empty").await;
    assert_eq!(ada.turn("empty", "[[history]]").await, "History: ");
}

/// An id that came to nothing is free again, for others too.
#[tokio::test]
async fn a_failed_creation_claims_nothing() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    stub.hang(0, true);
    let lost = ada.request("session.create", json!({ "sessionId": "x", "model": "stub" })).await;
    stub.crash(0);
    // Whether the call was on its way to the server already, or had not found it.
    let code = ada.reply(lost).await.unwrap_err()["code"].as_i64().unwrap();
    assert!([-32014, -32015].contains(&code), "{code}");
    stub.hang(0, false);
    stub.restart(0).unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    let mut bob = Client::dial(gateway.sdk).await;
    while let Err(error) = bob.call("connect", json!({ "token": "bob" })).await {
        assert!(std::time::Instant::now() < deadline, "the server is back: {error}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        bob = Client::dial(gateway.sdk).await;
    }
    // The release is written down a moment later.
    while let Err(error) = bob.call("session.create", json!({ "sessionId": "x", "model": "stub" })).await {
        assert_eq!(error["code"], -32011);
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    let taken = ada.call("session.create", json!({ "sessionId": "x", "model": "stub" })).await.unwrap_err();
    assert_eq!(taken["code"], -32011);
}

/// All of one's sessions, on whichever server they live, the last used first.
#[tokio::test]
async fn the_list_is_complete_and_in_order() {
    let (_dir, more) = kept();
    let stub = stub(2);
    let both = start(&fleet(stub.addrs(), &more)).await;
    let mut ada = Client::hello(both.sdk, "ada").await;
    let mut made = Vec::new();
    for n in 0..3 {
        let id = format!("s-{n}");
        ada.create(&id).await;
        ada.turn(&id, "hello").await;
        made.insert(0, id);
    }
    let home = ada.call("session.list", json!({})).await.unwrap();
    assert_eq!(ids(&home), made);
    drop(ada);
    both.app.drain(std::future::ready(())).await;
    // Whichever was home, on the other server these sessions live elsewhere.
    for n in 0..2 {
        let one = start(&fleet(&stub.addrs()[n..=n], &more)).await;
        let mut ada = Client::hello(one.sdk, "ada").await;
        let listed = ada.call("session.list", json!({})).await.unwrap();
        assert_eq!(ids(&listed), made, "server {n}");
        assert_eq!(ids(&ada.call("session.list", json!({ "filter": {} })).await.unwrap()), made);
        drop(ada);
        one.app.drain(std::future::ready(())).await;
    }
}

#[tokio::test]
async fn members_take_part_by_their_roles() {
    let (_stub, on_fleet) = start_fleet(2, "").await;
    let (dir, stub_cli) = (tempfile::tempdir().unwrap(), std::path::Path::new(env!("CARGO_BIN_EXE_jetway")));
    let own = stub_cli.with_file_name("stub-cli");
    let mut gateways = vec![("a fleet", on_fleet)];
    if own.exists() {
        gateways.push(("processes of their own", start(&per_user(&own, dir.path(), "")).await));
    } else {
        eprintln!("SKIPPED members_take_part_by_their_roles (per-user): {} is not built", own.display());
    }
    for (what, gateway) in gateways {
        let mut ada = Client::hello(gateway.sdk, "ada").await;
        let members = json!([{ "user": "bob", "role": "member" }, { "user": "vic", "role": "viewer" }]);
        ada.call("session.create", json!({ "sessionId": "room", "model": "stub", "members": members }))
            .await
            .unwrap();
        let (mut bob, mut vic, mut eve) = (
            Client::hello(gateway.sdk, "bob").await,
            Client::hello(gateway.sdk, "vic").await,
            Client::hello(gateway.sdk, "eve").await,
        );
        for client in [&mut bob, &mut vic] {
            client.call("session.resume", json!({ "sessionId": "room" })).await.unwrap();
        }
        assert_eq!(bob.turn("room", "from bob").await, "You said: from bob", "{what}");
        for client in [&mut ada, &mut vic] {
            client.find(0, |m| common::client::is_event(m, "room", "session.idle")).await;
            assert_eq!(client.events("room", "assistant.message").len(), 1, "{what}");
        }
        assert_eq!(ada.turn("room", "[[history]]").await, "History: from bob", "{what}");

        let refused = vic.prompt("room", "may I?").await.unwrap_err();
        assert_eq!((&refused["code"], &refused["data"]["rule"]), (&json!(-32012), &json!("role")), "{what}");
        vic.call("session.getMessages", json!({ "sessionId": "room" })).await.unwrap();
        for method in ["session.delete", "session.history.clearContext", "sessions.close"] {
            let refused = bob.call(method, json!({ "sessionId": "room" })).await.unwrap_err();
            assert_eq!(refused["data"]["rule"], "role", "{what}: {method}");
        }
        // Nor more of another's process than of a shared one.
        let refused = bob.call("session.shell.exec", json!({ "sessionId": "room", "command": "id" })).await;
        assert_eq!(refused.unwrap_err()["code"], -32012, "{what}");
        assert_eq!(ids(&bob.call("session.list", json!({})).await.unwrap()), ["room"], "{what}");
        let foreign = raw(&mut eve, "session.resume", json!({ "sessionId": "room" })).await;
        if what == "a fleet" {
            assert_eq!(foreign, raw(&mut eve, "session.resume", json!({ "sessionId": "nope" })).await);
        }
        assert!(foreign.contains("error"), "{what}: {foreign}");
        assert_eq!(ids(&eve.call("session.list", json!({})).await.unwrap()), [""; 0], "{what}");
        assert!(eve.events("room", "assistant.message").is_empty());
    }
}
