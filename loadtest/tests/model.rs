//! The scripted model over HTTP: what arrives, how it ends, and what the ledger says about it.

use std::time::{Duration, Instant};

use jetway_loadtest::model::{self, Event, Handle, Ledger};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn start(ledger: Ledger) -> Handle {
    model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), ledger).unwrap()
}

async fn send(model: &Handle, head: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(model.addr()).await.unwrap();
    let request =
        format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(b"Authorization: Bearer sk-1\r\nContent-Type: application/json\r\n\r\n").await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

async fn ask(model: &Handle, prompt: &str, stream: bool) -> TcpStream {
    let messages = json!([{"role": "user", "content": prompt}]);
    let body = json!({"model": "m", "stream": stream, "messages": messages});
    send(model, "POST /v1/chat/completions", &body.to_string()).await
}

/// Everything until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes))
        .await
        .expect("closed")
        .unwrap();
    String::from_utf8(bytes).unwrap()
}

fn json_body(response: &str) -> Value {
    let (_, body) = response.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).expect("a JSON body")
}

async fn events(model: &Handle, nonce: &str, expected: &[Event]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let entries =
            model.ledger().entries().into_iter().filter(|entry| entry.nonce.as_deref() == Some(nonce));
        let seen: Vec<Event> = entries.map(|entry| entry.event).collect();
        if seen == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{nonce}: {seen:?} is not {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn answers_whole_and_streamed() {
    let model = start(Ledger::in_memory()).await;
    let whole = json_body(&rest(ask(&model, "hi there", false).await).await);
    assert_eq!(whole["choices"][0]["message"]["content"], "You said: hi there");

    let streamed = rest(ask(&model, "[[stream 3 4 1]] nonce:n-1", true).await).await;
    for piece in ["aaaa", "bbbb", "cccc", "data: [DONE]"] {
        assert!(streamed.contains(piece), "{piece} is missing in {streamed}");
    }
    events(&model, "n-1", &[Event::Began, Event::Ended]).await;
    let last = model.ledger().entries().pop().unwrap();
    assert_eq!(last.api_key_sha256_prefix.unwrap().len(), 12);
    assert_eq!((last.model.as_str(), last.messages, last.round), ("m", 1, 0));
}

#[tokio::test]
async fn errors_have_their_status_and_a_body() {
    let model = start(Ledger::in_memory()).await;
    let refused = rest(ask(&model, "[[error 429 slow down]]", true).await).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert_eq!(json_body(&refused)["error"]["message"], "slow down");
    for body in ["{", "{}", r#"{"model":"m","messages":[{"role":"user","content":"[[delay x]]"}]}"#] {
        let refused = rest(send(&model, "POST /v1/chat/completions", body).await).await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{body}: {refused}");
    }
}

#[tokio::test]
async fn a_cut_answer_has_no_last_chunk() {
    let model = start(Ledger::in_memory()).await;
    let cut = rest(ask(&model, "[[say some words]][[cut]] nonce:c", true).await).await;
    assert!(cut.contains("words") && !cut.contains("[DONE]") && !cut.ends_with("0\r\n\r\n"), "{cut}");
    events(&model, "c", &[Event::Began, Event::Aborted]).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_recorded() {
    let model = start(Ledger::in_memory()).await;
    for (nonce, script) in
        [("h", "[[say x]][[hang]]"), ("d", "[[delay 60000]]"), ("s", "[[stream 1000 1 60]]")]
    {
        let stream = ask(&model, &format!("{script} nonce:{nonce}"), true).await;
        events(&model, nonce, &[Event::Began]).await;
        drop(stream);
        events(&model, nonce, &[Event::Began, Event::Aborted]).await;
    }
}

#[tokio::test]
async fn the_ledger_is_served_and_kept_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let model = start(Ledger::to_file(&path).unwrap()).await;
    for nonce in ["a", "b"] {
        rest(ask(&model, &format!("hi nonce:{nonce}"), true).await).await;
        events(&model, nonce, &[Event::Began, Event::Ended]).await;
    }
    let served = rest(send(&model, "GET /ledger?nonce=b", "").await).await;
    assert_eq!(served.matches(r#""nonce":"b""#).count(), 2, "{served}");
    assert!(!served.contains(r#""nonce":"a""#), "{served}");
    let kept = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[2]["nonce"], &lines[2]["event"]), (&json!("b"), &json!("began")));
}

#[tokio::test]
async fn dropping_the_handle_closes_connections() {
    let model = start(Ledger::in_memory()).await;
    let stream = ask(&model, "[[hang]] nonce:x", true).await;
    events(&model, "x", &[Event::Began]).await;
    drop(model);
    rest(stream).await;
}
