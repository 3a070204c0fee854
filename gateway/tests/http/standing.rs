//! Streams last as long as their reader is welcome, and their gateway is there.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use jetway_config::{ApiKey, Sources};

use crate::{
    common::{
        Gateway, PATIENCE, fleet,
        http::{Http, Stream},
        issuer::{Place, Signer, claims, claims_with, now},
        start, start_from, stub, with_http,
    },
    gateway,
    websocket::{Socket, open},
};

/// What is promised, and a machine that does other things.
const SOON: Duration = Duration::from_secs(1);

/// Reads to the end, which must be a `jetway.error`.
async fn ends(stream: &mut Stream) -> Value {
    let error = stream.until("jetway.error").await;
    assert!(stream.next().await.is_none(), "that is the last: {:?}", stream.seen);
    error.data
}

/// The same over WebSocket: what is said last, and the close code.
async fn closes(socket: &mut Socket) -> (Value, u16) {
    let mut last = Value::Null;
    loop {
        match timeout(PATIENCE * 2, socket.next()).await.expect("in time") {
            Some(Ok(Message::Text(text))) => last = serde_json::from_str(&text).unwrap(),
            Some(Ok(Message::Close(close))) => return (last, close.expect("a reason").code.into()),
            Some(Ok(_)) => {}
            end => panic!("no close: {end:?} after {last}"),
        }
    }
}

fn key() -> (String, String) {
    let key = ApiKey::generate();
    let entry = key.entry("acme".parse().unwrap());
    let (id, hash) = (&entry.id, entry.sha256.to_hex());
    (key.expose().to_owned(), format!("{{ id = \"{id}\", tenant = \"acme\", sha256 = \"{hash}\" }}"))
}

/// The events of a session, of all one's sessions, and of a turn that hangs; and a WebSocket.
async fn streams(gateway: &Gateway, bearer: &str, id: &str) -> (Vec<Stream>, Socket) {
    let user = Http::to(gateway).with("authorization", bearer);
    let mut streams =
        vec![user.events(id).await, user.stream(hyper::Method::GET, "/api/v1/events", None).await];
    let body = json!({ "prompt": "[[hang]]" }).to_string();
    let path = format!("/api/v1/sessions/{id}/messages");
    let mut turn = user.stream(hyper::Method::POST, &path, Some(&body)).await;
    turn.until("user.message").await;
    streams.push(turn);
    let header = Some(("authorization", bearer));
    (streams, open(gateway, "", id, header).await.unwrap())
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams_and_no_others() {
    let ((goes, goes_entry), (stays, stays_entry)) = (key(), key());
    let (stub, dir) = (stub(1), tempfile::tempdir().unwrap());
    let toml = with_http(&fleet(stub.addrs(), "# keys"));
    let path = dir.path().join("jetway.toml");
    let write = |keys: &[&str]| {
        let keys = format!("auth.keys = [{}]", keys.join(", "));
        std::fs::write(&path, toml.replace("# keys", &keys)).unwrap();
    };
    write(&[&goes_entry, &stays_entry]);
    let sources = Sources::system(Some(&path));
    let gateway = start_from(&sources).await;
    let reload = gateway.app.watch(sources);
    let (goes, stays) = (format!("Bearer {goes}:ada"), format!("Bearer {stays}:ada"));
    let ada = Http::to(&gateway).with("authorization", &stays);
    let id = ada.create(json!({})).await;
    let mut kept = ada.events(&id).await;
    let (mut streams, mut socket) = streams(&gateway, &goes, &id).await;

    write(&[&stays_entry]);
    reload.now();
    let since = Instant::now();
    for stream in &mut streams {
        let error = ends(stream).await;
        assert_eq!(
            (&error["status"], &error["type"]),
            (&json!(401), &json!("urn:jetway:problem:unauthenticated"))
        );
    }
    let (last, code) = closes(&mut socket).await;
    assert_eq!((&last["type"], &last["data"]["status"], code), (&json!("jetway.error"), &json!(401), 4401));
    let took = since.elapsed();
    println!("a removed key: its three streams and its WebSocket ended after {took:.0?}");
    assert!(took < SOON, "{took:?}");
    // The turn goes on, and whoever may still read does.
    ada.post(&format!("/api/v1/sessions/{id}/abort"), json!({})).await;
    assert_eq!(kept.until("jetway.turn_ended").await.data["outcome"], "aborted");
}

/// Within the minute by which clocks may differ.
#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let signer = Signer::rsa();
    let place = Place::open(&[signer.jwk("k")]).await;
    let stub = stub(1);
    let gateway = start(&with_http(&fleet(stub.addrs(), &place.auth(&["RS256"])))).await;
    let header = json!({ "alg": "RS256", "kid": "k" });
    let bearer = |claims: &Value| format!("Bearer {}", signer.sign(&header, claims));
    let id = Http::to(&gateway).with("authorization", &bearer(&claims("ada"))).create(json!({})).await;
    // Good for three seconds still.
    let expires = now() - 57;
    let (mut streams, mut socket) =
        streams(&gateway, &bearer(&claims_with("ada", json!({ "exp": expires }))), &id).await;
    for stream in &mut streams {
        assert_eq!(ends(stream).await["status"], 401);
    }
    assert_eq!(closes(&mut socket).await.1, 4401);
    let late = now() - (expires + 60);
    println!("a token that ran out: its streams ended within {late} s");
    assert!(late <= 1, "{late} s");
}

