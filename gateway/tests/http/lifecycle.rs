//! What happens to a user's sessions, told to that user and to nobody else.

use std::collections::HashSet;

use hyper::Method;
use serde_json::{Value, json};

use jetway_loadtest::{
    redis::Redis,
    stub::{Options, Stub},
};

use crate::{
    common::{
        Gateway,
        client::Client,
        fleet,
        http::{Event, Http, Stream},
        start, stub, with_http,
    },
    gateway,
};

const PATH: &str = "/api/v1/events";

async fn follow(user: &Http) -> Stream {
    user.stream(Method::GET, PATH, None).await
}

/// The next event that is not one of use.
async fn next(stream: &mut Stream) -> Event {
    loop {
        let event = stream.next().await.expect("it goes on");
        if event.kind != "session.updated" {
            return event;
        }
    }
}

/// Reads until it is told that a session is called so.
async fn renamed(stream: &mut Stream, name: &str) -> Event {
    loop {
        let event = stream.until("session.updated").await;
        if event.data["metadata"]["summary"] == name {
            return event;
        }
    }
}

#[tokio::test]
async fn what_happens_to_ones_sessions_is_told() {
    let (_stub, gateway, _dir) = gateway("").await;
    let (ada, bob, eve) =
        (Http::user(&gateway, "ada"), Http::user(&gateway, "bob"), Http::user(&gateway, "eve"));
    let (mut adas, mut bobs, mut eves) = (follow(&ada).await, follow(&bob).await, follow(&eve).await);
    let id = ada.create(json!({ "name": "review" })).await;
    let created = next(&mut adas).await;
    assert_eq!(
        (created.kind.as_str(), &created.data["type"]),
        ("session.created", &json!("session.created"))
    );
    assert_eq!((&created.data["sessionId"], &created.data["user"]), (&json!(id), &json!("ada")));
    let metadata = &created.data["metadata"];
    assert_eq!(metadata["summary"], "review");
    assert!(metadata["startTime"].as_str().unwrap().ends_with('Z') && metadata["modifiedTime"].is_string());

    let path = format!("/api/v1/sessions/{id}");
    ada.patch(&path, json!({ "name": "final review" })).await;
    renamed(&mut adas, "final review").await;

    // Shared, and not any more.
    let member = format!("{path}/members/bob");
    assert_eq!(ada.put(&member, json!({ "role": "viewer" })).await.status, 204);
    let shared = next(&mut bobs).await;
    assert_eq!((shared.kind.as_str(), &shared.data["user"]), ("session.created", &json!("ada")));
    assert_eq!(ada.delete(&member).await.status, 204);
    assert_eq!(next(&mut bobs).await.kind, "session.deleted");

    // By the SDK port as well.
    let mut sdk = Client::hello(gateway.sdk, "ada").await;
    sdk.create("by-sdk").await;
    assert_eq!(next(&mut adas).await.data["sessionId"], "by-sdk");
    sdk.call("session.delete", json!({ "sessionId": "by-sdk" })).await.unwrap();
    let deleted = next(&mut adas).await;
    assert_eq!(deleted.data, json!({ "type": "session.deleted", "sessionId": "by-sdk", "user": "ada" }));
    assert_eq!(ada.delete(&path).await.status, 204);
    let last = next(&mut adas).await;
    assert_eq!((last.kind.as_str(), &last.data["sessionId"]), ("session.deleted", &json!(id)));
    eve.create(json!({ "session_id": "of-eve" })).await;
    assert_eq!(eves.next().await.unwrap().data["sessionId"], "of-eve", "the first that eve hears");

    // Where one was, without a gap and without a repetition.
    let from = adas.seen.iter().position(|e| e.id == created.id).unwrap();
    let mut back = follow(&ada.clone().with("last-event-id", &created.id)).await;
    for event in &adas.seen[from + 1..] {
        assert_eq!(back.next().await.as_ref(), Some(event));
    }
    for unknown in ["nonsense", "00000000-7"] {
        let mut lost = follow(&ada.clone().with("last-event-id", unknown)).await;
        let snapshot = lost.next().await.unwrap();
        assert_eq!(
            (snapshot.kind.as_str(), &snapshot.data["sessions_url"]),
            ("jetway.snapshot", &json!("/api/v1/sessions"))
        );
    }
}

/// Use is told once a second at most, whatever happens in a turn.
#[tokio::test]
async fn use_is_told_in_measure() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut stream = follow(&ada).await;
    for n in 0..20 {
        ada.ask(&id, &format!("[[deltas 20 5 1]] {n}")).await;
    }
    let used = stream.until("session.updated").await;
    assert!(used.data["metadata"]["modifiedTime"].is_string());
    // The next thing of note ends what is counted.
    ada.create(json!({})).await;
    stream.until("session.created").await;
    assert!(stream.seen.len() < 12, "{:#?}", stream.seen);
}

