//! What a tenant, and a user of it, may have; what is over it is refused by name, and is no one else's loss.

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, client::Client, fleet, start, stub, until};
use jetway_config::keys::KeyHash;
use serde_json::{Value, json};

/// Two tenants, whose users come with `<tenant>-<user>` as token, and the limits of the first.
fn tenants(users: &[(&str, &str)], limits: &str) -> String {
    let entries = users.iter().map(|(tenant, user)| {
        let hash = KeyHash::of(&format!("{tenant}-{user}")).to_hex();
        format!(
            "{{ id = \"{tenant}{user}\", tenant = \"{tenant}\", user = \"{user}\", sha256 = \"{hash}\" }}"
        )
    });
    format!("auth.keys = [{}]\ntenants.acme = {{ {limits} }}", entries.collect::<Vec<_>>().join(", "))
}

const PEOPLE: [(&str, &str); 3] = [("acme", "ada"), ("acme", "bob"), ("zoo", "zoe")];

fn refused_by(error: &Value) -> (&Value, &Value) {
    let retry = error["data"]["retryAfterMs"].as_u64();
    assert!(retry.is_some_and(|ms| (50..=60_000).contains(&ms)), "{error}");
    (&error["code"], &error["data"]["limit"])
}

#[tokio::test]
async fn connections_of_a_user_and_of_a_tenant() {
    let stub = stub(1);
    let limits = tenants(&PEOPLE, "max_connections = 4, user_share = \"75%\"");
    let gateway = start(&fleet(stub.addrs(), &limits)).await;
    let mut ada = Vec::new();
    for _ in 0..3 {
        ada.push(Client::hello(gateway.sdk, "acme-ada").await);
    }
    let refused = async |token: &str| {
        let mut client = Client::dial(gateway.sdk).await;
        let error = client.call("connect", json!({ "token": token })).await.unwrap_err();
        assert_eq!(refused_by(&error), (&json!(-32014), &json!("max_connections")));
    };
    refused("acme-ada").await;
    let _bob = Client::hello(gateway.sdk, "acme-bob").await;
    refused("acme-bob").await;
    Client::hello(gateway.sdk, "zoo-zoe").await;
    ada.pop();
    // Jetway sees the end of a connection a moment later.
    for round in 0.. {
        let mut client = Client::dial(gateway.sdk).await;
        if client.call("connect", json!({ "token": "acme-bob" })).await.is_ok() {
            break;
        }
        assert!(round < 1000, "the place of a connection that has ended is not free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn requests_of_a_user_and_of_a_tenant() {
    let stub = stub(1);
    let limits = tenants(&PEOPLE, "requests_per_second = 10, user_share = \"50%\"");
    let gateway = start(&fleet(stub.addrs(), &limits)).await;
    let mut ada = Client::hello(gateway.sdk, "acme-ada").await;
    let mut bob = Client::hello(gateway.sdk, "acme-bob").await;
    let mut zoe = Client::hello(gateway.sdk, "zoo-zoe").await;
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(ada.request("ping", json!({})).await);
    }
    let (mut pings, mut early) = (0, 0);
    for id in ids {
        match ada.reply(id).await {
            Ok(_) => pings += 1,
            Err(error) => {
                assert_eq!(refused_by(&error), (&json!(-32014), &json!("requests_per_second")));
                early += 1;
            }
        }
    }
    // The others of the tenant have their part, and other tenants theirs.
    for client in [&mut bob, &mut zoe] {
        client.call("ping", json!({})).await.unwrap();
    }
    println!("LIMITS: 300 pings at once of a user with 5 per second: {pings} answered, {early} refused");
    assert!(pings >= 5 && early > 0, "{pings} {early}");
    // Whatever settles something is let through: this is no session, but that is another matter.
    for _ in 0..50 {
        let error = ada.call("session.abort", json!({ "sessionId": "none" })).await.unwrap_err();
        assert_eq!(error["code"], -32011);
    }
}

/// Large requests on their way in, and such as wait, are on their sender's account until they are done with.
#[tokio::test]
async fn bytes_of_a_user() {
    let stub = stub(1);
    let limits =
        tenants(&PEOPLE, "max_bytes_in_flight = \"2MiB\", user_share = \"50%\", max_concurrent_turns = 1");
    let gateway = start(&fleet(
        stub.addrs(),
        &format!("limits.max_frame = \"1MiB\"\nlimits.max_http_body = \"512KiB\"\n{limits}"),
    ))
    .await;
    let mut ada = Client::hello(gateway.sdk, "acme-ada").await;
    ada.create("busy").await;
    ada.prompt("busy", "[[hang]]").await.unwrap();
    until("it runs", || stub.stats(0).turns == 1).await;
    ada.create("s").await;
    let long = "x".repeat(600 << 10);
    let prompt = json!({ "sessionId": "s", "prompt": long });
    let waits = ada.request("session.send", prompt.clone()).await;
    let error = ada.call("session.send", prompt.clone()).await.unwrap_err();
    assert_eq!(refused_by(&error), (&json!(-32014), &json!("max_bytes_in_flight")));
    // A second frame that is not even there in full is one too many, and there is no telling what it asks.
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = Client::hello(gateway.sdk, "acme-ada").await;
        other.send_raw(b"Content-Length: 1000000\r\n\r\n").await.unwrap();
        for _ in 0..9 {
            let _ = other.send_raw(&[b' '; 100_000]).await;
        }
        others.push(other);
    }
    // It is told why; whether that outruns the reset of a connection with unread bytes is the kernel's matter.
    let deadline = Instant::now() + PATIENCE;
    while !others.iter().any(|c| c.closed) {
        assert!(Instant::now() < deadline, "both are still there");
        for other in &mut others {
            other.closes(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(others.iter().filter(|c| c.closed).count(), 1, "whichever came second");
    drop(others);
    // Bob has his own part.
    let mut bob = Client::hello(gateway.sdk, "acme-bob").await;
    bob.call("ping", json!({ "message": long })).await.unwrap();
    ada.call("session.abort", json!({ "sessionId": "busy" })).await.unwrap();
    ada.reply(waits).await.unwrap();
    ada.call("ping", json!({ "message": long })).await.unwrap();
}
