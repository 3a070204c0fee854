//! Sessions on several servers of a fleet, and the loss of one of them.

mod common;

use std::collections::BTreeMap;

use common::{
    Gateway,
    client::{Client, is_event},
    program, start_fleet,
};
use jetway_loadtest::stub::Stub;
use serde_json::{Value, json};

/// Waits until every server of the fleet is up again.
async fn all_up(gateway: &Gateway) {
    for _ in 0..500 {
        let (_, body) = program::get(gateway.admin, "/readyz").await;
        if serde_json::from_str::<Value>(&body).unwrap()["reasons"] == json!([]) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the fleet does not come up");
}

/// The server to which `stub` got the first `session.create` of that id.
fn server_of(stub: &Stub, session: &str) -> usize {
    let all = stub.received();
    let create = all.iter().find(|r| r.method == "session.create" && r.params.contains(session));
    create.expect("created").server
}

/// Creates a session once a server takes it: after a loss, the gateway may need a moment to see it.
async fn create_somewhere(client: &mut Client, session: &str) {
    for _ in 0..100 {
        if client
            .call("session.create", json!({ "sessionId": session, "requestUserInput": true }))
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no server takes {session}");
}

#[tokio::test]
async fn questions_of_two_servers_with_equal_ids() {
    let (stub, gateway) = start_fleet(2, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    alice.create("first").await;
    alice.turn("first", "remember").await;
    let first = server_of(&stub, "first");
    // Her home goes away, she goes on at the other server, and then it comes back.
    stub.crash(first);
    create_somewhere(&mut alice, "second").await;
    let second = server_of(&stub, "second");
    assert_ne!(first, second);
    stub.restart(first).unwrap();
    all_up(&gateway).await;
    let resume = json!({ "sessionId": "first", "requestUserInput": true });
    alice.call("session.resume", resume).await.unwrap();
    assert_eq!((stub.stats(first).sessions, stub.stats(second).sessions), (1, 1), "one session on each");

    let from = alice.seen.len();
    for session in ["first", "second"] {
        alice.prompt(session, "[[userinput]]").await.unwrap();
    }
    let is_question =
        |m: &Value, s: &str| m["method"] == "userInput.request" && m["params"]["sessionId"] == s;
    let mut ids = BTreeMap::new();
    for session in ["second", "first"] {
        let id = alice.find(from, |m| is_question(m, session)).await["id"].clone();
        ids.insert(session, id);
    }
    assert_ne!(ids["first"], ids["second"], "both servers called it 1");
    // In the other order, an answer to nothing between them, and one of them twice.
    for (id, answer) in
        [(&ids["second"], "S"), (&json!(999), "no"), (&ids["first"], "F"), (&ids["first"], "no")]
    {
        alice.send(&json!({ "jsonrpc": "2.0", "id": id, "result": { "answer": answer } })).await;
    }
    for (session, answer) in [("first", "F"), ("second", "S")] {
        alice.find(from, |m| is_event(m, session, "session.idle")).await;
        let said = alice.events(session, "assistant.message");
        let said = said.last().unwrap()["data"]["content"].as_str().unwrap().to_owned();
        assert_eq!(said, format!("answered: {{\"answer\":\"{answer}\"}}"));
    }
    assert_eq!(stub.ledger().findings().malformed, [], "no answer went to a server that had not asked");
}

/// Two users, at home on different servers, gave their sessions one name; then the first one's server is lost.
struct Namesakes {
    _stub: Stub,
    _gateway: Gateway,
    alice: Client,
    bob: Client,
}

async fn namesakes() -> Namesakes {
    let (stub, gateway) = start_fleet(2, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    alice.create("plans").await;
    alice.turn("plans", "of alice").await;
    let hers = server_of(&stub, "plans");
    let mut bob = None;
    for n in 0..100 {
        let user = format!("bob-{n}");
        let mut client = Client::hello(gateway.sdk, &user).await;
        client.create(&format!("probe-{n}")).await;
        if server_of(&stub, &format!("probe-{n}")) != hers {
            bob = Some(client);
            break;
        }
    }
    let mut bob = bob.expect("somebody lives on the other server");
    bob.create("plans").await;
    bob.turn("plans", "secret of bob").await;
    stub.crash(hers);
    create_somewhere(&mut alice, "elsewhere").await;
    assert_ne!(server_of(&stub, "elsewhere"), hers);
    Namesakes { _stub: stub, _gateway: gateway, alice, bob }
}

#[tokio::test]
async fn a_namesake_on_another_server_is_not_heard_of() {
    let mut n = namesakes().await;
    let from = n.alice.seen.len();
    n.bob.turn("plans", "more secrets").await;
    n.alice.call("ping", json!({})).await.unwrap();
    let leaked: Vec<_> = n.alice.raw[from..].iter().filter(|raw| raw.contains("plans")).collect();
    assert_eq!(leaked, Vec::<&String>::new(), "bob's session is no business of alice's");
}

#[tokio::test]
async fn a_namesake_on_another_server_cannot_be_used() {
    let mut n = namesakes().await;
    let mut said = Vec::new();
    for method in ["session.getMessages", "session.send", "session.abort", "session.resume", "session.delete"]
    {
        let params = match method {
            "session.send" => json!({ "sessionId": "plans", "prompt": "alice's words" }),
            _ => json!({ "sessionId": "plans" }),
        };
        said.push(format!("{method}: {:?}", n.alice.call(method, params).await));
    }
    // By the side of a session that she does have there.
    let params = json!({ "sessionId": "elsewhere", "mode": "plan", "inheritPlanBaseFromSessionId": "plans" });
    said.push(format!("session.mode.set: {:?}", n.alice.call("session.mode.set", params).await));
    assert!(said.iter().all(|s| s.contains("-32011")), "{said:#?}");
    let leaked: Vec<_> = said.iter().filter(|s| s.contains("secret")).collect();
    assert_eq!(leaked, Vec::<&String>::new(), "bob's history is no business of alice's");
    let reply = n.bob.call("session.getMessages", json!({ "sessionId": "plans" })).await.unwrap().to_string();
    assert!(!reply.contains("alice's words"), "{reply}");
}

/// What cannot be resumed elsewhere is there again when its server is.
#[tokio::test]
async fn a_session_outlives_its_servers_absence() {
    let (stub, gateway) = start_fleet(2, "").await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    alice.create("lasting").await;
    alice.turn("lasting", "remember").await;
    let server = server_of(&stub, "lasting");
    stub.crash(server);
    create_somewhere(&mut alice, "meanwhile").await;
    let error = alice.call("session.resume", json!({ "sessionId": "lasting" })).await.unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("not found"), "{error}");
    stub.restart(server).unwrap();
    all_up(&gateway).await;
    alice.call("session.resume", json!({ "sessionId": "lasting" })).await.unwrap();
    assert_eq!(alice.turn("lasting", "[[history]]").await, "History: remember");
}
