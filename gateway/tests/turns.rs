//! One turn at a time in a session that several people share.

mod common;

use common::{
    client::{Client, is_event},
    start_fleet,
};
use jetway_loadtest::stub::Stub;
use serde_json::{Value, json};

/// The people of a session `room`, each attached: the first one owns it.
async fn room(gateway: &common::Gateway, busy: &str, people: &[&str]) -> Vec<Client> {
    let members: Vec<_> = people[1..].iter().map(|user| json!({ "user": user, "role": "member" })).collect();
    let mut all = Vec::new();
    for (n, user) in people.iter().enumerate() {
        let mut client = Client::hello(gateway.sdk, user).await;
        let (method, params) = match n {
            0 => (
                "session.create",
                json!({ "sessionId": "room", "model": "stub", "members": members, "jetway": { "busy": busy } }),
            ),
            _ => ("session.resume", json!({ "sessionId": "room" })),
        };
        client.call(method, params).await.unwrap();
        all.push(client);
    }
    all
}

fn started(client: &Client) -> Vec<&str> {
    let infos = client.events("room", "session.info");
    let turns = infos.into_iter().filter(|e| e["data"]["infoType"] == "jetway.turn_started");
    turns.map(|e| e["data"]["message"].as_str().unwrap()).collect()
}

fn no_overlap(stub: &Stub) {
    let findings = stub.ledger().findings();
    assert!(findings.overlaps.is_empty() && findings.queued.is_empty(), "{findings:?}");
}

#[tokio::test]
async fn prompts_wait_their_turn_and_everyone_sees_all() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob", "cyd"]).await;
    let mut ids = Vec::new();
    for client in &mut people {
        let prompt = json!({ "sessionId": "room", "prompt": "[[delay 50]] mine" });
        ids.push(client.request("session.send", prompt).await);
    }
    for (client, id) in people.iter_mut().zip(ids) {
        client.reply(id).await.unwrap();
    }
    for client in &mut people {
        let last = |seen: &[Value]| {
            let told = |kind| seen.iter().filter(|m| is_event(m, "room", kind)).count();
            told("assistant.message") == 3 && is_event(&seen[seen.len() - 1], "room", "session.idle")
        };
        assert!(client.read_until(common::PATIENCE, last).await);
        let mut who = started(client);
        who.sort_unstable();
        assert_eq!(who, ["ada", "bob", "cyd"]);
        assert_eq!(client.events("room", "assistant.message").len(), 3);
    }
    no_overlap(&stub);
}

#[tokio::test]
async fn who_waits_hears_of_no_idle_before_their_own() {
    let (_stub, gateway) = start_fleet(1, "locks.wait = \"1s\"").await;
    let mut people = room(&gateway, "wait", &["ada", "bob", "cyd"]).await;
    let idles = |client: &Client| client.events("room", "session.idle").len();
    people[0].prompt("room", "[[delay 300]] first").await.unwrap();
    assert_eq!(people[1].turn("room", "second").await, "You said: second");
    assert_eq!(idles(&people[1]), 1);
    // What is refused was nothing to wait for: the idle of one's own turn is told late.
    people[1].prompt("room", "[[delay 300]] third").await.unwrap();
    let mut ids = Vec::new();
    for (client, prompt) in [(2, "[[hang]]"), (1, "never")] {
        let prompt = json!({ "sessionId": "room", "prompt": prompt });
        ids.push(people[client].request("session.send", prompt).await);
        // Answered after it: the prompt stands in line then.
        people[client].call("ping", json!({})).await.unwrap();
    }
    assert_eq!(people[1].reply(ids[1]).await.unwrap_err()["code"], -32013);
    let at = people[1].seen.iter().position(|m| m["id"] == ids[1] && m["method"].is_null()).unwrap();
    people[1].find(at, |m| is_event(m, "room", "session.idle")).await;
    assert_eq!(idles(&people[1]), 2);
}

