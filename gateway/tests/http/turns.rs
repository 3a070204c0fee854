//! Turns: answers, streams that are cut and resumed, keys, lines, aborts, people.

use hyper::Method;
use serde_json::{Value, json};

use crate::{
    common::{
        Gateway,
        client::Client,
        http::{Event, Http, deltas},
        until,
    },
    gateway,
};

fn messages(session: &str) -> String {
    format!("/api/v1/sessions/{session}/messages")
}

#[tokio::test]
async fn an_answer_comes_with_the_turns_end() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let answer = ada.post(&messages(&id), json!({ "prompt": "hello there" })).await;
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["content"]), (200, &json!("You said: hello there")), "{body}");
    assert_eq!((&body["outcome"], &body["session_id"]), (&json!("completed"), &json!(id)));
    let failed = ada.post(&messages(&id), json!({ "prompt": "[[error]]" })).await.problem(502, "turn-failed");
    assert_eq!(failed["error_type"], "query");
    assert_eq!(ada.ask(&id, "again").await, "You said: again", "a failed turn's idle does not end the next");
    let late = ada.post(&messages(&id), json!({ "prompt": "[[hang]]", "timeout_seconds": 1 })).await;
    let turn = late.problem(504, "timeout")["turn"].clone();
    let stopped = ada.post(&format!("/api/v1/sessions/{id}/abort"), json!({})).await.json();
    assert_eq!(stopped["turn_id"], turn);
    assert_eq!(ada.ask(&id, "and on").await, "You said: and on");
}

#[tokio::test]
async fn a_turn_streams_as_it_happens() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let body = json!({ "prompt": "[[say one two three]]" }).to_string();
    let mut stream = ada.stream(Method::POST, &messages(&id), Some(&body)).await;
    while stream.next().await.is_some() {}
    let kinds: Vec<_> = stream.seen.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds[0], "jetway.turn_started");
    assert_eq!(kinds.last(), Some(&"jetway.turn_ended"), "the stream ends with the turn");
    assert_eq!(stream.deltas(), "one two three");
    let end = &stream.seen.last().unwrap().data;
    assert_eq!((&end["outcome"], &end["content"]), (&json!("completed"), &json!("one two three")));
    let refused = json!({ "prompt": "hi" }).to_string();
    let mut again = ada.stream(Method::POST, &messages(&id), Some(&refused)).await;
    let started = again.until("jetway.turn_started").await;
    assert_eq!(again.seen.len(), 1, "nothing of the turn before: {:?}", again.seen);
    assert_ne!(started.data["turn"], stream.seen[0].data["turn"]);
}

/// A reader that comes back where it was gets what it missed, once.
#[tokio::test]
async fn a_stream_goes_on_where_it_was_cut() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut whole = ada.events(&id).await;
    let asked = {
        let (ada, id) = (ada.clone(), id.clone());
        tokio::spawn(async move { ada.post(&messages(&id), json!({ "prompt": "[[deltas 200 7 1]]" })).await })
    };
    let mut pieces: Vec<Event> = Vec::new();
    let mut last: Option<String> = None;
    // The first piece begins before the turn does.
    'pieces: for n in 0.. {
        let reader = match &last {
            Some(id) => ada.clone().with("last-event-id", id),
            None => ada.clone(),
        };
        let mut piece = reader.events(&id).await;
        for _ in 0..=(n * 7 % 31) {
            let event = piece.next().await.unwrap();
            let end = event.kind == "jetway.turn_ended";
            last = Some(event.id.clone());
            pieces.push(event);
            if end {
                break 'pieces;
            }
        }
    }
    whole.until("jetway.turn_ended").await;
    assert_eq!(asked.await.unwrap().status, 200);
    let from = whole.seen.iter().position(|e| e.id == pieces[0].id).unwrap();
    assert_eq!(pieces, whole.seen[from..]);
    assert_eq!(deltas(&whole.seen).len(), 1400);
}

