//! Where something stands in JSON.

use crate::json::Value;

/// One step down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// To the member of that name.
    Member(&'a str),
    /// To each element of an array.
    Each,
    /// To the value of each member.
    Values,
}

/// Steps, written as `a.b`, `a[]`, `a{}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step<'static>>);

impl Path {
    /// The steps that `text` spells. Total: what makes no sense is a member's name.
    pub(super) fn parse(text: &'static str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let name = part.find(['[', '{']).map_or(part, |end| &part[..end]);
            if !name.is_empty() {
                steps.push(Step::Member(name));
            }
            let brackets = part.as_bytes()[name.len()..].chunks(2);
            steps.extend(brackets.map(|b| if b == b"[]" { Step::Each } else { Step::Values }));
        }
        Self(steps)
    }

    /// Its steps, outermost first.
    pub fn steps(&self) -> &[Step<'static>] {
        &self.0
    }

    /// Calls `found` with each value that stands there.
    pub fn follow<'a>(&self, value: Value<'a>, found: &mut impl FnMut(Value<'a>)) {
        follow(value, &self.0, found);
    }
}

fn follow<'a>(value: Value<'a>, path: &[Step<'_>], found: &mut impl FnMut(Value<'a>)) {
    match path {
        [] => found(value),
        [Step::Member(name), rest @ ..] => {
            if let Some(value) = value.get(name) {
                follow(value, rest, found);
            }
        }
        [Step::Each, rest @ ..] => value.elements().for_each(|value| follow(value, rest, found)),
        [Step::Values, rest @ ..] => value.members().for_each(|(_, value)| follow(value, rest, found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        use Step::{Each, Member, Values};
        let steps = |text| Path::parse(text).0;
        assert_eq!(steps("a.b"), [Member("a"), Member("b")]);
        assert_eq!(steps("a[].b"), [Member("a"), Each, Member("b")]);
        assert_eq!(steps("a{}"), [Member("a"), Values]);
        assert_eq!(steps("a[][]"), [Member("a"), Each, Each]);
        assert_eq!(steps("[].b"), [Each, Member("b")]);
        assert_eq!(steps("."), []);
    }

    #[test]
    fn paths_are_followed() {
        let found = |path, text: &'static str| {
            let mut all = Vec::new();
            Path::parse(path).follow(Value::new(text.as_bytes()), &mut |v| all.push(v.text()));
            all.len()
        };
        assert_eq!(found("a{}.b[]", r#"{"a":{"x":{"b":[1,2]},"y":{"b":[3]},"z":7}}"#), 3);
        assert_eq!(found("a", "[]"), 0);
        assert_eq!(found(".", "7"), 1);
    }
}
