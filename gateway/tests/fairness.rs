//! Turns that find no room wait for it, beside their connection and in a fair order; what cannot wait hears so.

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, client::Client, start_fleet, until};
use jetway_loadtest::stub::{Event, Stub};
use serde_json::json;
use tokio::time::sleep;

/// One turn at a time, and none that outlives its client.
const ONE: &str =
    "tenants.default = { max_concurrent_turns = 1, requests_per_second = 1000000 }\npool.keep_turns = \"0s\"";

/// The prompts' nonces in the order in which their turns began.
fn begun(stub: &Stub) -> Vec<String> {
    let entries = stub.ledger().entries();
    entries.into_iter().filter(|e| e.event == Event::Begin).filter_map(|e| e.nonce).collect()
}

async fn prompt(client: &mut Client, session: &str, prompt: &str) -> i64 {
    client.request("session.send", json!({ "sessionId": session, "prompt": prompt })).await
}

/// A turn runs that does not end by itself.
async fn occupied(stub: &Stub, client: &mut Client) {
    client.create("busy").await;
    client.prompt("busy", "[[hang]] nonce:busy").await.unwrap();
    until("it runs", || stub.stats(0).turns == 1).await;
}

async fn free(client: &mut Client) {
    client.call("session.abort", json!({ "sessionId": "busy" })).await.unwrap();
}

#[tokio::test]
async fn a_turn_that_waits_keeps_nothing_else_waiting_and_prompts_keep_their_order() {
    let (stub, gateway) = start_fleet(1, ONE).await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    occupied(&stub, &mut alice).await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("s").await;
    bob.create("t").await;
    let mut sent = Vec::new();
    for n in 0..6 {
        let session = ["s", "t"][n % 2];
        sent.push(prompt(&mut bob, session, &format!("[[quiet]] nonce:{session}-{n}")).await);
        bob.call("ping", json!({})).await.unwrap();
    }
    bob.call("session.getMessages", json!({ "sessionId": "s" })).await.unwrap();
    assert_eq!(begun(&stub), ["busy"]);
    free(&mut alice).await;
    for id in sent {
        bob.reply(id).await.unwrap();
    }
    until("all have begun", || begun(&stub).len() == 7).await;
    let of = |session: &str| begun(&stub).into_iter().filter(|n| n.starts_with(session)).collect::<Vec<_>>();
    assert_eq!((of("s-").join(" "), of("t-").join(" ")), ("s-0 s-2 s-4".into(), "t-1 t-3 t-5".into()));
}

/// A prompt for a session whose turn runs steers that turn, or is its next: it has room already.
#[tokio::test]
async fn what_a_running_turn_is_told_does_not_wait() {
    let (stub, gateway) = start_fleet(1, ONE).await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    alice.create("busy").await;
    // It ends by itself: with an abort, what waits in the CLI would go too.
    alice.prompt("busy", "[[delay 2000]] nonce:busy").await.unwrap();
    for n in 0..3 {
        alice.prompt("busy", &format!("nonce:more-{n}")).await.unwrap();
    }
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("s").await;
    let waits = prompt(&mut bob, "s", "nonce:bob").await;
    bob.reply(waits).await.unwrap();
    until("all have begun", || begun(&stub).len() == 5).await;
    assert_eq!(
        begun(&stub),
        ["busy", "more-0", "more-1", "more-2", "bob"],
        "the room was kept until all was done"
    );
}

/// Check 41: what is given up, or whose client has left, never reaches a CLI.
#[tokio::test]
async fn check_41_what_nobody_waits_for_never_reaches_a_cli() {
    let (stub, gateway) = start_fleet(1, &format!("limits.turn_wait = \"10m\"\n{ONE}")).await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    occupied(&stub, &mut alice).await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("s").await;
    let aborted = prompt(&mut bob, "s", "nonce:aborted").await;
    bob.call("session.abort", json!({ "sessionId": "s" })).await.unwrap();
    assert_eq!(bob.reply(aborted).await.unwrap_err()["code"], -32017);
    let connections = stub.stats(0).connections;
    let mut left = Vec::new();
    for n in 0..20 {
        let mut eve = Client::hello(gateway.sdk, &format!("eve-{n}")).await;
        eve.create(&format!("s-{n}")).await;
        let sent = prompt(&mut eve, &format!("s-{n}"), "nonce:left").await;
        // What came after it is answered, and it is not: it waits.
        eve.call("ping", json!({})).await.unwrap();
        assert!(eve.seen.iter().all(|m| m["id"] != sent));
        left.push(eve);
    }
    let last = prompt(&mut bob, "s", "nonce:last").await;
    drop(left);
    until("they have left", || stub.stats(0).connections == connections).await;
    free(&mut alice).await;
    bob.reply(last).await.unwrap();
    until("it has begun", || begun(&stub).len() > 1).await;
    println!(
        "CHECK 41: 1 turn given up, 20 left while they waited: {} reached the CLI",
        begun(&stub).len() - 2
    );
    assert_eq!(begun(&stub), ["busy", "last"]);
}

