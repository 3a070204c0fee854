//! A line of the audit log.

use std::{net::SocketAddr, time::SystemTime};

use serde_json::{Map, Value};

use crate::auth::Caller;

/// The longest text of a caller's own that is repeated, in bytes: as long as an identifier.
const LONGEST: usize = jetway_config::ids::MAX_ID_LEN;

/// What is known of an event. What is not is left out.
#[derive(Debug, Default)]
pub(super) struct Line<'a> {
    pub(super) event: &'static str,
    pub(super) tenant: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) key_id: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) rule: Option<&'a str>,
    pub(super) session: Option<&'a str>,
    pub(super) target: Option<&'a str>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) outcome: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn of(event: &'static str) -> Self {
        Self { event, outcome: "ok", ..Self::default() }
    }

    pub(super) fn by(event: &'static str, caller: &'a Caller) -> Self {
        Self {
            tenant: Some(caller.who.tenant.as_str()),
            user: Some(caller.who.user.as_str()),
            key_id: caller.by.key().map(|key| key.as_str()),
            peer: caller.peer,
            ..Self::of(event)
        }
    }

    /// With the time, in UTC, and a newline.
    pub(super) fn to_json(&self) -> String {
        let peer = self.peer.map(|peer| peer.to_string());
        let fields = [
            ("tenant", self.tenant),
            ("user", self.user),
            ("key_id", self.key_id),
            ("method", self.method),
            ("rule", self.rule),
            ("session", self.session),
            ("target", self.target),
            ("peer", peer.as_deref()),
            ("outcome", Some(self.outcome)),
        ];
        let mut line = stamped(self.event);
        line.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        Value::Object(line).to_string() + "\n"
    }
}

/// How many lines there are not.
pub(super) fn left_out(count: u64) -> String {
    let mut line = stamped("left_out");
    line.insert("count".to_owned(), count.into());
    Value::Object(line).to_string() + "\n"
}

fn stamped(event: &str) -> Map<String, Value> {
    let ts = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    Map::from_iter([("ts".to_owned(), ts.into()), ("event".to_owned(), event.into())])
}

/// A caller's text, if it can be a name: content does not come in here by the name of a method.
pub(super) fn plain(text: &str) -> Option<&str> {
    let like_a_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'$');
    (text.len() <= LONGEST && text.bytes().all(like_a_name)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_left_out() {
        let line = Line { session: Some("s\"\n"), ..Line::of("denied") }.to_json();
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(parsed["session"], "s\"\n");
        assert_eq!(parsed.as_object().unwrap().len(), 4, "{line}");
    }

    #[test]
    fn content_is_no_name() {
        assert_eq!(plain("session.shell.exec"), Some("session.shell.exec"));
        for text in ["my password is", "a\nb", "ü", &"x".repeat(LONGEST + 1)] {
            assert_eq!(plain(text), None, "{text}");
        }
    }
}
