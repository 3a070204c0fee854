//! A turn, from the prompt to `session.idle`.

use std::{rc::Rc, time::Duration};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt as _},
};
use jetway_wire::{Value, json::write_str};
use tokio::task::spawn_local;

use super::{
    BURST,
    event::{Event, Uuid, put},
    ledger,
    script::{self, Script, Step},
    server::Server,
    session::{Pending, Prompt, Session},
};

/// The words of an answer that go out one by one; the rest is one more.
const WORDS: usize = 64;
/// A quiet turn's `assistant.message` repeats no more than this of its deltas.
const QUIET_CONTENT: usize = 1 << 10;

/// Works the queue off, unless that is under way.
pub(super) fn start(server: &Rc<Server>, session: &Rc<Session>) {
    let mut task = session.task.borrow_mut();
    if task.is_none() {
        *task = Some(spawn_local(work(server.clone(), session.clone())).abort_handle());
    }
}

async fn work(server: Rc<Server>, session: Rc<Session>) {
    loop {
        let Some(prompt) = session.queue.borrow_mut().pop_front() else { break };
        let (script, bad) = match script::parse(&prompt.text) {
            Ok(script) => (script, None),
            Err(bad) => (Script { steps: vec![Step::Error], quiet: false }, Some(bad)),
        };
        let message = server.source.uuid();
        let mut turn = Turn {
            server: &server,
            session: &session,
            prompt,
            message,
            quiet: script.quiet,
            text: String::new(),
        };
        turn.run(&script.steps, bad).await;
        server.flush_all();
    }
    session.task.take();
}

struct Turn<'a> {
    server: &'a Rc<Server>,
    session: &'a Rc<Session>,
    prompt: Prompt,
    message: Uuid,
    quiet: bool,
    /// The answer so far.
    text: String,
}

