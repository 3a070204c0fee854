//! The few notifications that Jetway acts on.

use std::borrow::Cow;

use crate::json::Value;

/// The notification that carries a session's events to its attached clients.
pub const SESSION_EVENT: &str = "session.event";
/// The notification that tells every connection of a server about every session.
pub const SESSION_LIFECYCLE: &str = "session.lifecycle";
/// An undocumented notification; its session stands in `scope`.
pub const HOST_EVENT: &str = "host.event";

/// The session that a message from a CLI server concerns, if it names one.
pub fn session_of<'a>(method: &str, params: Value<'a>) -> Option<Cow<'a, str>> {
    let scope = if method == HOST_EVENT { params.get("scope")? } else { params };
    scope.get("sessionId")?.as_str()
}

/// What an event means for its session's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The session has nothing more to do.
    Idle,
    /// The turn failed.
    Failed,
    /// The first bytes of an answer.
    Delta,
    /// Anything else.
    Other,
}

/// What a `session.event`'s `event` member means for its session's turn.
pub fn turn_of(params: Value<'_>) -> Turn {
    let kind = params.get("event").and_then(|e| e.get("type"));
    match kind.map(Value::text) {
        Some(b"\"session.idle\"") => Turn::Idle,
        Some(b"\"session.error\"") => Turn::Failed,
        Some(b"\"assistant.message_delta\"") => Turn::Delta,
        _ => Turn::Other,
    }
}
