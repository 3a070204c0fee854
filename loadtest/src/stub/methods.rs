//! What the stub answers, in the CLI's own words.

use std::{collections::VecDeque, rc::Rc};

use jetway_wire::{Id, Value, envelope::code, json::write_str};

use super::{
    MAX_QUEUE,
    conn::Conn,
    event::{Event, put},
    ledger,
    server::Server,
    session::{Attachment, Prompt, Session},
    turn,
};

pub(super) const AUTHENTICATION_REQUIRED: i64 = -32001;
const AUTHENTICATION_FAILED: i64 = -32002;
const AUTHENTICATION_NOT_CONFIGURED: i64 = -32003;

/// A request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) server: &'a Rc<Server>,
    pub(super) conn: &'a Rc<Conn>,
    pub(super) id: &'a Id,
    pub(super) method: &'a str,
    pub(super) params: Option<Value<'a>>,
}

/// Why there is no result; most failures of the CLI look like [`Refusal::Failed`].
enum Refusal {
    Failed(String),
    Code(i64, String),
}

type Outcome = Result<Vec<u8>, Refusal>;

/// Answers.
pub(super) fn call(call: &Call<'_>) {
    match call.outcome() {
        Ok(result) => call.conn.result(call.id, &result),
        Err(Refusal::Code(code, message)) => call.conn.error(Some(call.id), code, &message),
        Err(Refusal::Failed(why)) => {
            let message = format!("Request {} failed with message: {why}", call.method);
            call.conn.error(Some(call.id), code::INTERNAL_ERROR, &message);
        }
    }
}

impl<'a> Call<'a> {
    fn outcome(&self) -> Outcome {
        match self.method {
            "ping" => Ok(self.ping()),
            "session.send" => self.send(),
            "session.create" => self.create(),
            "session.resume" => self.resume(),
            "session.detach" => {
                self.server.detach(self.conn, &self.named()?);
                Ok(SUCCESS.into())
            }
            "session.destroy" => {
                let was = self.server.detach(self.conn, &self.named()?);
                Ok(success(was))
            }
            "session.delete" => self.delete(),
            "sessions.close" => {
                self.server.close(self.conn.id, &self.named()?);
                Ok(b"{}".to_vec())
            }
            "sessions.bulkDelete" => Ok(self.delete_all()),
            "session.abort" => self.abort(),
            "session.getMessages" => self.messages(),
            "session.list" => Ok(self.list()),
            "session.getMetadata" => Ok(self.metadata(&self.named()?)),
            "session.getLastId" => Ok(self
                .server
                .last
                .borrow()
                .as_deref()
                .map_or_else(|| b"{}".to_vec(), |id| object("sessionId", id))),
            "session.tools.handlePendingToolCall" => self.answer_pending(false),
            "session.permissions.handlePendingPermissionRequest" => self.answer_pending(true),
            "session.getForeground" => Ok(self.shown()),
            "session.setForeground" => self.show(),
            "connect" => self.connect(),
            "runtime.shutdown" => {
                self.server.crash();
                Ok(b"{}".into())
            }
            _ => self.plain(),
        }
    }