#[tokio::test]
async fn a_place_that_is_gone_is_answered_by_a_snapshot() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut first = ada.events(&id).await;
    ada.ask(&id, "[[deltas 3 10 0]]").await;
    let before = first.next().await.unwrap().id;
    // More than is kept.
    ada.ask(&id, "[[quiet]] [[deltas 9000 10 0]]").await;
    let mut back = ada.clone().with("last-event-id", &before).events(&id).await;
    let snapshot = back.next().await.unwrap();
    assert_eq!((snapshot.kind.as_str(), &snapshot.data["running"]), ("jetway.snapshot", &json!(false)));
    ada.ask(&id, "hi").await;
    assert_eq!(back.next().await.unwrap().kind, "jetway.turn_started", "then it goes on");
    for unknown in ["nonsense", "00000000-7"] {
        let mut stream = ada.clone().with("last-event-id", unknown).events(&id).await;
        assert_eq!(stream.next().await.unwrap().kind, "jetway.snapshot");
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_turn() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let body = json!({ "prompt": "[[deltas 50 5 10]]" }).to_string();
    let mut stream = ada.stream(Method::POST, &messages(&id), Some(&body)).await;
    stream.until("assistant.message_delta").await;
    let place = stream.seen.last().unwrap().id.clone();
    drop(stream);
    let mut back = ada.clone().with("last-event-id", &place).events(&id).await;
    let end = back.until("jetway.turn_ended").await;
    assert_eq!(end.data["outcome"], "completed");
    assert_eq!(stub.received().iter().filter(|r| r.method == "session.send").count(), 1);
}

#[tokio::test]
async fn a_key_stands_for_one_turn() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada").with("idempotency-key", "k-1");
    let id = ada.create(json!({})).await;
    let body = json!({ "prompt": "[[delay 50]] once" });
    let path = messages(&id);
    let (one, two) = tokio::join!(ada.post(&path, body.clone()), ada.post(&path, body.clone()));
    let three = ada.post(&path, body.clone()).await;
    assert_eq!((&one.text, &one.text), (&two.text, &three.text));
    assert_eq!(three.headers["idempotency-replayed"], "true");
    let sent = || stub.received().iter().filter(|r| r.method == "session.send").count();
    assert_eq!(sent(), 1);
    ada.post(&path, json!({ "prompt": "else" })).await.problem(422, "invalid-request");
    let mut replay = ada.stream(Method::POST, &path, Some(&body.to_string())).await;
    assert_eq!(replay.until("jetway.turn_ended").await.data["turn"], one.json()["turn_id"]);
    assert_eq!(replay.deltas(), "You said: once");
    let other = Http::user(&gateway, "ada").with("idempotency-key", "k-2");
    assert_eq!(other.post(&path, body).await.status, 200);
    assert_eq!(sent(), 2);
}

/// Neither a gateway that is started anew nor another one sends it again.
#[tokio::test]
async fn a_key_outlives_its_gateway() {
    let (stub, gateway, dir) = gateway("").await;
    let body = |n: u32| json!({ "prompt": format!("number {n}") });
    let keyed =
        |gateway: &Gateway, n: u32| Http::user(gateway, "ada").with("idempotency-key", &format!("k-{n}"));
    let id = Http::user(&gateway, "ada").create(json!({})).await;
    let path = messages(&id);
    let one = keyed(&gateway, 1).post(&path, body(1)).await.json();
    let lost = keyed(&gateway, 2);
    let unheard = json!({ "prompt": "[[hang]]" });
    let waits = tokio::spawn({
        let (path, unheard) = (path.clone(), unheard.clone());
        async move { lost.post(&path, unheard).await }
    });
    until("it runs", || stub.received().iter().filter(|r| r.method == "session.send").count() == 2).await;
    gateway.app.drain(std::future::ready(())).await;
    waits.await.unwrap();
    let sent = || stub.received().iter().filter(|r| r.method == "session.send").count();

    let gateway = crate::gateway_on(&stub, &dir, "").await;
    let again = keyed(&gateway, 1).post(&path, body(1)).await;
    assert_eq!((again.status.as_u16(), &again.json()["content"]), (200, &json!("You said: number 1")));
    assert_eq!(
        (&again.json()["turn_id"], &again.json()["message_id"]),
        (&one["turn_id"], &one["message_id"])
    );
    assert_eq!(again.headers["idempotency-replayed"], "true");
    keyed(&gateway, 2).post(&path, unheard).await.problem(502, "turn-indeterminate");
    keyed(&gateway, 1).post(&path, body(2)).await.problem(422, "invalid-request");
    let mut replay = keyed(&gateway, 1).stream(Method::POST, &path, Some(&body(1).to_string())).await;
    assert_eq!(replay.until("jetway.turn_ended").await.data["turn"], one["turn_id"]);
    assert_eq!(sent(), 2, "nothing was sent again");
    assert_eq!(keyed(&gateway, 3).post(&path, body(3)).await.status, 200);
    assert_eq!(sent(), 3);
}

