//! What waits for a person: permission prompts and questions.

use serde_json::{Map, Value, json};

use jetway_wire::Id;

/// How many may wait in a session; a CLI asks a handful at a time.
const MOST: usize = 256;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matter {
    Permission,
    Question,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) matter: Matter,
    /// What the CLI said of it, for people.
    pub(crate) details: Value,
    /// Under which id the CLI server asks, if it is a question.
    pub(crate) question: Option<Id>,
    /// When it was asked and until when it can be answered, in RFC 3339.
    pub(crate) times: Option<(String, String)>,
}

impl Request {
    /// A `permission.requested` event's.
    pub(crate) fn permission(data: &Value) -> Option<Self> {
        let id = data["requestId"].as_str()?.to_owned();
        let details = data.get("permissionRequest").or_else(|| data.get("request"))?.clone();
        Some(Self { id, matter: Matter::Permission, details, question: None, times: None })
    }

    /// A `userInput.request`'s.
    pub(crate) fn question(asked: Id, params: &Value) -> Self {
        let id = format!("question-{asked}");
        let mut details = params.clone();
        if let Some(details) = details.as_object_mut() {
            details.remove("sessionId");
        }
        Self { id, matter: Matter::Question, details, question: Some(asked), times: None }
    }

    /// As it is listed.
    pub(crate) fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("id".into(), json!(self.id));
        let (kind, details) = match self.matter {
            Matter::Permission => ("permission", "request"),
            Matter::Question => ("question", "question"),
        };
        body.insert("type".into(), json!(kind));
        body.insert(details.into(), self.details.clone());
        if let Some((asked, expires)) = &self.times {
            body.insert("created_at".into(), json!(asked));
            body.insert("expires_at".into(), json!(expires));
        }
        Value::Object(body)
    }
}

/// All that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Requests(Vec<Request>);

impl Requests {
    /// Adds one. Whether it is new and there was room.
    pub(crate) fn add(&mut self, request: Request) -> bool {
        let room = self.0.len() < MOST && self.find(&request.id).is_none();
        if room {
            self.0.push(request);
        }
        room
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Request> {
        self.0.iter().find(|r| r.id == id)
    }

    pub(crate) fn find_mut(&mut self, id: &str) -> Option<&mut Request> {
        self.0.iter_mut().find(|r| r.id == id)
    }

    /// It was answered, or nobody waits for the answer.
    pub(crate) fn remove(&mut self, id: &str) {
        self.0.retain(|r| r.id != id);
    }

    /// The next gateway finds the permissions again. A question ends with its CLI server's process.
    pub(crate) fn hand_on(&mut self) {
        self.0.retain(|request| request.matter == Matter::Question);
    }

    /// Nobody waits for any answer.
    pub(crate) fn take(&mut self) -> Vec<String> {
        self.0.drain(..).map(|request| request.id).collect()
    }

    pub(crate) fn list(&self) -> Vec<Value> {
        self.0.iter().map(Request::to_json).collect()
    }
}
