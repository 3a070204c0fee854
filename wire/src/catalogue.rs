//! Every method of the CLI server that Jetway knows, as data: `catalogue/session.txt` and `catalogue/server.txt`,
//! and what in their params concerns the host, `catalogue/params.txt`.
//!
//! A method that does not stand there is not forwarded. The columns of the first two:
//!
//! | column | says |
//! |---|---|
//! | method | as the CLI names it |
//! | scope | `jetway`: answered by Jetway; `home`: goes to the caller's own CLI server; `create`, `resume`: attach a session; `session`: goes to the server of the session in its params |
//! | full | who may call it on a CLI server of one's own ([`Grant`]) |
//! | shared | who may call it beside other users of one CLI server ([`Grant`]) |
//! | known | which runtime's published schema has it: `both`, `1.0.85` (npm `@github/copilot-sdk` 1.0.14), `1.0.102`; `unlisted`: neither, though SDKs call it |
//! | turn | what it does for a turn ([`Starts`]): `-`, `begins`, `later` |
//! | result | what is to become of the CLI's answer ([`Answer`]) |
//! | ids | where session ids stand in the params; `a.b` is nested, `a[]` each element |
//!
//! `tests/catalogue.rs` holds all this against the schema of an installed package, and
//! `cargo run -p jetway-wire --example catalogue` drafts the lines that are missing.

use std::{collections::HashMap, sync::LazyLock};

use crate::json::Value;

mod params;
mod path;

pub use self::{
    params::{Class, Thing},
    path::{Path, Step},
};

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

/// Whose the CLI server is that a call would go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// The caller's own, or the caller's tenant's.
    Full,
    /// Also others'.
    Shared,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The owner of every session that it names; it acts on nothing else.
    Own,
    /// Anyone: it changes nothing, and tells nothing of other users once its answer is edited.
    Read,
    /// Anyone, though it changes the server for everyone on it.
    Write,
    /// Whom the operator allows it by name.
    Operator,
    /// Nobody, whatever the configuration says.
    Never,
}

/// What a method does for a turn of its session, as measured on a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// None begins.
    Nothing,
    /// One begins, or goes on with more to do, once it is answered.
    Turn,
    /// Turns will begin by themselves.
    Later,
}

/// What is to become of the CLI's answer to a method, where the server is not the caller's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It goes to the caller as it is.
    AsIs,
    /// There is none: Jetway answers.
    Jetway,
    /// There should be none: Jetway answers from its directory of sessions.
    Directory,
    /// It is edited, or tells of a session that is now the caller's.
    Edited(Vec<Edit>),
}

/// One thing to do to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Only elements, or members, whose id stands there and is the caller's.
    Keep(Path),
    /// The id that stands there goes, unless it is the caller's.
    Blank(Path),
    /// The session whose id stands there is the caller's from now on.
    Claim(Path),
}

/// A method and what is to be known about it before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// As the CLI names it.
    pub name: &'static str,
    /// Who deals with it.
    pub scope: Scope,
    /// What it does for a turn.
    pub starts: Starts,
    /// What is to become of its answer.
    pub answer: Answer,
    /// Which runtime has it; see the column of that name.
    pub known: &'static str,
    full_grant: Grant,
    shared_grant: Grant,
    /// Where session ids stand in the params.
    ids: Vec<Path>,
}

const TEXTS: [&str; 2] = [include_str!("catalogue/session.txt"), include_str!("catalogue/server.txt")];

static TABLE: LazyLock<HashMap<&'static str, Method, ahash::RandomState>> = LazyLock::new(|| {
    TEXTS.iter().flat_map(|text| text.lines()).filter_map(parse_line).map(|m| (m.name, m)).collect()
});

/// The method of that name, if Jetway knows it.
pub fn lookup(name: &str) -> Option<&'static Method> {
    TABLE.get(name)
}