/// Check 26 on the HTTP port: `JETWAY_LIFECYCLE` events, 10,000 with `make faces`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_26_nothing_of_others_is_told() {
    let wanted = std::env::var("JETWAY_LIFECYCLE").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let keys = ["acme", "umbrella"].map(|tenant| {
        let key = jetway_config::ApiKey::generate();
        let entry = key.entry(tenant.parse().unwrap());
        (
            key.expose().to_owned(),
            format!(
                "{{ id = \"{}\", tenant = \"{tenant}\", sha256 = \"{}\" }}",
                entry.id,
                entry.sha256.to_hex()
            ),
        )
    });
    let (_stub, gateway, _dir) = gateway(&format!("auth.keys = [{}, {}]\n", keys[0].1, keys[1].1)).await;
    let mut told = 0;
    let mut foreign = 0;
    // The same user's name in both, and two users of one.
    let people = [(0, "ada"), (0, "bob"), (1, "ada")];
    let tasks = people.map(|(tenant, user)| {
        let http = Http::to(&gateway).with("authorization", &format!("Bearer {}:{user}", keys[tenant].0));
        tokio::spawn(async move {
            let mut stream = follow(&http).await;
            let mut own = HashSet::new();
            let each = wanted / 3 + 1;
            let asking = {
                let http = http.clone();
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    for n in 0..4 {
                        ids.push(http.create(json!({ "name": format!("{tenant} {user} {n}") })).await);
                    }
                    for n in 0..each {
                        let path = format!("/api/v1/sessions/{}", ids[n % ids.len()]);
                        let name = json!({ "name": format!("{tenant} {user} {n}") });
                        assert_eq!(http.patch(&path, name).await.status, 200);
                    }
                    ids
                })
            };
            let last = format!("{tenant} {user} {}", each - 1);
            renamed(&mut stream, &last).await;
            own.extend(asking.await.unwrap());
            let prefix = format!("{tenant} {user} ");
            let mine = |e: &&Event| {
                own.contains(e.data["sessionId"].as_str().unwrap_or_default())
                    && e.data["metadata"]["summary"].as_str().is_some_and(|s| s.starts_with(&prefix))
            };
            (stream.seen.len(), stream.seen.iter().filter(|e| !mine(e)).count())
        })
    });
    for task in tasks {
        let (seen, strange) = task.await.unwrap();
        told += seen;
        foreign += strange;
    }
    println!(
        "CHECK 26 (HTTP): {told} lifecycle events of two tenants, {foreign} with another's session or summary"
    );
    assert_eq!(foreign, 0);
    assert!(told >= wanted, "{told}");
}

/// Two gateways that share a directory tell what happens at either.
#[tokio::test]
async fn gateways_tell_each_other() {
    let Some(mut redis) = Redis::start_for("gateways_tell_each_other", &[]) else { return };
    let stub = stub(1);
    let more =
        format!("redis.url = \"{}\"\ndirectory.store = \"redis\"\nlocks.store = \"redis\"\n", redis.url());
    let toml = with_http(&fleet(stub.addrs(), &more));
    let (one, other): (Gateway, Gateway) = (start(&toml).await, start(&toml).await);
    let (here, there) = (Http::user(&one, "ada"), Http::user(&other, "ada"));
    let mut stream = follow(&there).await;
    let id = here.create(json!({ "name": "far", "members": [{ "user": "bob", "role": "viewer" }] })).await;
    let created = loop {
        // It listens to the other a moment after its start, and says that it may have missed something.
        match stream.next().await.unwrap() {
            event if event.kind == "jetway.snapshot" => {}
            event => break event,
        }
    };
    assert_eq!((created.kind.as_str(), &created.data["sessionId"]), ("session.created", &json!(id)));
    here.patch(&format!("/api/v1/sessions/{id}"), json!({ "name": "farther" })).await;
    renamed(&mut stream, "farther").await;

    // Whoever is put out at one gateway reads no more at the other.
    let mut bobs = Http::user(&other, "bob").events(&id).await;
    there.ask(&id, "hello").await;
    bobs.until("jetway.turn_ended").await;
    assert_eq!(here.delete(&format!("/api/v1/sessions/{id}/members/bob")).await.status, 204);
    let error: Value = bobs.until("jetway.error").await.data;
    assert_eq!(error["status"], 404);
    assert!(bobs.next().await.is_none());
    here.delete(&format!("/api/v1/sessions/{id}")).await;
    stream.until("session.deleted").await;

    // Redis is away for a moment: what happened meanwhile is not known, and that is said.
    redis.kill();
    redis.up();
    stream.until("jetway.snapshot").await;
}

/// Where a CLI server has a terminal.
#[tokio::test]
async fn a_terminal_shows_a_session() {
    let stub = Stub::start(Options { terminal: true, ..Options::default() }).unwrap();
    let gateway = start(&with_http(&fleet(stub.addrs(), ""))).await;
    let (ada, bob) = (Http::user(&gateway, "ada"), Http::user(&gateway, "bob"));
    let (one, two) = (ada.create(json!({ "name": "one" })).await, ada.create(json!({})).await);
    let mut stream = follow(&ada).await;
    ada.get("/api/v1/foreground").await.problem(501, "not-implemented");
    assert_eq!(ada.put("/api/v1/foreground", json!({ "session": "one" })).await.status, 204);
    assert_eq!(ada.get("/api/v1/foreground").await.json()["session_id"], one);
    assert_eq!(ada.put("/api/v1/foreground", json!({ "session": two })).await.status, 204);
    let shown = stream.until("session.foreground").await;
    assert_eq!(shown.data["sessionId"], one);
    assert_eq!(stream.until("session.background").await.data["sessionId"], one);
    assert_eq!(stream.until("session.foreground").await.data["sessionId"], two);
    let of = |kind: &str| stream.seen.iter().filter(|e| e.kind == kind).count();
    assert_eq!(
        (of("session.foreground"), of("session.background")),
        (2, 1),
        "each once, though each leg tells of it"
    );
    bob.get("/api/v1/foreground").await.problem(501, "not-implemented");
    bob.put("/api/v1/foreground", json!({ "session": one })).await.problem(404, "session-not-found");
}
