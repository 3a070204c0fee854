//! Answers without what is not the caller's. Notifications are let through by `sessions::relay`.

use jetway_wire::{
    Value,
    catalogue::{Answer, Edit, Path, Step},
    json,
};

/// Appends `result` to `out` without what `owns` denies. As it is, where there is nothing to edit.
pub(crate) fn result(answer: &Answer, result: Value<'_>, owns: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
    let Answer::Edited(edits) = answer else { return out.extend_from_slice(result.text()) };
    let mut text = result.text().to_vec();
    for edit in edits {
        let mut edited = Vec::with_capacity(text.len());
        match edit {
            Edit::Keep(path) => keep(Value::new(&text), path.steps(), &owns, &mut edited),
            Edit::Blank(path) => blank(Value::new(&text), path.steps(), &owns, &mut edited),
            Edit::Claim(_) => continue,
        }
        text = edited;
    }
    out.extend_from_slice(&text);
}

/// Calls `found` with the id of each session that became the caller's with this answer.
pub(crate) fn claims(answer: &Answer, result: Value<'_>, mut found: impl FnMut(&str)) {
    let Answer::Edited(edits) = answer else { return };
    let claimed = edits.iter().filter_map(|edit| match edit {
        Edit::Claim(path) => Some(path),
        _ => None,
    });
    claimed.for_each(|path: &Path| {
        path.follow(result, &mut |id| {
            if let Some(id) = id.as_str() {
                found(&id);
            }
        });
    });
}

/// Writes `value` with only those elements, or members, of the first list on the way whose id is owned.
fn keep(value: Value<'_>, path: &[Step<'_>], owns: &impl Fn(&str) -> bool, out: &mut Vec<u8>) {
    let is_owned = |value: Value<'_>, rest: &[Step<'_>]| id_at(value, rest).is_some_and(|id| owns(&id));
    match path {
        [Step::Member(name), rest @ ..] if value.is_object() => {
            write_members(value, out, |key, value, out| {
                if key == *name {
                    keep(value, rest, owns, out)
                } else {
                    out.extend_from_slice(value.text())
                }
                true
            });
        }
        [Step::Each, rest @ ..] if value.text().starts_with(b"[") => {
            out.push(b'[');
            let start = out.len();
            for element in value.elements().filter(|element| is_owned(*element, rest)) {
                separate(out, start);
                out.extend_from_slice(element.text());
            }
            out.push(b']');
        }
        [Step::Values, rest @ ..] if value.is_object() => write_members(value, out, |key, value, out| {
            let owned = if rest.is_empty() { owns(key) } else { is_owned(value, rest) };
            if owned {
                out.extend_from_slice(value.text());
            }
            owned
        }),
        // Not the shape that was seen: nothing of it can be vouched for.
        _ => out.extend_from_slice(b"null"),
    }
}

/// Writes `value` without the member that `path` leads to, unless the id there is owned.
fn blank(value: Value<'_>, path: &[Step<'_>], owns: &impl Fn(&str) -> bool, out: &mut Vec<u8>) {
    let [Step::Member(name), rest @ ..] = path else { return out.extend_from_slice(value.text()) };
    if !value.is_object() {
        return out.extend_from_slice(value.text());
    }
    write_members(value, out, |key, value, out| {
        if key != *name {
            out.extend_from_slice(value.text());
            return true;
        }
        if !rest.is_empty() {
            blank(value, rest, owns, out);
            return true;
        }
        let keeps = value.text() == b"null" || value.as_str().is_some_and(|id| owns(&id));
        if keeps {
            out.extend_from_slice(value.text());
        }
        keeps
    });
}

fn id_at<'a>(value: Value<'a>, path: &[Step<'_>]) -> Option<std::borrow::Cow<'a, str>> {
    match path {
        [] => value.as_str(),
        [Step::Member(name), rest @ ..] => id_at(value.get(name)?, rest),
        _ => None,
    }
}

/// Writes an object: each member whose value `write` writes, and not those for which it says no.
fn write_members<'a>(
    value: Value<'a>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&str, Value<'a>, &mut Vec<u8>) -> bool,
) {
    out.push(b'{');
    let start = out.len();
    for (key, value) in value.members() {
        let before = out.len();
        separate(out, start);
        let key = key.text();
        json::write_str(out, &key);
        out.push(b':');
        if !write(&key, value, out) {
            out.truncate(before);
        }
    }
    out.push(b'}');
}

fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetway_wire::catalogue;

    fn edited(method: &str, text: &str) -> String {
        let mut out = Vec::new();
        let answer = &catalogue::lookup(method).unwrap().answer;
        result(answer, Value::new(text.as_bytes()), |id| id.starts_with("my"), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lists_keep_what_is_owned() {
        let list = r#"{"a":1, "sessions":[{"sessionId":"my1","summary":"s"},{"sessionId":"his","summary":"secret"},{"session\u0049d":"my2"},{"summary":"x"},7],"n":[2]}"#;
        assert_eq!(
            edited("sessions.list", list),
            r#"{"a":1,"sessions":[{"sessionId":"my1","summary":"s"},{"session\u0049d":"my2"}],"n":[2]}"#
        );
        assert_eq!(
            edited("sessions.listNonEmptySessionIds", r#"{"sessionIds":["his","my"]}"#),
            r#"{"sessionIds":["my"]}"#
        );
        assert_eq!(
            edited("sessions.getSizes", r#"{"sizes":{"his":7,"my\u0031":8}}"#),
            r#"{"sizes":{"my1":8}}"#
        );
        assert_eq!(
            edited(
                "sessions.pruneOld",
                r#"{"deleted":["his"],"candidates":["my"],"skipped":[],"freedBytes":1}"#
            ),
            r#"{"deleted":[],"candidates":["my"],"skipped":[],"freedBytes":1}"#
        );
        assert_eq!(edited("sessions.list", r#"{"sessions":"his"}"#), r#"{"sessions":null}"#);
    }

    #[test]
    fn single_ids_go_unless_owned() {
        assert_eq!(edited("session.getForeground", r#"{"sessionId":"his","x":1}"#), r#"{"x":1}"#);
        assert_eq!(
            edited("session.getForeground", r#"{"sessionId":"my","x":1}"#),
            r#"{"sessionId":"my","x":1}"#
        );
        assert_eq!(edited("session.getForeground", "{}"), "{}");
        assert_eq!(edited("sessions.findByPrefix", r#"{"sessionId":"his"}"#), "{}");
        let status = r#"{"status":{"state":"active","attachedSessionId":"his"}}"#;
        assert_eq!(edited("sessions.getRemoteControlStatus", status), r#"{"status":{"state":"active"}}"#);
        let as_is = r#"{ "sessionId": "his" }"#;
        assert_eq!(edited("session.name.get", as_is), as_is);
    }

    #[test]
    fn new_sessions_are_told() {
        let mut new = Vec::new();
        let answer = &catalogue::lookup("sessions.fork").unwrap().answer;
        claims(answer, Value::new(br#"{"sessionId":"f"}"#), |id| new.push(id.to_owned()));
        claims(&Answer::AsIs, Value::new(br#"{"sessionId":"g"}"#), |id| new.push(id.to_owned()));
        assert_eq!(new, ["f"]);
    }
}
