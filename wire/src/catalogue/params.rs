//! What in a method's params concerns the host or other machines: `params.txt` beside this file.

use std::{collections::HashMap, sync::LazyLock};

use super::path::{Path, Step};
use crate::json::Value;

/// What kind of thing stands at a place of the params; see `params.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Nothing that concerns anyone else, whatever its name says.
    Free,
    /// A path on the CLI server's host.
    Path,
    /// A path relative to the session's own directory.
    Inside,
    /// A program, its arguments, its environment, a text that a shell reads.
    Command,
    /// A URL of http or https, that the CLI server calls.
    Url,
    /// A machine, by name or URL, that the CLI server calls.
    Host,
    /// Headers of such calls: an object of texts.
    Headers,
    /// The caller's own secret: never to be logged or kept.
    Secret,
    /// Names of tools, for the model.
    Tools,
    /// The name of a tool of the client's own.
    ToolName,
    /// Not beside other users of one CLI server.
    No,
    /// No other JSON than this beside other users of one CLI server.
    Must(&'static str),
    /// The same, and it is put in where it is missing.
    Set(&'static str),
    /// An object of the shape of that name.
    Shape(&'static str),
}

/// A thing that was found in params.
#[derive(Debug, Clone, Copy)]
pub struct Thing<'a, 'p> {
    /// What kind of thing.
    pub class: Class,
    /// Where, as `a.b[0]`.
    pub at: &'p str,
    /// The value; for a wrong type it is of any type.
    pub value: Value<'a>,
}

/// What the lines of one method or shape say, as a tree of names.
#[derive(Debug, Default)]
struct Node {
    class: Option<Class>,
    members: HashMap<&'static str, Node, ahash::RandomState>,
    /// Every member that is not in `members`.
    rest: Option<Class>,
    each: Option<Box<Node>>,
    values: Option<Box<Node>>,
}

/// The longest part of a member's name that is shown in [`Thing::at`].
const SHOWN: usize = 40;

static TREES: LazyLock<HashMap<&'static str, Node, ahash::RandomState>> = LazyLock::new(|| {
    let mut trees: HashMap<_, Node, _> = HashMap::default();
    for (of, at, class) in lines() {
        trees.entry(of).or_default().insert(Path::parse(at).steps(), class);
    }
    trees
});

fn lines() -> impl Iterator<Item = (&'static str, &'static str, Class)> {
    include_str!("params.txt").lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        Some((columns.next()?, columns.next()?, parse_class(columns.next()?)))
    })
}

fn parse_class(word: &'static str) -> Class {
    match word {
        "-" => Class::Free,
        "path" => Class::Path,
        "inside" => Class::Inside,
        "command" => Class::Command,
        "url" => Class::Url,
        "host" => Class::Host,
        "headers" => Class::Headers,
        "secret" => Class::Secret,
        "tools" => Class::Tools,
        "tool" => Class::ToolName,
        shape if shape.starts_with(|c: char| c.is_ascii_uppercase()) => Class::Shape(shape),
        json if json.starts_with('=') => Class::Must(&json[1..]),
        json if json.starts_with('!') => Class::Set(&json[1..]),
        // Total, towards the strictest: a test sees to it that nothing else stands there.
        _ => Class::No,
    }
}

impl Node {
    fn insert(&mut self, path: &[Step<'static>], class: Class) {
        match path {
            [] => self.class = Some(class),
            [Step::Member("*")] => self.rest = Some(class),
            [Step::Member(name), rest @ ..] => self.members.entry(name).or_default().insert(rest, class),
            [Step::Each, rest @ ..] => self.each.get_or_insert_default().insert(rest, class),
            [Step::Values, rest @ ..] => self.values.get_or_insert_default().insert(rest, class),
        }
    }

    /// The tree that goes on from here.
    fn resolve(&'static self) -> &'static Node {
        match self.class {
            Some(Class::Shape(shape)) => TREES.get(shape).unwrap_or(self),
            _ => self,
        }
    }

    fn visit<'a, E>(
        &'static self,
        value: Value<'a>,
        at: &mut String,
        found: &mut impl FnMut(Thing<'a, '_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.class {
            None | Some(Class::Free | Class::Shape(_)) => {}
            Some(Class::Set(_) | Class::Tools) => report(self.class, value, at, found)?,
            Some(_) if value.text() == b"null" => {}
            Some(_) => report(self.class, value, at, found)?,
        }
        let tree = self.resolve();
        let length = at.len();
        if !tree.members.is_empty() || tree.values.is_some() || tree.rest.is_some() {
            for (key, value) in value.members() {
                let name = key.text();
                if length > 0 {
                    at.push('.');
                }
                at.push_str(if name.is_empty() { "\"\"" } else { "" });
                at.extend(name.chars().take(SHOWN));
                match (tree.members.get(&*name), &tree.values) {
                    (Some(node), _) => node.visit(value, at, found)?,
                    (None, Some(node)) => node.visit(value, at, found)?,
                    (None, None) if value.text() == b"null" => {}
                    (None, None) => report(tree.rest, value, at, found)?,
                }
                at.truncate(length);
            }
        }
        if let Some(node) = &tree.each {
            for (index, value) in value.elements().enumerate() {
                at.push_str(&format!("[{index}]"));
                node.visit(value, at, found)?;
                at.truncate(length);
            }
        }
        Ok(())
    }

    fn lists(&'static self, path: &[Step<'_>]) -> bool {
        let tree = self.resolve();
        match path {
            [] => true,
            [Step::Member(name), rest @ ..] => match (tree.members.get(*name), &tree.values) {
                (Some(node), _) => node.lists(rest),
                (None, Some(node)) => node.lists(rest),
                (None, None) => Some(Class::No) == tree.rest.or(tree.class),
            },
            // A place that is judged as a whole need not be spelled out further.
            [Step::Each, rest @ ..] => tree.each.as_ref().map_or(tree.class.is_some(), |n| n.lists(rest)),
            [Step::Values, rest @ ..] => tree.values.as_ref().map_or(tree.class.is_some(), |n| n.lists(rest)),
        }
    }
}

fn report<'a, E>(
    class: Option<Class>,
    value: Value<'a>,
    at: &str,
    found: &mut impl FnMut(Thing<'a, '_>) -> Result<(), E>,
) -> Result<(), E> {
    class.map_or(Ok(()), |class| found(Thing { class, at, value }))
}