    /// Methods whose answer hardly depends on anything.
    fn plain(&self) -> Outcome {
        let answer: &[u8] = match self.method {
            "status.get" => br#"{"version":"1.0.85","protocolVersion":3}"#,
            "auth.getStatus" => br#"{"isAuthenticated":false,"statusMessage":"Not authenticated"}"#,
            "models.list" => MODELS,
            "session.eventLog.registerInterest" => self.live(br#"{"handle":"interest-1"}"#)?,
            "session.options.update" => self.live(br#"{"success":true,"pluginHookCount":0}"#)?,
            "session.model.switchTo" => {
                self.live(br#"{"status":"applied","deferred":false,"deprecationWarnings":[]}"#)?
            }
            "session.mode.set" => {
                self.live(br#"{"status":"applied","modelChanged":false,"modeApplied":true}"#)?
            }
            "session.metadata.isProcessing" => {
                let busy = self.session()?.turn.borrow().is_some();
                if busy { br#"{"processing":true}"# } else { br#"{"processing":false}"# }
            }
            "session.metadata.activity" => {
                let session = self.session()?;
                let busy = session.turn.borrow().is_some() || !session.queue.borrow().is_empty();
                return Ok(format!(r#"{{"hasActiveWork":{busy},"abortable":{busy}}}"#).into());
            }
            "session.log" => {
                let session = self.session()?;
                let mut data = br#"{"infoType":"#.to_vec();
                write_str(&mut data, &self.text("type").unwrap_or("notification".into()));
                data.extend_from_slice(br#","message":"#);
                write_str(&mut data, &self.text("message").unwrap_or_default());
                data.push(b'}');
                let info = Event { kind: "session.info", data: &data, ephemeral: true };
                self.server.tell(&session, info, true);
                b"{}"
            }
            "session.name.set" => {
                *self.session()?.name.borrow_mut() = self.text("name").map(String::from);
                b"null"
            }
            "session.name.get" => {
                let session = self.session()?;
                let name = session.name.borrow();
                return Ok(name
                    .as_deref()
                    .map_or_else(|| br#"{"name":null}"#.to_vec(), |n| object("name", n)));
            }
            "session.permissions.pendingRequests" => return self.pending_requests(),
            other => return Err(Refusal::Code(code::METHOD_NOT_FOUND, format!("Unhandled method {other}"))),
        };
        Ok(answer.into())
    }

    fn ping(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(br#"{"message":"pong"#);
        match self.params.and_then(|p| p.get("message")).and_then(|m| m.text().strip_prefix(b"\"")) {
            Some(message) => put(&mut out, &[b": ", message]),
            None => out.push(b'"'),
        }
        out.extend_from_slice(br#","timestamp":""#);
        self.server.source.now(|now| out.extend_from_slice(now.as_bytes()));
        out.extend_from_slice(br#"","protocolVersion":3}"#);
        out
    }

    fn connect(&self) -> Outcome {
        let token = self.params.and_then(|p| p.get("token")).filter(|t| t.text() != b"null");
        let refused = |code, message: &str| Err(Refusal::Code(code, message.to_owned()));
        for (key, _) in self.params.into_iter().flat_map(Value::members) {
            const KNOWN: [&str; 4] =
                ["token", "supportedTaskKinds", "clientInfo", "enableGitHubTelemetryForwarding"];
            if !KNOWN.contains(&&*key.text()) {
                let why = format!("Invalid connect request: unknown field `{}`", key.text());
                return Err(Refusal::Code(code::INVALID_PARAMS, why));
            }
        }
        match (&self.server.token, token) {
            (None, Some(_)) => {
                return refused(AUTHENTICATION_NOT_CONFIGURED, "AUTHENTICATION_NOT_CONFIGURED");
            }
            (Some(right), given) if given.and_then(Value::as_str).as_deref() != Some(right.as_str()) => {
                return refused(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED");
            }
            _ => (),
        }
        self.conn.admitted.set(true);
        Ok(br#"{"ok":true,"protocolVersion":3,"version":"1.0.85","taskKinds":["agent","shell"]}"#.into())
    }

    fn text(&self, name: &str) -> Option<std::borrow::Cow<'a, str>> {
        self.params?.get(name)?.as_str()
    }

    /// The `sessionId` of the params.
    fn named(&self) -> Result<String, Refusal> {
        let missing = || Refusal::Failed(format!("Missing sessionId in {} request", self.method));
        self.text("sessionId").map(String::from).ok_or_else(missing)
    }

    fn session(&self) -> Result<Rc<Session>, Refusal> {
        let id = self.named()?;
        let lost = || Refusal::Failed(format!("Session not found for sessionId: {id}"));
        self.server.session(&id).ok_or_else(lost)
    }

    fn live(&self, answer: &'static [u8]) -> Result<&'static [u8], Refusal> {
        self.session().map(|_| answer)
    }

    fn attachment(&self) -> Attachment {
        Attachment::new(self.conn.clone(), self.params.unwrap_or(Value::new(b"{}")))
    }

    fn attach(&self, session: &Session) -> Result<(), Refusal> {
        let newcomer = self.attachment();
        if let Some(tool) = session.clash(&newcomer) {
            let why = format!("External tool name clash: {tool} already registered by another connection");
            return Err(Refusal::Failed(why));
        }
        self.server.attach(session, newcomer);
        Ok(())
    }

    fn create(&self) -> Outcome {
        let id = self.text("sessionId").filter(|id| !id.is_empty());
        if self.params.and_then(|p| p.get("cloud")).is_some() {
            return self.create_in_cloud(id.as_deref());
        }
        let id = id.map_or_else(|| self.server.source.uuid().as_str().to_owned(), String::from);
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if id.len() > 250 || !id.bytes().all(valid) {
            let why = format!("Rejected session.create request with invalid sessionId: {id}");
            return Err(Refusal::Failed(why));
        }
        if let Some(session) = self.server.session(&id) {
            self.attach(&session)?;
            return Ok(self.attached(&session));
        }
        if self.server.store.load(&id).is_some() {
            self.server.note(self.conn.id, &id, ledger::Event::Recreated);
        }
        let session = self.server.open(self.conn.id, &id, VecDeque::new());
        self.attach(&session)?;
        let mut data = br#"{"sessionId":"#.to_vec();
        put(
            &mut data,
            &[&session.quoted, br#","version":1,"startTime":""#, session.start.as_bytes(), b"\"}"],
        );
        // Before the response, as the full CLI does it: the harder order for a gateway.
        let start = Event { kind: "session.start", data: &data, ephemeral: false };
        self.server.tell(&session, start, true);
        self.server.announce("session.created", &session);
        self.server.flush_all();
        Ok(self.attached(&session))
    }

    fn create_in_cloud(&self, id: Option<&str>) -> Outcome {
        if id.is_some() {
            return Err(Refusal::Failed("sessionId must be omitted for a cloud session".into()));
        }
        let id = format!("cloud-{}", self.server.source.uuid().as_str());
        let session = self.server.open(self.conn.id, &id, VecDeque::new());
        self.attach(&session)?;
        self.server.reserve(&session);
        self.server.announce("session.created", &session);
        self.server.flush_all();
        Ok(self.attached(&session))
    }

    fn resume(&self) -> Outcome {
        let id = self.named()?;
        let (session, active) = match self.server.session(&id) {
            Some(session) => (session, true),
            None => {
                let lost =
                    || Refusal::Failed(format!("Failed to load session events: Session not found: {id}"));
                let history = self.server.store.load(&id).ok_or_else(lost)?;
                (self.server.open(self.conn.id, &id, history), false)
            }
        };
        self.attach(&session)?;
        let disabled = self.params.and_then(|p| p.get("disableResume")).and_then(Value::as_bool);
        if disabled != Some(true) {
            let data = format!(r#"{{"eventCount":0,"sessionWasActive":{active}}}"#);
            let resumed = Event { kind: "session.resume", data: data.as_bytes(), ephemeral: false };
            self.server.tell(&session, resumed, false);
            self.server.flush_all();
        }
        Ok(self.attached(&session))
    }

    /// What `create` and `resume` answer.
    fn attached(&self, session: &Session) -> Vec<u8> {
        let mut out = br#"{"sessionId":"#.to_vec();
        put(&mut out, &[&session.quoted, br#","nativeSessionId":"#, &session.quoted, br#","startTime":""#]);
        put(
            &mut out,
            &[session.start.as_bytes(), br#"","isRemote":false,"mode":"interactive","workspacePath":"#],
        );
        write_str(&mut out, &format!("/stub/session-state/{}", session.id));
        let capabilities =
            br#"{"ui":{"elicitation":false,"mcpApps":false,"canvases":false},"extensions":false}"#;
        put(&mut out, &[br#","capabilities":"#, capabilities, br#","modelState":{"modelId":"stub"}}"#]);
        out
    }

    fn send(&self) -> Outcome {
        let session = self.session()?;
        if self.server.is_agentless(&session.id) {
            return Err(Refusal::Failed("the agent of the cloud session has not come".into()));
        }
        let text = self.text("prompt").map(String::from).unwrap_or_default();
        let message = self.server.source.uuid();
        let mut queue = session.queue.borrow_mut();
        if queue.len() >= MAX_QUEUE {
            return Err(Refusal::Failed("too many queued messages".into()));
        }
        if session.turn.borrow().is_some() || !queue.is_empty() {
            self.server.note(self.conn.id, &session.id, ledger::Event::Queued);
        }
        let prompt = Prompt { text, message, connection: self.conn.id };
        // Steering that comes too late runs before what was queued.
        match self.text("mode").as_deref() {
            Some("immediate") => queue.push_front(prompt),
            _ => queue.push_back(prompt),
        }
        drop(queue);
        turn::start(self.server, &session);
        Ok(object("messageId", message.as_str()))
    }

    fn abort(&self) -> Outcome {
        let session = self.session()?;
        // With the turn goes what waits behind it.
        session.queue.borrow_mut().clear();
        // A permit that nobody waits for would abort the next turn.
        if session.task.borrow().is_some() {
            session.abort.notify_one();
        }
        Ok(SUCCESS.into())
    }

    fn delete(&self) -> Outcome {
        let id = self.named()?;
        let live = self.server.close(self.conn.id, &id);
        if !self.server.store.remove(&id) && !live {
            let mut out = br#"{"success":false,"error":"#.to_vec();
            write_str(&mut out, &format!("Session file not found for {id}"));
            out.push(b'}');
            return Ok(out);
        }
        self.server.announce_deleted(&id);
        self.server.flush_all();
        Ok(SUCCESS.into())
    }

    /// Those that are there; the answer names them.
    fn delete_all(&self) -> Vec<u8> {
        let ids = self.params.and_then(|p| p.get("sessionIds")).into_iter().flat_map(|ids| ids.elements());
        let mut freed = Vec::new();
        for id in ids.filter_map(|id| id.as_str()) {
            let live = self.server.close(self.conn.id, &id);
            if self.server.store.remove(&id) || live {
                self.server.announce_deleted(&id);
                freed.push(format!("\"{id}\":1"));
            }
        }
        self.server.flush_all();
        format!("{{\"freedBytes\":{{{}}}}}", freed.join(",")).into_bytes()
    }

    fn messages(&self) -> Outcome {
        let id = self.named()?;
        let lost = || Refusal::Failed(format!("Session not found: {id}"));
        let session = self.server.session(&id).ok_or_else(lost)?;
        let history = session.history.borrow();
        let mut out = br#"{"events":["#.to_vec();
        for (i, event) in history.iter().enumerate() {
            put(&mut out, &[if i > 0 { b"," } else { b"" }, event.as_bytes()]);
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// Every session, whoever asks: live ones, and those that the store remembers.
    fn list(&self) -> Vec<u8> {
        let mut ids = self.server.store.ids();
        ids.extend(self.server.sessions.borrow().keys().cloned());
        ids.sort_unstable();
        ids.dedup();
        let mut out = br#"{"sessions":["#.to_vec();
        for (i, id) in ids.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.write_metadata(&mut out, id);
        }
        out.extend_from_slice(b"]}");
        out
    }

    fn metadata(&self, id: &str) -> Vec<u8> {
        if self.server.session(id).is_none() && self.server.store.load(id).is_none() {
            return b"{}".into();
        }
        let mut out = br#"{"session":"#.to_vec();
        self.write_metadata(&mut out, id);
        out.push(b'}');
        out
    }

    fn write_metadata(&self, out: &mut Vec<u8>, id: &str) {
        match self.server.session(id) {
            Some(session) => session.write_metadata(out),
            None => {
                let start = self.server.source.now(str::to_owned);
                let history = self.server.store.load(id).unwrap_or_default();
                Session::new(id.to_owned(), start, history).write_metadata(out);
            }
        }
    }

    fn shown(&self) -> Vec<u8> {
        let shown = self.server.shown.as_ref().and_then(|shown| shown.borrow().clone());
        shown.map_or_else(|| b"{}".to_vec(), |id| object("sessionId", &id))
    }

    fn show(&self) -> Outcome {
        let Some(shown) = &self.server.shown else {
            return Ok(br#"{"success":false,"error":"Not running in TUI+server mode"}"#.into());
        };
        let session = self.session()?;
        let before = shown.replace(Some(session.id.clone()));
        if let Some(before) = before.and_then(|id| self.server.session(&id)) {
            self.server.announce("session.background", &before);
        }
        self.server.announce("session.foreground", &session);
        self.server.flush_all();
        Ok(SUCCESS.into())
    }

    fn answer_pending(&self, permission: bool) -> Outcome {
        let session = self.session()?;
        let request = self.text("requestId").unwrap_or_default();
        let mut pending = session.pending.borrow_mut();
        if pending.get(&*request).is_none_or(|p| p.permission != permission) {
            return Ok(success(false));
        }
        let answer = self.params.and_then(|p| p.get("result").or_else(|| p.get("error")));
        let text = answer.map_or("null".into(), |a| String::from_utf8_lossy(a.text()).into_owned());
        let taken = pending.remove(&*request);
        Ok(success(taken.is_some_and(|p| p.answer.send(text).is_ok())))
    }

    fn pending_requests(&self) -> Outcome {
        let session = self.session()?;
        let pending = session.pending.borrow();
        let items = pending.iter().filter(|(_, p)| p.permission).map(|(id, _)| {
            serde_json::json!({"requestId": id, "request": {"kind": "shell", "fullCommandText": "true"}})
        });
        Ok(serde_json::json!({"items": items.collect::<Vec<_>>()}).to_string().into())
    }
}

const SUCCESS: &[u8] = br#"{"success":true}"#;
const MODELS: &[u8] = br#"{"models":[{"id":"stub","name":"Stub","capabilities":{"supports":{"vision":false,"reasoningEffort":false},"limits":{"max_context_window_tokens":128000}}}]}"#;

fn success(was: bool) -> Vec<u8> {
    if was { SUCCESS.into() } else { br#"{"success":false}"#.into() }
}

/// `{"name":"text"}`.
fn object(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + text.len() + 8);
    put(&mut out, &[b"{\"", name.as_bytes(), b"\":"]);
    write_str(&mut out, text);
    out.push(b'}');
    out
}
