//! Replies overtake events: what is told late of one turn must not end the next.
//!
//! On a real runtime this is a matter of microseconds; the stub's `[[lag]]` makes it half a second.

mod common;

use std::time::Duration;

use common::{
    client::{Client, is_event},
    http::Http,
    start_fleet,
};
use jetway_loadtest::stub::{Event, Stub};
use serde_json::{Value, json};

/// People who share a session `room`, each attached; the first one owns it.
async fn room(gateway: &common::Gateway, people: &[&str]) -> Vec<Client> {
    let members: Vec<_> = people[1..].iter().map(|user| json!({ "user": user, "role": "member" })).collect();
    let mut all = Vec::new();
    for (n, user) in people.iter().enumerate() {
        let mut client = Client::hello(gateway.sdk, user).await;
        let mut params = json!({ "sessionId": "room", "model": "stub" });
        if n == 0 {
            params["members"] = json!(members);
        }
        let method = if n == 0 { "session.create" } else { "session.resume" };
        client.call(method, params).await.unwrap();
        all.push(client);
    }
    all
}

/// Waits until as many turns have ended at the CLI server, whoever has heard of it.
async fn ended(stub: &Stub, turns: usize) {
    let over = || stub.ledger().entries().iter().filter(|e| e.event == Event::End).count();
    common::until("turns end", || over() == turns).await;
}

async fn idles(client: &mut Client, count: usize) {
    let is = |m: &&Value| is_event(m, "room", "session.idle");
    let came = client.read_until(common::PATIENCE, |seen| seen.iter().filter(is).count() >= count).await;
    assert!(came, "{} idles", client.events("room", "session.idle").len());
}

/// How many turns run, as the admin port has it.
async fn running(gateway: &common::Gateway) -> u64 {
    let (_, page) = common::program::get(gateway.admin, "/admin/v1/status").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    page["totals"]["turns"].as_u64().unwrap()
}

#[tokio::test]
async fn a_late_idle_ends_no_lease() {
    let (stub, gateway) = start_fleet(1, "").await;
    let [mut ada, mut bob] = <[Client; 2]>::try_from(room(&gateway, &["ada", "bob"]).await).ok().unwrap();
    // Bob's connection hears of her turn when his own runs already.
    ada.turn("room", "[[lag 500]] first").await;
    bob.prompt("room", "[[delay 1500]] second").await.unwrap();
    // She does not hear of the second's idle: for her there is more to do.
    assert_eq!(ada.turn("room", "third").await, "You said: third");
    idles(&mut ada, 2).await;
    idles(&mut bob, 2).await;
    let findings = stub.ledger().findings();
    assert!(findings.overlaps.is_empty() && findings.queued.is_empty(), "{findings:#?}");
}

#[tokio::test]
async fn a_late_idle_ends_no_turn_of_ones_own() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut ada = room(&gateway, &["ada"]).await.remove(0);
    ada.prompt("room", "[[lag 500 all]] first").await.unwrap();
    ended(&stub, 1).await;
    ada.prompt("room", "[[delay 1500]] second").await.unwrap();
    idles(&mut ada, 1).await;
    assert_eq!(running(&gateway).await, 1, "the first has ended, the second not");
    idles(&mut ada, 2).await;
    assert_eq!(running(&gateway).await, 0);
}

#[tokio::test]
async fn a_late_answer_is_not_the_next_ones() {
    let stub = common::stub(1);
    let gateway = common::start(&common::with_http(&common::fleet(stub.addrs(), ""))).await;
    let mut people = room(&gateway, &["ada", "bob"]).await;
    let ada = Http::user(&gateway, "ada");
    let path = "/api/v1/sessions/room/messages";
    assert_eq!(ada.post(path, json!({ "prompt": "hello" })).await.json()["content"], "You said: hello");
    people[1].turn("room", "[[lag 500]] [[say bob's]]").await;
    let answer = ada.post(path, json!({ "prompt": "[[delay 1500]] [[say ada's]]" })).await;
    assert_eq!(answer.json()["content"], "ada's", "{}", answer.text);
}

#[tokio::test]
async fn what_an_abort_drops_ends_as_well() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut ada = room(&gateway, &["ada"]).await.remove(0);
    ada.prompt("room", "[[hang]]").await.unwrap();
    ada.prompt("room", "never").await.unwrap();
    assert_eq!(running(&gateway).await, 2);
    ada.call("session.abort", json!({ "sessionId": "room" })).await.unwrap();
    idles(&mut ada, 1).await;
    assert_eq!(running(&gateway).await, 1, "nothing tells of the one that waited");
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while running(&gateway).await > 0 {
        assert!(std::time::Instant::now() < deadline, "the CLI server is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ada.turn("room", "next").await.contains("next"));
}
