//! What holds for every request, whatever it asks: bounds, compression, signs of life.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    bad_input::Raw,
    common::{PATIENCE, http::Http},
    gateway,
    websocket::open,
};

#[tokio::test]
async fn bodies_have_a_bound() {
    let (_stub, gateway, _dir) = gateway("limits.max_http_body = \"64KiB\"\n").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let path = format!("/api/v1/sessions/{id}/messages");
    let fits = "x".repeat(60 << 10);
    assert_eq!(ada.ask(&id, &fits).await.len(), fits.len() + "You said: ".len());
    let problem =
        ada.post(&path, json!({ "prompt": "x".repeat(64 << 10) })).await.problem(413, "content-too-large");
    assert_eq!(problem["limit"], 64 << 10);
    // Also where nobody says how long it will be.
    let mut stream = TcpStream::connect(gateway.http.unwrap()).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nJetway-User: ada\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..8 {
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    let mut answer = vec![0; 1024];
    let n = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..n]).starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_body_that_drips_is_not_waited_for() {
    let (_stub, gateway, _dir) = gateway("limits.partial_frame_timeout = \"1s\"\n").await;
    let mut stream = TcpStream::connect(gateway.http.unwrap()).await.unwrap();
    let head = "POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let since = Instant::now();
    let mut answer = vec![0; 1024];
    let n = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request-timeout"), "{answer}");
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn answers_are_compressed_and_streams_are_not() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let able = ada.clone().with("accept-encoding", "gzip");
    let raw = able.headers(Method::GET, "/api/v1/openapi.json").await;
    assert_eq!(raw["content-encoding"], "gzip");
    let plain = ada.headers(Method::GET, "/api/v1/openapi.json").await;
    assert!(!plain.contains_key("content-encoding"));
    let streaming = able.headers(Method::GET, &format!("/api/v1/sessions/{id}/events")).await;
    assert_eq!(streaming["content-type"], "text/event-stream");
    assert!(!streaming.contains_key("content-encoding"), "each event goes out when it comes");
    assert_eq!(
        (&streaming["cache-control"], &streaming["x-accel-buffering"]),
        (&"no-store".parse().unwrap(), &"no".parse().unwrap())
    );
    // And it does.
    let mut events = able.events(&id).await;
    ada.ask(&id, "hello").await;
    events.until("jetway.turn_ended").await;
}

/// A silent stream says that it is there, before anything in between gives up after 30 seconds.
#[tokio::test]
async fn a_silent_stream_gives_signs_of_life() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({})).await;
    let mut events = ada.events(&id).await;
    let _ = timeout(Duration::from_secs(18), events.next()).await;
    // The first is how long to wait before coming back.
    assert!(events.comments >= 2, "{} after 18 s", events.comments);
}

#[tokio::test]
async fn a_websocket_asks_and_answers_whether_one_is_there() {
    let (_stub, gateway, _dir) = gateway("").await;
    let id = Http::user(&gateway, "ada").create(json!({})).await;
    let mut socket = open(&gateway, "ada", &id, None).await.unwrap();
    let first = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first, Message::Ping(_)), "{first:?}");
    socket.send(Message::Ping("there?".into())).await.unwrap();
    loop {
        if let Message::Pong(payload) = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap() {
            assert_eq!(payload, "there?");
            return;
        }
    }
}

/// Who reads too slowly hears so, and can go on where it was.
#[tokio::test]
async fn a_slow_websocket_is_closed_with_1013() {
    let (_stub, gateway, _dir) = gateway("").await;
    // By hand: a client of a library would answer pings when it reads at last, to a connection that is closed by then.
    let user = Http::user(&gateway, "token");
    let id = user.create(json!({})).await;
    let mut socket = Raw::open(gateway.http.unwrap(), &id).await;
    // More than sockets and the session's buffer hold together.
    user.ask(&id, "[[quiet]] [[deltas 12000 500 0]]").await;
    let (mut seen, mut code) = (0, 0);
    while let Some((kind, payload)) = socket.frame().await {
        match kind {
            1 => seen += 1,
            8 => code = u16::from_be_bytes([payload[0], payload[1]]),
            _ => {}
        }
    }
    assert_eq!(code, 1013, "after {seen} events");
    println!("a WebSocket that did not read was closed with 1013 after {seen} of 12,000 events");
}
