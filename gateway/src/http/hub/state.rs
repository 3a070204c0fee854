//! What a session's events amount to: the running turn, its answer, and what waits for a person. Reads no
//! clock and does no I/O.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use jetway_config::UserId;

use super::{
    requests::{Request, Requests},
    ring::{Event, EventId, OF_SESSION, Ring},
};

/// The most that is kept of an answer while it comes; the whole one comes with its end.
const PARTIAL: usize = 1 << 20;

/// How many prompts may come back before the CLI's reply tells which is a turn's own: more than a session has
/// under way at once.
const MAX_HEARD: usize = 64;

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
    /// What was said to each prompt since the turn was asked for. Which is its own shows when its id is known: the
    /// events of the turn before may come late, and the CLI's reply earlier or later than they.
    heard: Vec<Answer>,
}

/// What was said from a prompt on until the session went idle.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    /// The prompt's id.
    message: String,
    /// The last whole message of the model.
    pub(crate) content: Option<String>,
    /// The model's and the CLI's account of what it took.
    pub(crate) usage: Map<String, Value>,
    /// The error that the session reported: its type and its words.
    pub(crate) error: Option<(String, String)>,
    /// The session went idle; whether by an abort.
    idle: Option<bool>,
}

impl Answer {
    fn ending(&self, aborted: bool) -> Ending {
        match &self.error {
            _ if aborted => Ending::Aborted,
            Some(_) => Ending::Failed,
            None => Ending::Completed,
        }
    }

    /// Adds up the numbers; of everything else the latest counts.
    fn uses(&mut self, data: &Value) {
        for (name, value) in data.as_object().into_iter().flatten() {
            match (self.usage.get(name).and_then(Value::as_f64), value.as_f64()) {
                (Some(before), Some(more)) if name.ends_with("okens") || name == "cost" => {
                    let sum = before + more;
                    let whole = sum.fract() == 0.0 && sum.abs() < 9e15;
                    self.usage.insert(name.clone(), if whole { json!(sum as i64) } else { json!(sum) });
                }
                _ if value.is_object() || value.is_array() => {}
                _ => drop(self.usage.insert(name.clone(), value.clone())),
            }
        }
    }
}

impl Turn {
    fn new(id: String, user: UserId) -> Self {
        Self { id, user, message: None, heard: Vec::new() }
    }

    /// Whether its prompt came back with an error after it.
    pub(crate) fn has_failed(&self) -> bool {
        self.message.is_some() && self.heard.iter().any(|answer| answer.error.is_some())
    }

    /// What was said to it.
    pub(crate) fn into_answer(mut self) -> Answer {
        self.heard.pop().unwrap_or_default()
    }

    /// A prompt came into the session: what is said from here on may be the answer.
    fn hear(&mut self, message: &str) {
        let own = self.message.as_deref().is_none_or(|own| own == message);
        if own && self.heard.len() < MAX_HEARD {
            self.heard.push(Answer { message: message.to_owned(), ..Answer::default() });
        }
    }

    /// The CLI took its prompt under that id.
    fn take(&mut self, message: String) {
        self.heard.retain(|answer| answer.message == message);
        self.message = Some(message);
    }