/// Check 41: what is late never reaches a CLI.
#[tokio::test]
async fn check_41_what_is_late_never_reaches_a_cli() {
    let (stub, gateway) = start_fleet(1, &format!("limits.turn_wait = \"1s\"\n{ONE}")).await;
    let mut alice = Client::hello(gateway.sdk, "alice").await;
    occupied(&stub, &mut alice).await;
    let mut bob = Client::hello(gateway.sdk, "bob").await;
    bob.create("s").await;
    let since = Instant::now();
    let late = prompt(&mut bob, "s", "nonce:late").await;
    let refused = bob.reply(late).await.unwrap_err();
    println!("CHECK 41: a turn that may wait for 1 s: refused after {:.2?}: {refused}", since.elapsed());
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert_eq!((&refused["code"], &refused["data"]["limit"]), (&json!(-32014), &json!("turn_wait")));
    assert!(refused["data"]["retryAfterMs"].as_u64().is_some_and(|ms| ms >= 50), "{refused}");
    free(&mut alice).await;
    bob.turn("s", "nonce:after").await;
    assert_eq!(begun(&stub), ["busy", "after"]);
}

/// However a turn ends, its room is free again.
#[tokio::test]
async fn room_is_given_back_however_a_turn_ends() {
    let (stub, gateway) = start_fleet(1, ONE).await;
    for (how, script) in [("well", ""), ("badly", "[[error]]"), ("left", "[[hang]]"), ("crash", "[[crash]]")]
    {
        let mut client = Client::hello(gateway.sdk, how).await;
        client.create(how).await;
        let sent = prompt(&mut client, how, &format!("{script} nonce:{how}")).await;
        match how {
            "left" => drop(client.reply(sent).await.unwrap()),
            "crash" => {
                client.find(0, |m| m["params"]["event"]["type"] == "session.error").await;
                stub.restart(0).unwrap();
            }
            _ => drop(client.find(0, |m| m["params"]["event"]["type"] == "session.idle").await),
        }
    }
    let since = Instant::now();
    loop {
        let mut client = Client::dial(gateway.sdk).await;
        let there = client.call("connect", json!({ "token": "last" })).await.is_ok();
        if there && client.call("session.create", json!({ "sessionId": "l" })).await.is_ok() {
            client.turn("l", "nonce:last").await;
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the server is not seen to be back");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(begun(&stub), ["well", "badly", "left", "crash", "last"]);
}

/// A session that is closed or deleted, one of many or alone, takes its turn's room with it and is forgotten.
#[tokio::test]
async fn room_is_given_back_when_sessions_are_closed_or_deleted() {
    let one = ONE.replace('}', ", allow_methods = [\"sessions.bulkDelete\"] }");
    let (stub, gateway) = start_fleet(1, &one).await;
    let mut other = Client::hello(gateway.sdk, "other").await;
    other.create("other").await;
    let ends = [
        ("sessions.close", json!({ "sessionId": "closed" })),
        ("session.delete", json!({ "sessionId": "deleted" })),
        ("sessions.bulkDelete", json!({ "sessionIds": ["quiet", "bulk"] })),
    ];
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    // A second connection has it attached as well, and does not keep it.
    let mut also = Client::hello(gateway.sdk, "ada").await;
    ada.create("quiet").await;
    ada.turn("quiet", "nonce:quiet").await;
    for (n, ((method, params), session)) in ends.into_iter().zip(["closed", "deleted", "bulk"]).enumerate() {
        ada.create(session).await;
        ada.prompt(session, &format!("[[hang]] nonce:{session}")).await.unwrap();
        also.call("session.resume", json!({ "sessionId": session })).await.unwrap();
        let waits = prompt(&mut other, "other", &format!("nonce:other-{n}")).await;
        ada.call(method, params).await.unwrap();
        other.reply(waits).await.unwrap();
        until("the next one's turn is done", || stub.stats(0).turns == 0).await;
    }
    for gone in ["quiet", "bulk", "deleted"] {
        // The directory hears of it a moment later.
        let since = Instant::now();
        while let Err(error) =
            other.call("session.create", json!({ "sessionId": gone, "model": "stub" })).await
        {
            assert!(since.elapsed() < PATIENCE, "{gone}: {error}");
            sleep(Duration::from_millis(10)).await;
        }
    }
    let kept =
        other.call("session.create", json!({ "sessionId": "closed", "model": "stub" })).await.unwrap_err();
    assert_eq!(kept["code"], -32011, "what is closed is still its owner's");
}