pub(super) fn visit<'a, E>(
    method: &str,
    params: Value<'a>,
    found: &mut impl FnMut(Thing<'a, '_>) -> Result<(), E>,
) -> Result<(), E> {
    TREES.get(method).map_or(Ok(()), |tree| tree.visit(params, &mut String::new(), found))
}

pub(super) fn imposed(method: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let members = TREES.get(method).map(Node::resolve).into_iter().flat_map(|tree| &tree.members);
    members.filter_map(|(name, node)| match node.class {
        Some(Class::Set(json)) => Some((*name, json)),
        _ => None,
    })
}

pub(super) fn lists(method: &str, path: &[Step<'_>]) -> bool {
    TREES.get(method).is_some_and(|tree| tree.lists(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    fn found(method: &str, params: &str) -> Vec<String> {
        let mut all = Vec::new();
        let _ = visit(method, Value::new(params.as_bytes()), &mut |thing: Thing<'_, '_>| {
            let value = String::from_utf8_lossy(thing.value.text()).into_owned();
            all.push(format!("{} {:?} {value}", thing.at, thing.class));
            Ok::<_, ()>(())
        });
        all
    }

    #[test]
    fn every_line_is_well_formed() {
        let text = include_str!("params.txt");
        let rows: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let mut seen = std::collections::HashSet::new();
        for row in &rows {
            let columns: Vec<_> = row.split_ascii_whitespace().collect();
            let [of, at, class] = columns[..] else { panic!("{row}") };
            assert!(seen.insert((of, at)), "twice: {row}");
            let shape = of.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(shape || catalogue::lookup(of).is_some(), "no such method: {row}");
            match parse_class(Box::leak(class.into())) {
                Class::Shape(shape) => assert!(TREES.contains_key(shape), "no such shape: {row}"),
                Class::No => assert_eq!(class, "no", "{row}"),
                Class::Must(json) | Class::Set(json) => {
                    serde_json::from_str::<serde_json::Value>(json).expect(row);
                }
                _ => {}
            }
        }
        let of = |row: &&str| row.split(' ').next().unwrap_or_default().to_owned();
        assert!(rows.is_sorted_by_key(of), "keep it sorted");
    }

    #[test]
    fn things_are_found_wherever_they_stand() {
        let create = r#"{"sessionId":"a","provider":{"baseUrl":"http://x","new\u0055rl":1},"mcpServers":{"m":{"command":"sh","args":["-c"]}},
            "customAgents":[{"name":"n"},{"mcpServers":{"k":{"url":"http://y"}}}],"skillDirectories":["/a","/b"],"workingDirectory":null}"#;
        assert_eq!(
            found("session.create", create),
            [
                r#"provider.baseUrl Url "http://x""#,
                "provider.newUrl No 1",
                r#"mcpServers.m.command Command "sh""#,
                r#"mcpServers.m.args Command ["-c"]"#,
                r#"customAgents[1].mcpServers.k.url Url "http://y""#,
                r#"skillDirectories[0] Path "/a""#,
                r#"skillDirectories[1] Path "/b""#,
            ]
        );
        assert_eq!(found("session.create", r#"{"plugins":1}"#), ["plugins No 1"]);
        assert_eq!(
            found("session.create", r#"{"enableFileHooks":null,"memory":null,"configDir":null}"#).len(),
            2,
            "null is what is missing, and these must stand there"
        );
        assert_eq!(found("ping", r#"{"message":"x"}"#), [""; 0]);
        assert_eq!(found("session.create", "[7]"), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_known() {
        let method = catalogue::lookup("session.create").unwrap();
        let names = |params: &'static str| {
            let mut names: Vec<_> = method.missing(Value::new(params.as_bytes())).map(|(n, _)| n).collect();
            names.sort_unstable();
            names
        };
        assert!(names("{}").contains(&"enableSessionStore"));
        assert!(!names(r#"{"enableSessionStore":false}"#).contains(&"enableSessionStore"));
        assert_eq!(catalogue::lookup("session.send").unwrap().missing(Value::new(b"{}")).count(), 0);
    }
}
