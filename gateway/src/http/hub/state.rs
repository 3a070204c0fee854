//! What a session's events amount to: the running turn, its answer, and what waits for a person. Reads no
//! clock and does no I/O.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use jetway_config::UserId;

use super::{
    requests::{Request, Requests},
    ring::{Event, EventId, Ring},
};

/// The most that is kept of an answer while it comes; the whole one comes with its end.
const PARTIAL: usize = 1 << 20;

/// How a turn of the HTTP face ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    Failed,
    Aborted,
    Indeterminate,
}

impl Ending {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Ending::Completed => "completed",
            Ending::Failed => "failed",
            Ending::Aborted => "aborted",
            Ending::Indeterminate => "indeterminate",
        }
    }
}

/// A turn that this face has begun.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) user: UserId,
    /// The CLI's id of the prompt, once it is known.
    pub(crate) message: Option<String>,
    /// The prompt came back as an event: from here on what is said is its answer.
    heard: bool,
    /// The last whole message of the model.
    pub(crate) content: Option<String>,
    /// The model's and the CLI's account of what it took.
    pub(crate) usage: Map<String, Value>,
    /// The error that the session reported: its type and its words.
    pub(crate) error: Option<(String, String)>,
}

/// Something that is to be done because of an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Somebody, or a policy, must decide.
    Asked(Request),
    /// The CLI server asked what nobody here answers.
    Unanswerable(jetway_wire::Id),
    /// The turn ended.
    Ended(Box<Turn>, Ending),
}

/// What is kept of a session.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ring: Ring,
    pub(crate) requests: Requests,
    pub(crate) turn: Option<Turn>,
    /// The message that is being said, as far as it came.
    partial: String,
    /// Where the session works, on the CLI server's host.
    pub(crate) workspace: Option<String>,
    /// Something runs in the session, whoever began it.
    running: bool,
}

impl State {
    pub(crate) fn new(last: EventId) -> Self {
        Self {
            ring: Ring::new(last),
            requests: Requests::default(),
            turn: None,
            partial: String::new(),
            workspace: None,
            running: false,
        }
    }

    /// A turn is about to be asked for. There must be none.
    pub(crate) fn begin(&mut self, id: String, user: UserId) {
        let (message, content, usage, error) = (None, None, Map::new(), None);
        self.turn = Some(Turn { id, user, message, heard: false, content, usage, error });
    }

    /// Whether something runs in the session, as far as was heard.
    pub(crate) fn is_running(&self) -> bool {
        self.running || self.turn.is_some()
    }

    /// Ends the turn, if it is that one: it did not begin, or will not be heard of any more.
    pub(crate) fn end(&mut self, id: &str, how: Ending) -> Option<Effect> {
        let turn = self.turn.take_if(|turn| turn.id == id)?;
        Some(Effect::Ended(Box::new(turn), how))
    }

    /// Notes one of the CLI's events and returns what it asks for.
    pub(crate) fn event(&mut self, id: EventId, kind: &str, data: &[u8]) -> Option<Effect> {
        self.push(id, kind, data);
        let data = || serde_json::from_slice::<Value>(data).unwrap_or_default();
        match kind {
            "assistant.message_delta" => self.delta(&data()),
            "user.message" => {
                self.partial.clear();
                self.running = true;
                if let Some(turn) = &mut self.turn {
                    turn.heard = true;
                }
            }
            "session.start" | "session.resume" => {
                if let Some(cwd) = data()["context"]["cwd"].as_str() {
                    self.workspace = Some(cwd.to_owned());
                }
            }
            "assistant.message" => self.message(&data()),
            "assistant.usage" => self.usage(data()),
            "permission.requested" => return self.permission(&data()),
            "permission.completed" => self.requests.remove(text(&data(), "requestId")),
            "session.error" => return self.failed(&data()),
            "session.idle" => return self.idle(&data()),
            _ => {}
        }
        None
    }

    /// Adds an event to what subscribers see.
    pub(crate) fn push(&mut self, id: EventId, kind: &str, data: &[u8]) {
        // JSON has line breaks between its tokens only, where a space does as well.
        let line = |b: &u8| if matches!(b, b'\n' | b'\r') { b' ' } else { *b };
        let data: Bytes = data.iter().map(line).collect::<Vec<_>>().into();
        self.ring.push(Event { id, kind: kind.into(), data });
    }

    /// Where things stand, for whom the events alone do not tell any more.
    pub(crate) fn snapshot(&self) -> Value {
        json!({
            "running": self.is_running(),
            "turn": self.turn.as_ref().map(|t| &t.id),
            "partial": self.partial,
            "requests": self.requests.list(),
        })
    }

    fn delta(&mut self, data: &Value) {
        let delta = text(data, "deltaContent");
        if self.partial.len() + delta.len() <= PARTIAL {
            self.partial.push_str(delta);
        }
    }

    fn message(&mut self, data: &Value) {
        self.partial.clear();
        if let Some(turn) = self.turn.as_mut().filter(|t| t.heard) {
            let content = text(data, "content");
            // A message that only calls tools says nothing.
            if !content.is_empty() || turn.content.is_none() {
                turn.content = Some(content.to_owned());
            }
        }
    }

    /// Adds up the numbers; of everything else the latest counts.
    fn usage(&mut self, data: Value) {
        let (Some(turn), Value::Object(data)) = (&mut self.turn, data) else { return };
        for (name, value) in data {
            match (turn.usage.get(&name).and_then(Value::as_f64), value.as_f64()) {
                (Some(before), Some(more)) if name.ends_with("okens") || name == "cost" => {
                    let sum = before + more;
                    let whole = sum.fract() == 0.0 && sum.abs() < 9e15;
                    turn.usage.insert(name, if whole { json!(sum as i64) } else { json!(sum) });
                }
                _ if value.is_object() || value.is_array() => {}
                _ => drop(turn.usage.insert(name, value)),
            }
        }
    }

    fn permission(&mut self, data: &Value) -> Option<Effect> {
        if data["resolvedByHook"] == json!(true) {
            return None;
        }
        let request = Request::permission(data)?;
        self.requests.add(request.clone()).then_some(Effect::Asked(request))
    }

    fn failed(&mut self, data: &Value) -> Option<Effect> {
        let turn = self.turn.as_mut()?;
        let kind = text(data, "errorType");
        turn.error = Some((kind.to_owned(), text(data, "message").to_owned()));
        if kind != "turn_indeterminate" {
            return None;
        }
        // Nothing else will be heard of it.
        self.running = false;
        let turn = self.turn.take()?;
        Some(Effect::Ended(Box::new(turn), Ending::Indeterminate))
    }

    fn idle(&mut self, data: &Value) -> Option<Effect> {
        self.running = false;
        // What is idle before the prompt was heard is the turn before.
        let turn = self.turn.take_if(|turn| turn.heard || turn.error.is_some())?;
        let how = match &turn.error {
            _ if data["aborted"] == json!(true) => Ending::Aborted,
            Some(_) => Ending::Failed,
            None => Ending::Completed,
        };
        Some(Effect::Ended(Box::new(turn), how))
    }
}

fn text<'a>(data: &'a Value, name: &str) -> &'a str {
    data.get(name).and_then(Value::as_str).unwrap_or_default()
}