#[tokio::test]
async fn who_takes_part_no_more_reads_no_more() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "members": [{ "user": "bob", "role": "viewer" }] })).await;
    let mut stream = Http::user(&gateway, "bob").events(&id).await;
    let mut socket = open(&gateway, "bob", &id, None).await.unwrap();
    ada.ask(&id, "before").await;
    stream.until("jetway.turn_ended").await;
    assert_eq!(ada.delete(&format!("/api/v1/sessions/{id}/members/bob")).await.status, 204);
    let since = Instant::now();
    assert_eq!(ends(&mut stream).await["status"], 404);
    assert_eq!(closes(&mut socket).await.1, 4404);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    ada.ask(&id, "after").await;
    assert!(!stream.seen.iter().any(|e| e.data.to_string().contains("after")));
}

/// What runs is told of before the streams end, and they say that it is worth coming back.
#[tokio::test]
async fn a_gateway_that_stops_says_so() {
    let (_stub, gateway, _dir) = gateway("drain.timeout = \"2s\"\n").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut all = ada.stream(hyper::Method::GET, "/api/v1/events", None).await;
    let mut events = ada.events(&id).await;
    let mut socket = open(&gateway, "ada", &id, None).await.unwrap();
    let body = json!({ "prompt": "[[delay 300]] to the end" }).to_string();
    let path = format!("/api/v1/sessions/{id}/messages");
    let mut turn = ada.stream(hyper::Method::POST, &path, Some(&body)).await;
    turn.until("user.message").await;
    let left = tokio::spawn(gateway.app.drain(std::future::pending()));
    let ended = turn.until("jetway.turn_ended").await;
    assert_eq!(ended.data["outcome"], "completed");
    assert!(turn.next().await.is_none());
    events.until("jetway.turn_ended").await;
    for stream in [&mut all, &mut events] {
        let error = ends(stream).await;
        assert_eq!((&error["status"], &error["retry_after"]), (&json!(503), &json!(1)));
    }
    let (last, code) = closes(&mut socket).await;
    assert_eq!((&last["data"]["type"], code), (&json!("urn:jetway:problem:draining"), 1012));
    assert_eq!(left.await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_that_ends_ends_its_streams() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut events = ada.events(&id).await;
    let mut socket = open(&gateway, "ada", &id, None).await.unwrap();
    assert_eq!(ada.delete(&format!("/api/v1/sessions/{id}")).await.status, 204);
    assert_eq!(ends(&mut events).await["status"], 410);
    assert_eq!(closes(&mut socket).await.1, 1000);
}