    /// The answers that may go on.
    fn open(&mut self) -> impl Iterator<Item = &mut Answer> {
        self.heard.iter_mut().filter(|answer| answer.idle.is_none())
    }
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
            ring: Ring::new(last, OF_SESSION),
            requests: Requests::default(),
            turn: None,
            partial: String::new(),
            workspace: None,
            running: false,
        }
    }

    /// A turn is about to be asked for. There must be none.
    pub(crate) fn begin(&mut self, id: String, user: UserId) {
        self.turn = Some(Turn::new(id, user));
    }

    /// The CLI took the prompt of that turn under that id.
    pub(crate) fn taken(&mut self, id: &str, message: String) -> Option<Effect> {
        let turn = self.turn.as_mut().filter(|turn| turn.id == id)?;
        turn.take(message);
        self.settled()
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
                    turn.hear(text(&data(), "messageId"));
                }
            }
            "session.start" | "session.resume" => {
                if let Some(cwd) = data()["context"]["cwd"].as_str() {
                    self.workspace = Some(cwd.to_owned());
                }
            }
            "assistant.message" => self.message(&data()),
            "assistant.usage" => self.usage(&data()),
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
        let content = text(data, "content");
        for answer in self.turn.iter_mut().flat_map(Turn::open) {
            // A message that only calls tools says nothing.
            if !content.is_empty() || answer.content.is_none() {
                answer.content = Some(content.to_owned());
            }
        }
    }

    fn usage(&mut self, data: &Value) {
        let answers = self.turn.iter_mut().flat_map(Turn::open);
        answers.for_each(|answer| answer.uses(data));
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
        let error = (kind.to_owned(), text(data, "message").to_owned());
        if kind != "turn_indeterminate" {
            turn.open().for_each(|answer| answer.error = Some(error.clone()));
            return None;
        }
        // Nothing else will be heard of it.
        self.running = false;
        let mut turn = self.turn.take()?;
        turn.heard.push(Answer { error: Some(error), ..turn.clone().into_answer() });
        Some(Effect::Ended(Box::new(turn), Ending::Indeterminate))
    }

    fn idle(&mut self, data: &Value) -> Option<Effect> {
        self.running = false;
        let aborted = data["aborted"] == json!(true);
        self.turn.iter_mut().flat_map(Turn::open).for_each(|answer| answer.idle = Some(aborted));
        self.settled()
    }

    /// The turn has ended once the session went idle after its own prompt.
    fn settled(&mut self) -> Option<Effect> {
        let turn = self.turn.as_ref().filter(|turn| turn.message.is_some())?;
        let ending = turn.heard.iter().find_map(|answer| Some(answer.ending(answer.idle?)))?;
        Some(Effect::Ended(Box::new(self.turn.take()?), ending))
    }
}

fn text<'a>(data: &'a Value, name: &str) -> &'a str {
    data.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: EventId = EventId { boot: 1, n: 1 };

    /// A turn that is asked for.
    fn asked() -> State {
        let mut state = State::new(SOME);
        state.begin("t".into(), "ada".parse().unwrap());
        state
    }

    fn tell(state: &mut State, kind: &str, data: Value) -> Option<Effect> {
        state.event(SOME, kind, data.to_string().as_bytes())
    }

    fn says(state: &mut State, prompt: &str, answer: &str) {
        assert_eq!(tell(state, "user.message", json!({ "messageId": prompt })), None);
        assert_eq!(tell(state, "assistant.message", json!({ "content": answer })), None);
    }

    fn ended(effect: Option<Effect>) -> (Option<String>, Ending) {
        match effect {
            Some(Effect::Ended(turn, how)) => (turn.into_answer().content, how),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_turn_before_is_another() {
        let mut state = asked();
        says(&mut state, "before", "theirs");
        assert_eq!(state.taken("t", "own".into()), None);
        assert_eq!(tell(&mut state, "session.error", json!({ "errorType": "query" })), None);
        assert_eq!(tell(&mut state, "session.idle", json!({})), None);
        says(&mut state, "own", "mine");
        assert_eq!(
            ended(tell(&mut state, "session.idle", json!({}))),
            (Some("mine".into()), Ending::Completed)
        );
    }

    #[test]
    fn its_id_may_be_known_last() {
        let mut state = asked();
        says(&mut state, "before", "theirs");
        assert_eq!(tell(&mut state, "session.idle", json!({ "aborted": true })), None);
        says(&mut state, "own", "mine");
        assert_eq!(tell(&mut state, "session.idle", json!({})), None);
        assert_eq!(ended(state.taken("t", "own".into())), (Some("mine".into()), Ending::Completed));
    }

    #[test]
    fn what_is_lost_ends_whatever_was_heard() {
        let mut state = asked();
        let (_, how) = ended(tell(&mut state, "session.error", json!({ "errorType": "turn_indeterminate" })));
        assert_eq!(how, Ending::Indeterminate);
    }
}