impl Turn<'_> {
    async fn run(&mut self, steps: &[Step], bad: Option<String>) {
        let (server, session) = (self.server, self.session);
        let nonce = script::nonce(&self.prompt.text);
        let open = server.ledger.begin(&server.name, self.prompt.connection, &session.id, nonce);
        session.turn.replace(Some(open));
        self.open();
        let done = tokio::select! {
            biased;
            () = session.abort.notified() => None,
            failed = self.steps(steps) => Some(failed),
        };
        let end = if done.is_none() { ledger::Event::Abort } else { ledger::Event::End };
        // On record before anyone can hear of it: who then starts the next turn does not overlap this one.
        if let Some(open) = session.turn.take() {
            open.close(end);
        }
        session.pending.take();
        match done {
            None => self.tell("abort", br#"{"reason":"user_initiated"}"#, false),
            Some(false) => self.answer(),
            Some(true) => (),
        }
        self.tell("assistant.turn_end", br#"{"turnId":"0"}"#, false);
        if done == Some(true) {
            let mut data = br#"{"errorType":"query","message":"#.to_vec();
            write_str(&mut data, bad.as_deref().unwrap_or("the prompt asked for an error"));
            data.extend_from_slice(br#","statusCode":400}"#);
            self.tell("session.error", &data, false);
        }
        // With more to do, the CLI is not idle and does not say so.
        if session.queue.borrow().is_empty() {
            let aborted: &[u8] = if done.is_none() { br#""aborted":true,"# } else { b"" };
            self.note("assistant.idle", b"{}");
            let mut data = Vec::new();
            put(&mut data, &[b"{", aborted, br#""mode":"interactive"}"#]);
            self.tell("session.idle", &data, true);
        }
    }

    fn tell(&self, kind: &str, data: &[u8], ephemeral: bool) {
        self.server.tell(self.session, Event { kind, data, ephemeral }, self.quiet);
    }

    /// An ephemeral event that a quiet turn leaves out.
    fn note(&self, kind: &str, data: &[u8]) {
        if !self.quiet {
            self.tell(kind, data, true);
        }
    }

    fn flush(&self) {
        if self.quiet { self.server.flush_session(self.session) } else { self.server.flush_all() }
    }

    fn open(&self) {
        self.note("pending_messages.modified", b"{}");
        let mut data = br#"{"content":"#.to_vec();
        write_str(&mut data, &self.prompt.text);
        let message = self.prompt.message.as_str();
        put(&mut data, &[br#","messageId":""#, message.as_bytes(), br#"","delivery":"idle","turnId":"0"}"#]);
        self.tell("user.message", &data, false);
        self.tell("assistant.turn_start", br#"{"turnId":"0"}"#, false);
        let message = format!(r#"{{"messageId":"{}"}}"#, self.message.as_str());
        self.note("assistant.message_start", message.as_bytes());
    }

    fn answer(&self) {
        let text = if self.quiet { truncate(&self.text, QUIET_CONTENT) } else { &self.text };
        let mut data = Vec::with_capacity(text.len() + 256);
        put(&mut data, &[br#"{"messageId":""#, self.message.as_str().as_bytes()]);
        put(&mut data, &[br#"","originatingMessageId":""#, self.prompt.message.as_str().as_bytes()]);
        data.extend_from_slice(br#"","model":"stub","content":"#);
        write_str(&mut data, text);
        data.extend_from_slice(br#","toolRequests":[],"turnId":"0"}"#);
        self.tell("assistant.message", &data, false);
    }

    /// Whether it ends as an error.
    async fn steps(&mut self, steps: &[Step]) -> bool {
        for step in steps {
            match step {
                Step::Say(text) => self.say(text),
                Step::History => self.say(&format!("History: {}", self.earlier().join(" | "))),
                Step::Deltas { count, bytes, pause } => self.deltas(*count, *bytes, *pause).await,
                Step::Delay(time) => {
                    self.flush();
                    tokio::time::sleep(*time).await;
                }
                Step::Tool(name) => self.tool(name).await,
                Step::Permission => self.permission().await,
                Step::Hook => self.hook().await,
                Step::UserInput => self.user_input().await,
                Step::Lag { time, all } => {
                    let own = (!all).then_some(self.prompt.connection);
                    self.server.lag(self.session, own, *time);
                }
                Step::Error => return true,
                Step::Hang => {
                    self.flush();
                    std::future::pending().await
                }
                Step::Crash => {
                    self.server.crash();
                    std::future::pending().await
                }
            }
        }
        false
    }

    fn earlier(&self) -> Vec<String> {
        let mut prompts = self.session.prompts();
        prompts.pop();
        prompts
    }

    fn say(&mut self, text: &str) {
        text.splitn(WORDS, ' ').enumerate().for_each(|(i, word)| {
            self.delta(&if i == 0 { word.to_owned() } else { format!(" {word}") });
        });
        self.text.push_str(text);
    }

    fn delta(&self, text: &str) {
        let mut data = Vec::with_capacity(text.len() + 80);
        put(&mut data, &[br#"{"messageId":""#, self.message.as_str().as_bytes(), br#"","deltaContent":"#]);
        write_str(&mut data, text);
        data.push(b'}');
        self.tell("assistant.message_delta", &data, true);
    }

    async fn deltas(&mut self, count: usize, bytes: usize, pause: Duration) {
        let text = "x".repeat(bytes);
        for n in 1..=count {
            self.delta(&text);
            if !pause.is_zero() {
                self.flush();
                tokio::time::sleep(pause).await;
            } else if n % BURST == 0 {
                self.flush();
                tokio::task::yield_now().await;
            }
            if !self.quiet || self.text.len() < QUIET_CONTENT {
                self.text.push_str(&text);
            }
        }
    }

    /// Asks whoever is attached by an event, and waits for the request that answers it.
    async fn pend(&mut self, kind: &str, permission: bool, data: impl FnOnce(&str) -> String) -> String {
        let request = self.server.source.uuid();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let pending = Pending { permission, answer };
        self.session.pending.borrow_mut().insert(request.as_str().to_owned(), pending);
        self.tell(kind, data(request.as_str()).as_bytes(), false);
        self.flush();
        let answer = answered.await.unwrap_or_default();
        let completed = kind.replace("requested", "completed");
        let data = format!(r#"{{"requestId":"{}"}}"#, request.as_str());
        self.tell(&completed, data.as_bytes(), !permission);
        answer
    }

    async fn tool(&mut self, name: &str) {
        let call = self.server.source.uuid();
        let (id, call) = (&self.session.id, call.as_str());
        let params = |request: &str| {
            serde_json::json!({"requestId": request, "sessionId": id, "toolCallId": call, "toolName": name,
                "arguments": {}, "workingDirectory": "/"})
            .to_string()
        };
        let answer = self.pend("external_tool.requested", false, params).await;
        self.say(&format!("tool {name} returned: {answer}"));
    }

    async fn permission(&mut self) {
        let params = |request: &str| {
            let ask = serde_json::json!({"kind": "shell", "fullCommandText": "true", "intention": "try"});
            serde_json::json!({"requestId": request, "permissionRequest": ask, "promptRequest": ask})
                .to_string()
        };
        let answer = self.pend("permission.requested", true, params).await;
        let kind = Value::new(answer.as_bytes()).get("kind").and_then(Value::as_str);
        self.say(&format!("permission: {}", kind.as_deref().unwrap_or("none")));
    }

    /// Every client with hooks is asked, and every one of them waited for, until it leaves.
    async fn hook(&mut self) {
        let id = &self.session.id;
        let params = serde_json::json!({"sessionId": id, "hookType": "preToolUse",
            "input": {"sessionId": id, "timestamp": 0, "cwd": "/", "toolName": "stub", "toolArgs": {}}});
        let answers: Vec<_> = {
            let attached = self.session.attached.borrow();
            let hooked = attached.iter().filter(|a| a.hooks);
            hooked.map(|a| a.conn.ask("hooks.invoke", &params.to_string())).collect()
        };
        self.flush();
        let answers = join_all(answers).await;
        self.say(&format!("hooks: {}", answers.iter().flatten().count()));
    }

    /// Every client that wants questions is asked; the first answer is taken.
    async fn user_input(&mut self) {
        let params = serde_json::json!({"sessionId": self.session.id, "question": "what color?",
            "choices": ["red", "blue"], "allowFreeform": true});
        let mut answers: FuturesUnordered<_> = {
            let attached = self.session.attached.borrow();
            let asked = attached.iter().filter(|a| a.user_input);
            asked.map(|a| a.conn.ask("userInput.request", &params.to_string())).collect()
        };
        self.flush();
        let mut answer = None;
        while answer.is_none() {
            let Some(next) = answers.next().await else { break };
            answer = next.ok();
        }
        self.say(&format!("answered: {}", answer.as_deref().unwrap_or("nobody")));
    }
}

fn truncate(text: &str, at: usize) -> &str {
    &text[..text.floor_char_boundary(at)]
}