#[tokio::test]
async fn a_busy_session_says_who_holds_it() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "refuse", &["ada", "bob"]).await;
    people[0].prompt("room", "[[hang]]").await.unwrap();
    let error = people[1].prompt("room", "me too").await.unwrap_err();
    assert_eq!(error["code"], -32013, "{error}");
    assert_eq!((&error["data"]["holder"], &error["data"]["position"]), (&json!("ada"), &json!(0)), "{error}");
    assert!(error["data"]["retryAfterMs"].as_u64().unwrap() > 0);
    // The one who waits does not stop the rest of its connection.
    people[0].call("session.abort", json!({ "sessionId": "room" })).await.unwrap();
    people[0].find(0, |m| is_event(m, "room", "session.idle")).await;
    people[1].turn("room", "now").await;
}

#[tokio::test]
async fn who_waits_can_still_abort_and_leave() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob", "cyd"]).await;
    people[0].prompt("room", "[[hang]]").await.unwrap();
    let waiting = people[1].request("session.send", json!({ "sessionId": "room", "prompt": "bob's" })).await;
    people[1].call("ping", json!({})).await.unwrap();
    let gone = people[2].request("session.send", json!({ "sessionId": "room", "prompt": "cyd's" })).await;
    people[2].call("ping", json!({})).await.unwrap();
    let _ = gone;
    drop(people.pop());
    people[0].call("session.abort", json!({ "sessionId": "room" })).await.unwrap();
    people[1].reply(waiting).await.unwrap();
    people[1].find(0, |m| is_event(m, "room", "assistant.message")).await;
    people[0].turn("room", "last").await;
    let prompts: Vec<Value> = stub
        .received()
        .iter()
        .filter(|r| r.method == "session.send")
        .map(|r| serde_json::from_str::<Value>(&r.params).unwrap()["prompt"].clone())
        .collect();
    assert_eq!(prompts, ["[[hang]]", "bob's", "last"], "what nobody waits for reaches no CLI server");
}

#[tokio::test]
async fn steering_joins_the_turn_that_runs() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "steer", &["ada", "bob"]).await;
    people[0].prompt("room", "[[delay 300]] first").await.unwrap();
    people[1].prompt("room", "mind this").await.unwrap();
    let sent = stub.received().into_iter().rfind(|r| r.method == "session.send").unwrap();
    let sent: Value = serde_json::from_str(&sent.params).unwrap();
    assert_eq!((&sent["mode"], &sent["prompt"]), (&json!("immediate"), &json!("mind this")));
}

/// It is a turn like any other: while one runs there is nothing to go on with.
#[tokio::test]
async fn going_on_with_what_waits_is_a_turn() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob"]).await;
    let resume = json!({ "sessionId": "room", "continuePendingWork": true });
    let asked = || {
        let sent = stub.received().into_iter().rfind(|r| r.method == "session.resume").unwrap();
        sent.params.contains("continuePendingWork")
    };
    people[1].call("session.resume", resume.clone()).await.unwrap();
    assert!(asked(), "nobody has the turn");
    // Nothing waited, so the lease is free.
    people[0].prompt("room", "[[delay 300]] first").await.unwrap();
    people[1].call("session.resume", resume).await.unwrap();
    assert!(!asked(), "ada has it");
    assert_eq!(people[1].turn("room", "second").await, "You said: second");
}

/// Without a second attachment the CLI would stop the turn with its client.
#[tokio::test]
async fn a_turn_runs_on_without_its_client_and_the_next_one_takes_it_over() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    let tools = json!([{ "name": "mine", "description": "", "parameters": {} }]);
    let params = json!({ "sessionId": "room", "model": "stub", "tools": tools, "hooks": true });
    ada.call("session.create", params.clone()).await.unwrap();
    ada.prompt(
        "room",
        "[[say before]] [[delay 1000]] [[say meanwhile]] [[hook]] [[tool mine]] [[say after]]",
    )
    .await
    .unwrap();
    ada.find(0, |m| is_event(m, "room", "assistant.message_delta")).await;
    drop(ada);
    let mut back = Client::hello(gateway.sdk, "ada").await;
    back.call("session.resume", params).await.unwrap();
    let hook = back.find(0, |m| m["method"] == "hooks.invoke").await["id"].clone();
    let said: String = back
        .events("room", "assistant.message_delta")
        .iter()
        .map(|e| e["data"]["deltaContent"].as_str().unwrap())
        .collect();
    assert!(said.contains("meanwhile"), "{said}");
    back.send(&json!({ "jsonrpc": "2.0", "id": hook, "result": {} })).await;
    let asked = back.find(0, |m| is_event(m, "room", "external_tool.requested")).await;
    let request = asked["params"]["event"]["data"]["requestId"].clone();
    let answer = json!({ "sessionId": "room", "requestId": request, "result": "done" });
    back.call("session.tools.handlePendingToolCall", answer).await.unwrap();
    back.find(0, |m| is_event(m, "room", "session.idle")).await;
    let findings = stub.ledger().findings();
    assert!(findings.is_clean(), "{findings:?}");
    assert_eq!(back.turn("room", "and on").await, "You said: and on");
}

