//! Every method of the CLI server that Jetway knows, as data: `catalogue.txt` beside this file.
//!
//! A method that does not stand there is not forwarded.

use std::{collections::HashMap, sync::LazyLock};

use crate::json::Value;

/// Who deals with a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Jetway itself.
    Jetway,
    /// The caller's own CLI server.
    Home,
    /// The server on which the session is to live: attaches it.
    Create,
    /// The server where the session lives: attaches it.
    Resume,
    /// The server where the session lives.
    Session,
}

/// A method and what is to be known about it before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// As the CLI names it.
    pub name: &'static str,
    /// Who deals with it.
    pub scope: Scope,
    /// Whether it is safe beside other users of one CLI server.
    pub shared: bool,
    /// Where session ids stand in the params.
    ids: Vec<Vec<Step>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Member(&'static str),
    Each,
}

static TABLE: LazyLock<HashMap<&'static str, Method, ahash::RandomState>> = LazyLock::new(|| {
    include_str!("catalogue.txt").lines().filter_map(parse_line).map(|m| (m.name, m)).collect()
});

/// The method of that name, if Jetway knows it.
pub fn lookup(name: &str) -> Option<&'static Method> {
    TABLE.get(name)
}

/// Every method that Jetway knows, in no order.
pub fn all() -> impl Iterator<Item = &'static Method> {
    TABLE.values()
}

impl Method {
    /// Calls `found` with each value that stands where a session id does; it may be of any type.
    pub fn session_ids<'a>(&self, params: Value<'a>, mut found: impl FnMut(Value<'a>)) {
        for path in &self.ids {
            follow(params, path, &mut found);
        }
    }

    /// Whether a session id may stand in its params.
    pub fn names_sessions(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Whether it begins a turn once it is answered.
    pub fn begins_turn(&self) -> bool {
        matches!(self.name, "session.send" | "session.sendMessages")
    }
}

fn follow<'a>(value: Value<'a>, path: &[Step], found: &mut impl FnMut(Value<'a>)) {
    match path {
        [] => found(value),
        [Step::Member(name), rest @ ..] => {
            if let Some(value) = value.get(name) {
                follow(value, rest, found);
            }
        }
        [Step::Each, rest @ ..] => {
            for value in value.elements() {
                follow(value, rest, found);
            }
        }
    }
}

fn parse_line(line: &'static str) -> Option<Method> {
    let mut columns = line.split_ascii_whitespace();
    let name = columns.next().filter(|n| !n.starts_with('#'))?;
    let scope = match columns.next()? {
        "jetway" => Scope::Jetway,
        "home" => Scope::Home,
        "create" => Scope::Create,
        "resume" => Scope::Resume,
        _ => Scope::Session,
    };
    let shared = columns.next()? == "yes";
    let paths = columns.next().unwrap_or_default().split(',').filter(|p| !p.is_empty());
    Some(Method { name, scope, shared, ids: paths.map(parse_path).collect() })
}

fn parse_path(path: &'static str) -> Vec<Step> {
    let step = |part: &'static str| match part.strip_suffix("[]") {
        Some(name) => vec![Step::Member(name), Step::Each],
        None => vec![Step::Member(part)],
    };
    path.split('.').flat_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_well_formed() {
        let rows: Vec<_> = include_str!("catalogue.txt").lines().filter(|l| !l.starts_with('#')).collect();
        for row in &rows {
            let columns: Vec<_> = row.split_ascii_whitespace().collect();
            assert!(matches!(columns.len(), 3 | 4), "{row}");
            assert!(matches!(columns[1], "jetway" | "home" | "create" | "resume" | "session"), "{row}");
            assert!(matches!(columns[2], "yes" | "no"), "{row}");
        }
        assert!(rows.is_sorted(), "keep the catalogue sorted");
        assert_eq!(TABLE.len(), rows.len(), "a method stands there twice");
    }

    #[test]
    fn ids_are_found_wherever_they_stand() {
        let find = |method: &str, params: &'static str| {
            let mut ids = Vec::new();
            let params = Value::new(params.as_bytes());
            lookup(method)
                .unwrap()
                .session_ids(params, |v| ids.push(String::from_utf8_lossy(v.text()).into_owned()));
            ids
        };
        assert_eq!(find("session.send", r#"{"prompt":"x","sessionId":"a"}"#), ["\"a\""]);
        assert_eq!(find("session.send", r#"{"session\u0049d":"a"}"#), ["\"a\""]);
        assert_eq!(find("sessions.checkInUse", r#"{"sessionIds":["a",7]}"#), ["\"a\"", "7"]);
        assert_eq!(
            find("sessions.enrichMetadata", r#"{"sessions":[{"sessionId":"a"},{"sessionId":"b"}]}"#).len(),
            2
        );
        let open = r#"{"options":{"sessionId":"a","detachedFromSpawningParentSessionId":"b"},"metadata":{"sessionId":"c"}}"#;
        assert_eq!(find("sessions.open", open), ["\"a\"", "\"b\"", "\"c\""]);
        assert!(lookup("session.sendd").is_none());
    }
}
