//! The stub CLI over TCP: it answers as the CLI does, fails as it is told, and its ledger tells the truth.

use std::time::{Duration, Instant};

use jetway_loadtest::stub::{Audit, Event, Ledger, Options, Stats, Store, Stub};
use jetway_wire::{
    frame::Caps,
    peer::{CallError, Incoming, Peer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc::Receiver,
    time::timeout,
};

const CAPS: Caps = Caps { header: 4096, body: 64 << 20 };
const SOON: Duration = Duration::from_secs(5);

struct Client {
    peer: Peer,
    inbox: Receiver<Incoming>,
}

#[tokio::test]
async fn a_cloud_session_is_used_once_its_agent_has_come() {
    let stub = Stub::start(Options::default()).unwrap();
    let mut client = Client::connect(&stub, 0).await;
    let given = client.call("session.create", json!({"sessionId": "mine", "cloud": {}})).await;
    assert!(given.unwrap_err().1.contains("must be omitted"));
    let made = client.ok("session.create", json!({"cloud": {}})).await;
    let id = made["sessionId"].as_str().unwrap().to_owned();
    let early = client.call("session.send", json!({"sessionId": id, "prompt": "hi"})).await;
    assert!(early.unwrap_err().1.contains("has not come"));
    stub.agent_comes(0, &id);
    assert_eq!(client.event("session.start").await["producer"], "copilot-agent");
    client.send(&id, "hi").await;
    assert_eq!(client.turn().await.1, "You said: hi");
    // It is there for whoever comes back, and what happened meanwhile is in its history.
    client.ok("session.detach", json!({"sessionId": id})).await;
    stub.agent_comes(0, &id);
    client.ok("session.resume", json!({"sessionId": id})).await;
    let history = client.ok("session.getMessages", json!({"sessionId": id})).await;
    let starts = history["events"].as_array().unwrap().iter().filter(|e| e["type"] == "session.start");
    assert_eq!(starts.count(), 2);
}

impl Client {
    async fn connect(stub: &Stub, server: usize) -> Self {
        let client = Self::raw(stub, server).await;
        client.call("connect", json!({})).await.unwrap();
        client
    }

    async fn raw(stub: &Stub, server: usize) -> Self {
        let stream = TcpStream::connect(stub.addrs()[server]).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (peer, inbox) = Peer::new(stream, CAPS);
        Self { peer, inbox }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        match timeout(SOON, self.peer.call(method, params)).await.expect(method) {
            Ok(result) => Ok(result),
            Err(CallError::Refused { code, message, .. }) => Err((code, message)),
            Err(CallError::Closed) => Err((0, "closed".into())),
        }
    }

    async fn ok(&self, method: &str, params: Value) -> Value {
        self.call(method, params).await.unwrap_or_else(|e| panic!("{method}: {e:?}"))
    }

    async fn create(&self, id: &str) -> Value {
        self.ok("session.create", json!({"sessionId": id, "hooks": true, "requestUserInput": true})).await
    }

    async fn send(&self, id: &str, prompt: &str) {
        let sent = self.ok("session.send", json!({"sessionId": id, "prompt": prompt})).await;
        assert!(sent["messageId"].is_string(), "{sent}");
    }

    async fn next(&mut self) -> Incoming {
        timeout(SOON, self.inbox.recv()).await.expect("a message").expect("an open connection")
    }

    /// The next event of that type; what comes before it is dropped.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message.method == "session.event" && message.params["event"]["type"] == kind {
                return message.params["event"]["data"].clone();
            }
        }
    }

    /// The events' types up to `session.idle`, and the answer.
    async fn turn(&mut self) -> (Vec<String>, String) {
        let (mut kinds, mut answer) = (Vec::new(), String::new());
        loop {
            let message = self.next().await;
            if message.method != "session.event" {
                continue;
            }
            let event = &message.params["event"];
            let kind = event["type"].as_str().unwrap().to_owned();
            if kind == "assistant.message" {
                answer = event["data"]["content"].as_str().unwrap().to_owned();
            }
            let idle = kind == "session.idle";
            kinds.push(kind);
            if idle {
                return (kinds, answer);
            }
        }
    }

    async fn asked(&mut self, method: &str) -> Incoming {
        loop {
            let message = self.next().await;
            if message.method == method {
                return message;
            }
        }
    }
}

fn start() -> Stub {
    Stub::start(Options::default()).unwrap()
}