/// Whoever's turn it is has the first say; when that one is silent, anybody.
#[tokio::test]
async fn requests_come_to_the_turns_own_user_first() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob"]).await;
    let is_asked = |m: &Value| is_event(m, "room", "permission.requested");
    people[0].prompt("room", "[[permission]]").await.unwrap();
    let asked = people[0].find(0, is_asked).await["params"]["event"]["data"]["requestId"].clone();
    people[1].call("ping", json!({})).await.unwrap();
    assert!(people[1].events("room", "permission.requested").is_empty());
    let answer =
        |id: &Value| json!({ "sessionId": "room", "requestId": id, "result": { "kind": "approve-once" } });
    let method = "session.permissions.handlePendingPermissionRequest";
    people[0].call(method, answer(&asked)).await.unwrap();
    // The others see what was asked before they see that it was answered.
    people[1].find(0, |m| is_event(m, "room", "permission.completed")).await;
    assert_eq!(people[1].events("room", "permission.requested").len(), 1);

    people[0].find(0, |m| is_event(m, "room", "session.idle")).await;
    let from = people[1].seen.len();
    people[0].prompt("room", "[[permission]]").await.unwrap();
    let asked = people[1].find(from, is_asked).await["params"]["event"]["data"]["requestId"].clone();
    people[1].call(method, answer(&asked)).await.unwrap();
    people[0].find(from, |m| is_event(m, "room", "permission.completed")).await;
}

/// The turn goes on, since others are attached; nobody of this gateway's would be told of its end.
#[tokio::test]
async fn who_begins_a_turn_may_leave_it_to_the_others() {
    let (stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob"]).await;
    people[0].prompt("room", "[[delay 300]] hers").await.unwrap();
    people[0].call("session.detach", json!({ "sessionId": "room" })).await.unwrap();
    people[1].find(0, |m| is_event(m, "room", "session.idle")).await;
    assert_eq!(people[1].turn("room", "his").await, "You said: his");
    no_overlap(&stub);
}

#[tokio::test]
async fn status_shows_who_holds_and_who_waits() {
    let (_stub, gateway) = start_fleet(1, "").await;
    let mut people = room(&gateway, "wait", &["ada", "bob", "cyd"]).await;
    people[0].prompt("room", "[[hang]]").await.unwrap();
    for client in &mut people[1..] {
        client.request("session.send", json!({ "sessionId": "room", "prompt": "next" })).await;
        // Answered after it: the prompt stands in line then.
        client.call("ping", json!({})).await.unwrap();
    }
    let (status, page) = common::program::get(gateway.admin, "/admin/v1/status").await;
    assert_eq!(status, 200, "{page}");
    let page: Value = serde_json::from_str(&page).unwrap();
    let row = &page["locks"][0];
    assert_eq!((&row["session"], &row["owner"]), (&json!("room"), &json!("local/ada")), "{page:#}");
    assert_eq!((&row["turn"]["user"], row["fence"].is_string()), (&json!("ada"), true), "{row:#}");
    let waiting: Vec<_> = row["waiting"].as_array().unwrap().iter().map(|w| w["user"].clone()).collect();
    assert_eq!(waiting, ["bob", "cyd"]);
}