/// Every method that Jetway knows, in no order.
pub fn all() -> impl Iterator<Item = &'static Method> {
    TABLE.values()
}

/// The methods that a pattern of the configuration means: a name, or `prefix.*`; in no order.
pub fn matches(pattern: &str) -> impl Iterator<Item = &'static Method> {
    let prefix = pattern.strip_suffix('*').filter(|prefix| prefix.ends_with('.'));
    all().filter(move |m| prefix.map_or(m.name == pattern, |prefix| m.name.starts_with(prefix)))
}

impl Method {
    /// Who may call it.
    pub fn grant(&self, surface: Surface) -> Grant {
        match surface {
            Surface::Full => self.full_grant,
            Surface::Shared => self.shared_grant,
        }
    }

    /// Calls `found` with each value that stands where a session id does; it may be of any type.
    pub fn session_ids<'a>(&self, params: Value<'a>, mut found: impl FnMut(Value<'a>)) {
        for path in &self.ids {
            path.follow(params, &mut found);
        }
    }

    /// Whether a session id may stand in its params.
    pub fn names_sessions(&self) -> bool {
        !self.ids.is_empty()
    }

    /// Where session ids stand in its params.
    pub fn id_paths(&self) -> &[Path] {
        &self.ids
    }

    /// Whether it begins a turn once it is answered.
    pub fn begins_turn(&self) -> bool {
        self.starts == Starts::Turn
    }

    /// Whether it answers, stops or leaves something that is under way: to refuse it would make things worse.
    pub fn settles(&self) -> bool {
        let action = self.name.rsplit_once('.').map_or(self.name, |(_, action)| action);
        let settles = ["abort", "detach", "destroy", "interruptMainTurn", "respondToQueuedCommand"];
        settles.contains(&action) || action.starts_with("handlePending") || action.starts_with("cancel")
    }