#[tokio::test]
async fn a_turn_does_not_wait_for_ever() {
    let (_stub, gateway, _dir) = gateway("locks = { wait = \"1s\" }\n").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let path = messages(&id);
    let body = json!({ "prompt": "[[hang]]" }).to_string();
    let mut holder = ada.stream(Method::POST, &path, Some(&body)).await;
    let turn = holder.until("jetway.turn_started").await.data["turn"].clone();
    let busy = ada.post(&path, json!({ "prompt": "no", "mode": "refuse" })).await;
    assert_eq!(busy.problem(409, "session-busy")["turn"], turn);
    assert!(busy.headers.contains_key("retry-after"));
    ada.post(&path, json!({ "prompt": "waits in vain" })).await.problem(409, "session-busy");
    ada.post(&format!("/api/v1/sessions/{id}/abort"), json!({})).await;
    assert_eq!(holder.until("jetway.turn_ended").await.data["outcome"], "aborted");
}

#[tokio::test]
async fn a_turn_of_the_sdk_port_is_one_to_refuse_for_and_to_say_into() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    for (members, holder) in [(json!([]), Value::Null), (json!([{ "user": "bob" }]), json!("ada"))] {
        let id = ada.create(json!({ "members": members })).await;
        assert_eq!(ada.ask(&id, "over HTTP").await, "You said: over HTTP");
        let mut sdk = Client::hello(gateway.sdk, "ada").await;
        sdk.call("session.resume", json!({ "sessionId": id })).await.unwrap();
        sdk.prompt(&id, "[[delay 1000]] first").await.unwrap();
        let refused = ada.post(&messages(&id), json!({ "prompt": "no", "mode": "refuse" })).await;
        assert_eq!(refused.problem(409, "session-busy")["user"], holder);
        let aside = json!({ "prompt": "an aside", "mode": "immediate" });
        let aside = ada.post(&messages(&id), aside).await;
        assert_eq!(aside.json()["content"], "You said: an aside", "{}", aside.text);
        let sent = stub.received().into_iter().rfind(|r| r.method == "session.send").unwrap();
        assert!(sent.params.contains(r#""mode":"immediate""#), "{}", sent.params);
        assert_eq!(ada.ask(&id, "and on").await, "You said: and on");
    }
}

#[tokio::test]
async fn turns_wait_in_line() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let asked: Vec<_> = (0..3)
        .map(|n| {
            let (ada, id) = (ada.clone(), id.clone());
            tokio::spawn(async move { ada.ask(&id, &format!("[[delay 20]] {n}")).await })
        })
        .collect();
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap(), format!("You said: {n}"));
    }
    assert_eq!(stub.ledger().findings().overlaps, []);
}

