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

/// A `session.event`, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek<'a> {
    /// The session.
    pub session: &'a str,
    /// What it means for the session's turn.
    pub turn: Turn,
}

/// Knows a `session.event` by its first bytes, which the CLI always writes in the same order; `None` for
/// anything else, which is then to be read in full.
///
/// Nothing that a user or a model says can imitate them: what they say stands in strings, further in.
pub fn peek(body: &[u8]) -> Option<Peek<'_>> {
    let rest = body.strip_prefix(br#"{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":""#)?;
    let (session, rest) = rest.split_at(memchr::memchr2(b'"', b'\\', rest)?);
    let rest = rest.strip_prefix(br#"","event":{"type":""#)?;
    let kind = &rest[..memchr::memchr2(b'"', b'\\', rest)?];
    Some(Peek { session: std::str::from_utf8(session).ok()?, turn: turn_of_type(kind) })
}

/// What an event means for its session's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The session has nothing more to do.
    Idle,
    /// The turn failed.
    Failed,
    /// A message for the model came into the session, with which a turn begins or goes on.
    Prompted,
    /// The first bytes of an answer.
    Delta,
    /// The session asks its people something; `data.requestId` names it.
    Asked,
    /// That has been answered.
    Answered,
    /// The session begins; see [`is_agents_start`].
    Started,
    /// Anything else.
    Other,
}

/// What a `session.event`'s `event` member means for its session's turn.
pub fn turn_of(params: Value<'_>) -> Turn {
    let kind = params.get("event").and_then(|e| e.get("type")).and_then(Value::as_str);
    kind.map_or(Turn::Other, |kind| turn_of_type(kind.as_bytes()))
}

/// The id of the message that a `session.event` of that kind brings: the one that the reply to its prompt named.
pub fn message_of<'a>(params: Value<'a>) -> Option<Cow<'a, str>> {
    params.get("event")?.get("data")?.get("messageId")?.as_str()
}

/// Whether an event tells that a cloud session's agent is there. Of a session that is not in the cloud it says no
/// more than that the session begins.
pub fn is_agents_start(event: Value<'_>) -> bool {
    let text = |value: Option<Value<'_>>, is: &str| value.and_then(Value::as_str).as_deref() == Some(is);
    text(event.get("type"), "session.start")
        && text(event.get("data").and_then(|data| data.get("producer")), "copilot-agent")
}

/// Whether a session that went idle will go on by itself, for all that this event of it tells: in autopilot it may.
pub fn goes_on(params: Value<'_>) -> bool {
    let mode = || params.get("event")?.get("data")?.get("mode")?.as_str();
    mode().as_deref() == Some("autopilot")
}

fn turn_of_type(kind: &[u8]) -> Turn {
    match kind {
        b"session.idle" => Turn::Idle,
        b"session.error" => Turn::Failed,
        b"user.message" => Turn::Prompted,
        b"assistant.message_delta" => Turn::Delta,
        b"command.execute" => Turn::Asked,
        b"session.start" => Turn::Started,
        kind if kind.ends_with(b".requested") => Turn::Asked,
        kind if kind.ends_with(b".completed") && !kind.starts_with(b"subagent.") => Turn::Answered,
        _ => Turn::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, Kind};

    #[test]
    fn a_peek_sees_what_a_reading_sees() {
        let kinds = ["session.idle", "user.message", "session.start", "assistant.message_delta", "tool.x"];
        for kind in kinds.into_iter().chain(["permission.requested"]) {
            let body = format!(
                r#"{{"jsonrpc":"2.0","method":"session.event","params":{{"sessionId":"a-1","event":{{"type":"{kind}","data":{{}}}}}}}}"#
            );
            let peek = peek(body.as_bytes()).unwrap();
            let Kind::Notification { method, params: Some(params) } =
                Envelope::trusted(body.as_bytes()).unwrap().kind
            else {
                panic!("{body}")
            };
            assert_eq!(Some(peek.session), session_of(&method, params).as_deref());
            assert_eq!(peek.turn, turn_of(params));
        }
    }

    #[test]
    fn a_start_is_the_agents_if_it_says_so() {
        let is = |event: &str| is_agents_start(Value::new(event.as_bytes()));
        assert!(is(r#"{"type":"session.start","data":{"version":1,"producer":"copilot-agent"}}"#));
        for other in [
            r#"{"type":"session.start","data":{"producer":"mission-control"}}"#,
            r#"{"type":"session.start","data":{}}"#,
            r#"{"type":"session.resume","data":{"producer":"copilot-agent"}}"#,
            r#"{"type":"user.message","data":{"content":"session.start copilot-agent"}}"#,
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn whatever_looks_otherwise_is_read_in_full() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"session.event","params":{"sessionId":"a","event":{"type":"x"}}}"#,
            r#"{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"a\u0062","event":{"type":"x"}}}"#,
            r#"{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"a","event":{"data":{},"type":"x"}}}"#,
            r#"{"jsonrpc":"2.0","method":"session.event","params":{"sessionId":"a"#,
            "",
        ] {
            assert_eq!(peek(body.as_bytes()), None, "{body}");
        }
    }
}
