//! A session that a server holds: who is attached, what waits, what it remembers.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use jetway_wire::{Value, json::write_str};
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
};

use super::{
    MAX_HISTORY,
    conn::Conn,
    event::{Event, Source, Uuid, put, write_event},
    ledger::OpenTurn,
};

/// A prompt that waits for its turn.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) text: String,
    pub(super) message: Uuid,
    pub(super) connection: u64,
}

/// What an attached connection asked to be asked.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) conn: Rc<Conn>,
    pub(super) hooks: bool,
    pub(super) user_input: bool,
    pub(super) tools: Vec<String>,
    /// Events that it is to hear late, while it is.
    late: RefCell<Option<Vec<Vec<u8>>>>,
}

impl Attachment {
    /// From the params of `session.create` or `session.resume`.
    pub(super) fn new(conn: Rc<Conn>, params: Value<'_>) -> Self {
        let flag = |name| params.get(name).and_then(Value::as_bool).unwrap_or(false);
        let tools = params.get("tools").into_iter().flat_map(Value::elements);
        let tools = tools.filter_map(|tool| Some(tool.get("name")?.as_str()?.into_owned())).collect();
        let late = RefCell::default();
        Self { conn, hooks: flag("hooks"), user_input: flag("requestUserInput"), tools, late }
    }

    fn tell(&self, parts: &[&[u8]]) {
        match &mut *self.late.borrow_mut() {
            Some(late) => late.push(parts.concat()),
            None => self.conn.push_frame(parts),
        }
    }
}

/// A question to whoever is attached, answered by a request that names it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) permission: bool,
    pub(super) answer: oneshot::Sender<String>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    /// The id as JSON.
    pub(super) quoted: Vec<u8>,
    pub(super) start: String,
    pub(super) name: RefCell<Option<String>>,
    pub(super) attached: RefCell<Vec<Attachment>>,
    pub(super) queue: RefCell<VecDeque<Prompt>>,
    /// The task that works the queue off, while it does.
    pub(super) task: RefCell<Option<AbortHandle>>,
    /// The turn under way. It lives here so that closing the session records its loss at once.
    pub(super) turn: RefCell<Option<OpenTurn>>,
    pub(super) abort: Notify,
    pub(super) pending: RefCell<HashMap<String, Pending>>,
    pub(super) history: RefCell<VecDeque<String>>,
    /// Persisted events from before the first message: until then the session leaves no trace.
    pub(super) unsaved: RefCell<Vec<String>>,
    parent: Cell<Option<Uuid>>,
}

impl Session {
    pub(super) fn new(id: String, start: String, history: VecDeque<String>) -> Self {
        let mut quoted = Vec::new();
        write_str(&mut quoted, &id);
        Self {
            id,
            quoted,
            start,
            name: RefCell::default(),
            attached: RefCell::default(),
            queue: RefCell::default(),
            task: RefCell::default(),
            turn: RefCell::default(),
            abort: Notify::new(),
            pending: RefCell::default(),
            history: RefCell::new(history),
            unsaved: RefCell::default(),
            parent: Cell::new(None),
        }
    }

    /// The tool that another connection offers already.
    pub(super) fn clash<'a>(&self, newcomer: &'a Attachment) -> Option<&'a str> {
        let attached = self.attached.borrow();
        let others = attached.iter().filter(|a| a.conn.id != newcomer.conn.id);
        let taken: Vec<&String> = others.flat_map(|a| &a.tools).collect();
        newcomer.tools.iter().find(|tool| taken.contains(tool)).map(String::as_str)
    }

    /// Attaches, or attaches anew and last.
    pub(super) fn attach(&self, newcomer: Attachment) {
        self.detach(newcomer.conn.id);
        newcomer.conn.sessions.borrow_mut().push(self.id.clone());
        self.attached.borrow_mut().push(newcomer);
    }

    /// Whether it was attached.
    pub(super) fn detach(&self, connection: u64) -> bool {
        let mut attached = self.attached.borrow_mut();
        let Some(at) = attached.iter().position(|a| a.conn.id == connection) else { return false };
        attached.remove(at).conn.sessions.borrow_mut().retain(|id| *id != self.id);
        true
    }

    /// Tells everyone attached; what is to be persisted comes back.
    pub(super) fn tell(&self, event: Event<'_>, source: &Source) -> Option<String> {
        let id = source.uuid();
        let mut text = Vec::with_capacity(event.data.len() + 200);
        write_event(&mut text, event, &id, self.parent.get().as_ref(), source);
        let head = br#"{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"#;
        for attachment in &*self.attached.borrow() {
            attachment.tell(&[head, &self.quoted, br#","event":"#, &text, b"}}"]);
        }
        if event.ephemeral {
            return None;
        }
        self.parent.set(Some(id));
        let text = String::from_utf8(text).ok()?;
        let mut history = self.history.borrow_mut();
        if history.len() == MAX_HISTORY {
            history.pop_front();
        }
        history.push_back(text.clone());
        Some(text)
    }

    /// Holds events back from all connections but `own`; what the CLI replies overtakes them.
    pub(super) fn lag(&self, own: Option<u64>) {
        let attached = self.attached.borrow();
        let late = attached.iter().filter(|a| Some(a.conn.id) != own);
        late.for_each(|a| {
            a.late.borrow_mut().get_or_insert_default();
        });
    }

    /// Lets them hear what they have missed.
    pub(super) fn catch_up(&self) {
        for attachment in &*self.attached.borrow() {
            let late = attachment.late.take();
            late.iter().flatten().for_each(|frame| attachment.conn.push_frame(&[frame]));
        }
    }

    /// What was asked of this session before, by its users.
    pub(super) fn prompts(&self) -> Vec<String> {
        let history = self.history.borrow();
        let events = history.iter().map(|text| Value::new(text.as_bytes()));
        let messages = events.filter(|e| e.get("type").is_some_and(|t| t.text() == br#""user.message""#));
        messages.filter_map(|e| Some(e.get("data")?.get("content")?.as_str()?.into_owned())).collect()
    }

    /// When its last event that is kept was.
    fn modified(&self) -> Option<String> {
        let history = self.history.borrow();
        let last = Value::new(history.back()?.as_bytes());
        Some(last.get("timestamp")?.as_str()?.into_owned())
    }

    /// What `session.list` and `session.getMetadata` say of it.
    pub(super) fn write_metadata(&self, out: &mut Vec<u8>) {
        let modified = self.modified().unwrap_or_else(|| self.start.clone());
        put(out, &[br#"{"sessionId":"#, &self.quoted, br#","startTime":""#, self.start.as_bytes()]);
        put(out, &[br#"","modifiedTime":""#, modified.as_bytes()]);
        out.extend_from_slice(br#"","isRemote":false,"isDetached":false,"#);
        if let Some(first) = self.prompts().first() {
            out.extend_from_slice(br#""summary":"#);
            write_str(out, first);
            out.push(b',');
        }
        out.extend_from_slice(br#""clientName":"sdk","context":{"cwd":"/"}}"#);
    }
}