fn turns(ledger: &Ledger) -> Vec<(String, Event)> {
    let turns = ledger.entries().into_iter().filter(|e| e.turn > 0);
    turns.map(|e| (e.nonce.unwrap_or_default(), e.event)).collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_token_is_checked_as_the_cli_does() {
    let stub = Stub::start(Options { token: Some("right".into()), ..Options::default() }).unwrap();
    let client = Client::raw(&stub, 0).await;
    let refused = |code: i64, message: &str| Err((code, message.to_owned()));
    assert_eq!(client.call("ping", json!({})).await, refused(-32001, "AUTHENTICATION_REQUIRED"));
    for wrong in [json!({}), json!({"token": "wrong"}), json!({"token": 7})] {
        assert_eq!(client.call("connect", wrong).await, refused(-32002, "AUTHENTICATION_FAILED"));
    }
    assert_eq!(client.call("connect", json!({"bogus": 1})).await.unwrap_err().0, -32602);
    let connected = client.ok("connect", json!({"token": "right", "supportedTaskKinds": ["agent"]})).await;
    assert_eq!(connected["protocolVersion"], 3);
    assert_eq!(client.ok("ping", json!({"message": "yo"})).await["message"], "pong: yo");

    let open = start();
    let client = Client::raw(&open, 0).await;
    assert_eq!(client.ok("ping", json!({})).await["message"], "pong");
    let refusal = client.call("connect", json!({"token": "x"})).await;
    assert_eq!(refusal, refused(-32003, "AUTHENTICATION_NOT_CONFIGURED"));
}

#[tokio::test]
async fn a_turn_has_its_events_in_order() {
    let stub = start();
    let (mut a, mut stranger) = (Client::connect(&stub, 0).await, Client::connect(&stub, 0).await);
    assert_eq!(a.create("s").await["sessionId"], "s");
    a.send("s", "[[quiet]][[deltas 3 4]]nonce:n").await;
    let expected = ["session.start", "user.message", "assistant.turn_start", "assistant.message_delta"];
    let end =
        ["assistant.message_delta", "assistant.message_delta", "assistant.message", "assistant.turn_end"];
    let (kinds, answer) = a.turn().await;
    assert_eq!(kinds, [&expected[..], &end[..], &["session.idle"]].concat());
    assert_eq!(answer, "xxxxxxxxxxxx");
    assert_eq!(turns(stub.ledger()), [("n".into(), Event::Begin), ("n".into(), Event::End)]);

    // A loud turn is announced to everyone, attached or not.
    a.send("s", "hello there").await;
    assert_eq!(a.turn().await.1, "You said: hello there");
    let created = stranger.asked("session.lifecycle").await;
    assert_eq!(
        (&created.params["type"], &created.params["sessionId"]),
        (&json!("session.created"), &json!("s"))
    );
    assert_eq!(stranger.asked("session.lifecycle").await.params["type"], "session.updated");
    assert!(stub.ledger().findings().is_clean());
}

#[tokio::test]
async fn unknown_things_are_refused_in_the_cli_s_words() {
    let stub = start();
    let client = Client::connect(&stub, 0).await;
    assert_eq!(client.call("nope", json!({})).await, Err((-32601, "Unhandled method nope".into())));
    let refusal = client.call("session.send", json!({"sessionId": "zz", "prompt": "x"})).await.unwrap_err();
    let words = "Request session.send failed with message: Session not found for sessionId: zz";
    assert_eq!(refusal, (-32603, words.into()));
    let refusal = client.call("session.resume", json!({"sessionId": "zz"})).await.unwrap_err();
    assert!(refusal.1.ends_with("Failed to load session events: Session not found: zz"), "{refusal:?}");
    assert!(client.call("session.create", json!({"sessionId": "a.b"})).await.is_err());
    assert_eq!(client.ok("session.detach", json!({"sessionId": "zz"})).await, json!({"success": true}));
    assert_eq!(client.ok("session.destroy", json!({"sessionId": "zz"})).await, json!({"success": false}));
    assert_eq!(client.ok("session.delete", json!({"sessionId": "zz"})).await["success"], false);
    assert_eq!(stub.received().len(), 8);
    assert_eq!(stub.received()[1].method, "nope");
}

#[tokio::test]
async fn tools_permissions_hooks_and_questions_are_waited_for() {
    let stub = start();
    let mut a = Client::connect(&stub, 0).await;
    a.create("s").await;
    a.send("s", "[[tool my_tool]][[permission]]").await;
    let tool = a.event("external_tool.requested").await;
    assert_eq!(tool["toolName"], "my_tool");
    let answer =
        |request: &Value, result: Value| json!({"sessionId": "s", "requestId": request, "result": result});
    let tools = "session.tools.handlePendingToolCall";
    assert_eq!(a.ok(tools, answer(&tool["requestId"], json!("R"))).await["success"], true);
    assert_eq!(a.ok(tools, answer(&tool["requestId"], json!("R"))).await["success"], false);
    let permission = a.event("permission.requested").await;
    let pending = a.ok("session.permissions.pendingRequests", json!({"sessionId": "s"})).await;
    assert_eq!(pending["items"][0]["requestId"], permission["requestId"]);
    let decided = answer(&permission["requestId"], json!({"kind": "approve-once"}));
    a.ok("session.permissions.handlePendingPermissionRequest", decided).await;
    let said = "tool my_tool returned: \"R\"permission: approve-once";
    assert_eq!(a.turn().await.1, said);

    a.send("s", "[[hook]][[userinput]]").await;
    let hook = a.asked("hooks.invoke").await;
    a.peer.reply(&hook.id.unwrap(), Ok(json!({}))).await.unwrap();
    let question = a.asked("userInput.request").await;
    assert_eq!(question.params["sessionId"], "s");
    a.peer.reply(&question.id.unwrap(), Ok(json!({"answer": "red"}))).await.unwrap();
    assert_eq!(a.turn().await.1, r#"hooks: 1answered: {"answer":"red"}"#);
}

#[tokio::test]
async fn errors_and_aborts_end_a_turn() {
    let stub = start();
    let mut a = Client::connect(&stub, 0).await;
    a.create("s").await;
    a.send("s", "[[error]]").await;
    let (kinds, _) = a.turn().await;
    assert!(kinds.contains(&"session.error".into()), "{kinds:?}");
    a.send("s", "[[bogus]]").await;
    assert_eq!(a.event("session.error").await["message"], "unreadable directive [[bogus]]");
    a.turn().await;
    // An abort right behind the prompt counts, and not for the turn after it.
    a.send("s", "[[hang]]nonce:h").await;
    assert_eq!(a.ok("session.abort", json!({"sessionId": "s"})).await["success"], true);
    assert_eq!(a.event("session.idle").await["aborted"], true);
    assert_eq!(a.ok("session.abort", json!({"sessionId": "s"})).await["success"], true);
    a.send("s", "fine nonce:f").await;
    assert_eq!(a.turn().await.1, "You said: fine nonce:f");
    let ends: Vec<_> = turns(stub.ledger()).into_iter().skip(4).map(|(_, event)| event).collect();
    assert_eq!(ends, [Event::Begin, Event::Abort, Event::Begin, Event::End]);
}

#[tokio::test]
async fn prompts_queue_in_order_and_idle_comes_once() {
    let stub = start();
    let mut a = Client::connect(&stub, 0).await;
    a.create("s").await;
    for n in 1..=3 {
        a.send("s", &format!("[[quiet]][[delay 20]]nonce:{n}")).await;
    }
    let (kinds, _) = a.turn().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "assistant.turn_end").count(), 3);
    let begun: Vec<_> = turns(stub.ledger()).into_iter().filter(|(_, e)| *e == Event::Begin).collect();
    assert_eq!(begun.iter().map(|(nonce, _)| nonce.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert_eq!(stub.ledger().findings().queued.len(), 2);
    assert!(stub.ledger().findings().overlaps.is_empty());
}

#[tokio::test]
async fn a_session_closes_with_its_last_connection() {
    let stub = start();
    let (mut a, mut b) = (Client::connect(&stub, 0).await, Client::connect(&stub, 0).await);
    a.create("s").await;
    a.send("s", "first").await;
    a.turn().await;
    b.ok("session.resume", json!({"sessionId": "s"})).await;
    a.send("s", "[[hang]]").await;
    b.event("assistant.turn_start").await;
    drop(a);
    until("one connection", || stub.stats(0).connections == 1).await;
    assert_eq!(stub.stats(0), Stats { connections: 1, sessions: 1, turns: 1 });
    drop(b);
    until("nothing", || stub.stats(0) == Stats { connections: 0, sessions: 0, turns: 0 }).await;
    assert_eq!(turns(stub.ledger()).last().unwrap().1, Event::Lost);

    let mut c = Client::connect(&stub, 0).await;
    c.ok("session.resume", json!({"sessionId": "s"})).await;
    c.send("s", "[[history]]").await;
    assert_eq!(c.turn().await.1, "History: first | [[hang]]");
    assert_eq!(c.ok("session.list", json!({})).await["sessions"][0]["summary"], "first");
    assert_eq!(c.ok("session.delete", json!({"sessionId": "s"})).await["success"], true);
    assert!(c.call("session.resume", json!({"sessionId": "s"})).await.is_err());
}

#[tokio::test]
async fn tool_names_clash_between_connections_only() {
    let stub = start();
    let (a, b) = (Client::connect(&stub, 0).await, Client::connect(&stub, 0).await);
    let params = json!({"sessionId": "s", "tools": [{"name": "t"}]});
    a.ok("session.create", params.clone()).await;
    a.ok("session.resume", params.clone()).await;
    let refusal = b.call("session.resume", params).await.unwrap_err();
    assert!(refusal.1.contains("External tool name clash: t already registered"), "{refusal:?}");
}

#[tokio::test]
async fn a_crash_loses_turns_and_keeps_state() {
    let options = Options { servers: 2, store: Some(Store::memory()), ..Options::default() };
    let stub = Stub::start(options).unwrap();
    let mut a = Client::connect(&stub, 0).await;
    a.create("s").await;
    a.send("s", "[[crash]]").await;
    assert!(timeout(SOON, async { while a.inbox.recv().await.is_some() {} }).await.is_ok());
    assert!(TcpStream::connect(stub.addr()).await.is_err());
    assert_eq!(turns(stub.ledger()).last().unwrap().1, Event::Lost);
    let mut b = Client::connect(&stub, 1).await;
    b.ok("session.resume", json!({"sessionId": "s"})).await;
    b.send("s", "[[history]]").await;
    assert_eq!(b.turn().await.1, "History: [[crash]]");
    stub.restart(0).unwrap();
    Client::connect(&stub, 0).await;
    assert!(stub.ledger().findings().is_clean());
}

#[tokio::test]
async fn overlaps_and_forks_across_servers_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let ledger = Ledger::to_file(&path).unwrap();
    let store = Some(Store::dir(dir.path()));
    let stub = Stub::start(Options { servers: 2, store, ledger, ..Options::default() }).unwrap();
    let (mut a, mut b) = (Client::connect(&stub, 0).await, Client::connect(&stub, 1).await);
    a.create("s").await;
    a.send("s", "[[quiet]]nonce:one").await;
    a.turn().await;
    a.send("s", "[[hang]]nonce:two").await;
    a.event("user.message").await;
    b.ok("session.resume", json!({"sessionId": "s"})).await;
    b.send("s", "[[quiet]]nonce:one").await;
    b.turn().await;
    b.create("s").await;
    b.ok("session.detach", json!({"sessionId": "s"})).await;
    b.create("s").await;
    let findings = stub.ledger().findings();
    assert_eq!((findings.overlaps.len(), findings.forks.len(), findings.repeated.len()), (1, 2, 1));
    assert_eq!(findings.recreated.len(), 1);
    assert_eq!(findings.overlaps[0].first.nonce.as_deref(), Some("two"));
    assert_eq!(Audit::of(&Ledger::read(&path).unwrap()), findings);
}

#[tokio::test]
async fn a_hung_server_answers_later_and_a_forgotten_session_is_gone() {
    let stub = start();
    let client = Client::connect(&stub, 0).await;
    client.create("s").await;
    stub.hang(0, true);
    let ping = client.peer.call("ping", json!({}));
    tokio::pin!(ping);
    assert!(timeout(Duration::from_millis(50), &mut ping).await.is_err());
    stub.hang(0, false);
    timeout(SOON, ping).await.unwrap().unwrap();
    assert!(stub.forget(0, "s") && !stub.forget(0, "s"));
    assert!(client.call("session.abort", json!({"sessionId": "s"})).await.is_err());
}

#[tokio::test]
async fn malformed_bytes_are_on_record() {
    let stub = start();
    let mut stream = TcpStream::connect(stub.addr()).await.unwrap();
    let bad = r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#;
    stream.write_all(format!("Content-Length: {}\r\n\r\n{bad}", bad.len()).as_bytes()).await.unwrap();
    let mut reply = vec![0; 500];
    let n = timeout(SOON, stream.read(&mut reply)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&reply[..n]).contains("-32700"));
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(timeout(SOON, stream.read(&mut reply)).await.unwrap().unwrap(), 0);
    assert_eq!(stub.ledger().findings().malformed.len(), 2);
    assert_eq!(stub.ledger().frames(), 0);
}

#[tokio::test]
async fn large_turns_wait_for_slow_readers() {
    let stub = start();
    let mut a = Client::connect(&stub, 0).await;
    a.create("s").await;
    a.send("s", "[[quiet]][[deltas 4000 4000]]").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (kinds, answer) = a.turn().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "assistant.message_delta").count(), 4000);
    assert_eq!(answer.len(), 1 << 10);
}