    /// Calls `found` with each thing in `params` that concerns the host or other machines, in the params'
    /// order, until it fails. What is `null` counts as absent, save where a value must stand.
    pub fn things<'a, E>(
        &self,
        params: Value<'a>,
        mut found: impl FnMut(Thing<'a, '_>) -> Result<(), E>,
    ) -> Result<(), E> {
        params::visit(self.name, params, &mut found)
    }

    /// The members of `params` that must stand there beside other users and do not: their names and JSON.
    pub fn missing(&self, params: Value<'_>) -> impl Iterator<Item = (&'static str, &'static str)> {
        params::imposed(self.name).filter(move |(name, _)| params.get(name).is_none())
    }

    /// Whether the catalogue says what stands at `path` in its params.
    pub fn lists(&self, path: &[Step<'_>]) -> bool {
        self.ids.iter().any(|id| id.steps().starts_with(path)) || params::lists(self.name, path)
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
    let full_grant = parse_grant(columns.next()?);
    let shared_grant = parse_grant(columns.next()?);
    let known = columns.next()?;
    let starts = match columns.next()? {
        "begins" => Starts::Turn,
        "later" => Starts::Later,
        _ => Starts::Nothing,
    };
    let answer = match columns.next()? {
        "as-is" => Answer::AsIs,
        "jetway" => Answer::Jetway,
        "directory" => Answer::Directory,
        edits => Answer::Edited(edits.split(',').filter_map(parse_edit).collect()),
    };
    let ids = columns.next()?.split(',').filter(|p| *p != "-").map(Path::parse).collect();
    Some(Method { name, scope, starts, answer, known, full_grant, shared_grant, ids })
}

/// Total, towards the stricter: a test sees to it that nothing else stands there.
fn parse_grant(word: &str) -> Grant {
    match word {
        "own" => Grant::Own,
        "read" => Grant::Read,
        "write" => Grant::Write,
        "operator" => Grant::Operator,
        _ => Grant::Never,
    }
}

fn parse_edit(text: &'static str) -> Option<Edit> {
    let (what, path) = text.split_once(':')?;
    let path = Path::parse(path);
    Some(match what {
        "keep" => Edit::Keep(path),
        "blank" => Edit::Blank(path),
        "claim" => Edit::Claim(path),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_well_formed() {
        let mut count = 0;
        for text in TEXTS {
            let rows: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
            assert!(rows.is_sorted_by_key(|row| row.split(' ').next()), "keep the catalogue sorted");
            for row in &rows {
                let columns: Vec<_> = row.split_ascii_whitespace().collect();
                assert_eq!(columns.len(), 8, "{row}");
                assert!(["jetway", "home", "create", "resume", "session"].contains(&columns[1]), "{row}");
                for grant in &columns[2..4] {
                    assert!(["own", "read", "write", "operator", "never"].contains(grant), "{row}");
                }
                assert!(["both", "1.0.85", "1.0.102", "unlisted"].contains(&columns[4]), "{row}");
                assert!(["-", "begins", "later"].contains(&columns[5]), "{row}");
                let edits = columns[6].split(',').filter_map(parse_edit).count();
                let plain = ["as-is", "jetway", "directory"].contains(&columns[6]);
                assert!(plain || edits == columns[6].split(',').count(), "{row}");
            }
            count += rows.len();
        }
        assert_eq!(TABLE.len(), count, "a method stands there twice");
    }

    #[test]
    fn the_columns_agree_with_each_other() {
        let rank = |grant| match grant {
            Grant::Own | Grant::Read => 0,
            Grant::Write => 1,
            Grant::Operator => 2,
            Grant::Never => 3,
        };
        for m in all() {
            let (full, shared) = (m.grant(Surface::Full), m.grant(Surface::Shared));
            assert!(rank(shared) >= rank(full), "{}: shared is never more than full", m.name);
            assert_ne!(shared, Grant::Write, "{}: nobody changes a server for others", m.name);
            for grant in [full, shared] {
                assert!(grant != Grant::Own || m.names_sessions(), "{}: own, but of no session", m.name);
                assert!(grant != Grant::Read || !m.names_sessions(), "{}: names sessions", m.name);
            }
            let in_session = matches!(m.scope, Scope::Session | Scope::Create | Scope::Resume);
            assert!(!in_session || m.ids[0].steps() == [Step::Member("sessionId")], "{}", m.name);
            assert_eq!(m.scope == Scope::Jetway, m.answer == Answer::Jetway, "{}", m.name);
            assert!(m.starts == Starts::Nothing || m.scope == Scope::Session, "{}", m.name);
        }
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
        assert_eq!(find("sessions.open", open).len(), 3);
        assert!(lookup("session.sendd").is_none());
    }

    #[test]
    fn some_methods_settle_others() {
        let settles = |name| lookup(name).unwrap().settles();
        assert!(settles("session.abort") && settles("session.tools.handlePendingToolCall"));
        assert!(settles("session.detach") && settles("session.cancelAllBackgroundAgents"));
        assert!(!settles("session.send") && !settles("ping") && !settles("session.delete"));
        assert!(all().filter(|m| m.settles()).count() >= 20);
    }

    #[test]
    fn some_methods_begin_turns() {
        let starts = |name| lookup(name).unwrap().starts;
        assert!(
            ["session.send", "session.fleet.start"].iter().all(|name| lookup(name).unwrap().begins_turn())
        );
        assert_eq!(starts("session.schedule.addCron"), Starts::Later);
        assert_eq!(starts("session.abort"), Starts::Nothing);
        assert_eq!(all().filter(|m| m.begins_turn()).count(), 16);
    }

    #[test]
    fn patterns_mean_methods() {
        assert_eq!(matches("session.shell.*").count(), 4);
        assert_eq!(matches("ping").count(), 1);
        for nothing in ["*", "session.sh*", "session.shell", "pin", "", ".*"] {
            assert_eq!(matches(nothing).count(), 0, "{nothing}");
        }
    }
}
