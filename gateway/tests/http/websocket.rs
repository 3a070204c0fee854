//! A session over WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::{
    common::{Gateway, PATIENCE, http::Http},
    gateway,
};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn open(
    gateway: &Gateway,
    user: &str,
    session: &str,
    header: Option<(&'static str, &str)>,
) -> Result<Socket, u16> {
    let url = format!("ws://{}/ws/sessions/{session}", gateway.http.unwrap());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("jetway-user", user.parse().unwrap());
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn say(socket: &mut Socket, message: Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next message of a kind, and all before it.
async fn until(socket: &mut Socket, kind: &str, seen: &mut Vec<Value>) -> Value {
    loop {
        let message = timeout(PATIENCE * 2, socket.next()).await.expect("in time").expect("open").unwrap();
        let Message::Text(text) = message else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        seen.push(message.clone());
        if message["type"] == kind {
            return message;
        }
    }
}

#[tokio::test]
async fn prompts_go_in_and_events_come_out() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "permissions": "ask" })).await;
    let mut socket = open(&gateway, "ada", &id, None).await.unwrap();
    let mut seen = Vec::new();
    say(&mut socket, json!({ "type": "prompt", "prompt": "[[say a b]]" })).await;
    let end = until(&mut socket, "jetway.turn_ended", &mut seen).await;
    assert_eq!((&end["data"]["outcome"], &end["data"]["content"]), (&json!("completed"), &json!("a b")));
    let deltas: String = seen.iter().filter_map(|m| m["data"]["deltaContent"].as_str()).collect();
    assert_eq!(deltas, "a b");

    say(&mut socket, json!({ "type": "prompt", "prompt": "[[permission]]" })).await;
    let asked = until(&mut socket, "permission.requested", &mut seen).await;
    let request = asked["data"]["requestId"].clone();
    say(&mut socket, json!({ "type": "answer", "request_id": request, "decision": "approve" })).await;
    let end = until(&mut socket, "jetway.turn_ended", &mut seen).await;
    assert_eq!(end["data"]["content"], "permission: approve-once");

    say(&mut socket, json!({ "type": "prompt", "prompt": "[[hang]]" })).await;
    until(&mut socket, "jetway.turn_started", &mut seen).await;
    until(&mut socket, "user.message", &mut seen).await;
    say(&mut socket, json!({ "type": "abort" })).await;
    assert_eq!(until(&mut socket, "jetway.turn_ended", &mut seen).await["data"]["outcome"], "aborted");

    for bad in
        [json!({ "type": "dance" }), json!({ "prompt": "x" }), json!({ "type": "prompt", "promt": "x" })]
    {
        say(&mut socket, bad).await;
        let error = until(&mut socket, "jetway.error", &mut seen).await;
        assert_eq!(error["data"]["status"], 422);
    }
    let place = end["id"].as_str().unwrap();
    let mut back = open(&gateway, "ada", &id, Some(("last-event-id", place))).await.unwrap();
    let mut missed = Vec::new();
    until(&mut back, "jetway.turn_ended", &mut missed).await;
    let from = seen.iter().position(|m| m["id"] == place).unwrap() + 1;
    let (missed, expected): (Vec<_>, Vec<_>) =
        (missed.iter().map(|m| &m["id"]).collect(), seen[from..].iter().map(|m| &m["id"]).collect());
    assert_eq!(missed[..], expected[..missed.len()]);
}

#[tokio::test]
async fn not_everybody_may_talk() {
    let (_stub, gateway, _dir) = gateway("").await;
    let ada = Http::user(&gateway, "ada");
    let id = ada.create(json!({ "members": [{ "user": "bob", "role": "viewer" }] })).await;
    assert_eq!(open(&gateway, "eve", &id, None).await.err(), Some(404));
    assert_eq!(open(&gateway, "ada", &id, Some(("origin", "https://evil.example"))).await.err(), Some(403));
    let plain = ada.get(&format!("/ws/sessions/{id}")).await;
    plain.problem(400, "malformed-request");
    let mut bob = open(&gateway, "bob", &id, None).await.unwrap();
    let mut seen = Vec::new();
    say(&mut bob, json!({ "type": "prompt", "prompt": "hi" })).await;
    assert_eq!(until(&mut bob, "jetway.error", &mut seen).await["data"]["status"], 403);
    ada.ask(&id, "hello").await;
    until(&mut bob, "jetway.turn_ended", &mut seen).await;
}