#[tokio::test]
async fn permissions_are_denied_unless_somebody_decides() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let denied = ada.create(json!({})).await;
    assert_eq!(ada.ask(&denied, "[[permission]]").await, "permission: reject");
    let approved = ada.create(json!({ "permissions": "approve" })).await;
    assert_eq!(ada.ask(&approved, "[[permission]]").await, "permission: approve-once");
    let asked = ada.create(json!({ "permissions": "ask" })).await;
    assert_eq!(
        decided(&ada, &asked, "[[permission]]", json!({ "decision": "approve" })).await,
        "permission: approve-once"
    );
    assert_eq!(
        decided(&ada, &asked, "[[permission]]", json!({ "decision": "deny" })).await,
        "permission: reject"
    );
    let question = decided(&ada, &asked, "[[userinput]]", json!({ "answer": "green" })).await;
    assert!(question.contains("green") && question.contains("true"), "{question}");
    assert!(ada.ask(&denied, "[[userinput]]").await.contains("nobody is there to answer"));
    ada.patch(&format!("/api/v1/sessions/{denied}"), json!({ "permissions": "approve" })).await;
    assert_eq!(ada.ask(&denied, "[[permission]]").await, "permission: approve-once");
}

/// A turn in which somebody answers what is asked.
async fn decided(user: &Http, session: &str, prompt: &str, answer: Value) -> String {
    let asking = {
        let (user, session, prompt) = (user.clone(), session.to_owned(), prompt.to_owned());
        tokio::spawn(async move { user.ask(&session, &prompt).await })
    };
    let path = format!("/api/v1/sessions/{session}/requests");
    let request = loop {
        let waiting = user.get(&path).await.json();
        if let Some(request) = waiting["requests"].get(0).filter(|r| r["expires_at"].is_string()) {
            break request["id"].as_str().unwrap().to_owned();
        }
        assert!(!asking.is_finished(), "it waits for an answer");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let path = format!("{path}/{request}");
    user.post(&path, json!({})).await.problem(422, "invalid-request");
    assert_eq!(user.post(&path, answer.clone()).await.status, 204);
    let said = asking.await.unwrap();
    user.post(&path, answer).await.problem(404, "not-found");
    said
}

#[tokio::test]
async fn a_turn_whose_server_is_lost_is_indeterminate() {
    let (stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    ada.ask(&id, "first").await;
    let asking = {
        let (ada, path) = (ada.clone(), messages(&id));
        tokio::spawn(async move { ada.post(&path, json!({ "prompt": "[[hang]]" })).await })
    };
    until("the turn runs", || stub.stats(0).turns == 1).await;
    stub.crash(0);
    asking.await.unwrap().problem(502, "turn-indeterminate");
    stub.restart(0).unwrap();
    for _ in 0..2000 {
        let answer = ada.post(&messages(&id), json!({ "prompt": "[[history]]" })).await;
        if answer.status == 200 {
            assert!(answer.text.contains("first"), "{}", answer.text);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the session did not come back");
}

/// An abort reaches a prompt that waits for room, and nothing of it is sent when there is room.
#[tokio::test]
async fn a_prompt_that_waits_for_room_can_be_given_up() {
    let (stub, gateway, _dir) = gateway("limits.max_concurrent_turns = 1\n").await;
    let ada = Http::user(&gateway, "ada");
    let [runs, waits] = [ada.create(json!({})).await, ada.create(json!({})).await];
    let ask = |id: &str, prompt: &str| {
        let (ada, path, body) = (ada.clone(), messages(id), json!({ "prompt": prompt }));
        tokio::spawn(async move { ada.post(&path, body).await })
    };
    let mut events = ada.events(&waits).await;
    let hangs = ask(&runs, "[[hang]]");
    until("it runs", || stub.stats(0).turns == 1).await;
    let waiting = ask(&waits, "never said");
    let begun = events.until("jetway.turn_started").await;
    // It takes its place in the line a moment later.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let stopped = ada.post(&format!("/api/v1/sessions/{waits}/abort"), json!({})).await.json();
    assert_eq!(stopped["turn_id"], begun.data["turn"]);
    waiting.await.unwrap().problem(409, "aborted");
    ada.post(&format!("/api/v1/sessions/{runs}/abort"), json!({})).await;
    assert_eq!(hangs.await.unwrap().json()["outcome"], "aborted");
    assert_eq!(ada.ask(&waits, "[[history]]").await, "History: ");
}
