//! The schema that the CLI's package publishes, read for what the catalogue must know.

use std::{collections::BTreeSet, path::PathBuf};

use jetway_wire::catalogue;
use serde_json::Value;

/// A step down in params, as the catalogue's `Step`, but owned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Member(String),
    Each,
    Values,
}

/// A method of the schema.
pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) description: String,
    /// Every place in its params whose name says that it may be of interest.
    pub(crate) places: BTreeSet<Vec<Step>>,
}

/// Where the schema is: `JETWAY_API_SCHEMA`, or what `make test` installs.
pub(crate) fn file() -> PathBuf {
    let installed = "../loadtest/node_modules/@github/copilot-sdk-linux-x64/schemas/api.schema.json";
    std::env::var_os("JETWAY_API_SCHEMA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(installed), PathBuf::from)
}

/// Reads what it says of the methods that a client may call.
pub(crate) fn read(text: &str) -> Vec<Method> {
    let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    let mut methods = Vec::new();
    for side in ["server", "session"] {
        collect(&schema, &schema[side], &mut methods);
    }
    methods
}

fn collect(schema: &Value, node: &Value, methods: &mut Vec<Method>) {
    let Some(members) = node.as_object() else { return };
    let Some(name) = node["rpcMethod"].as_str() else {
        return members.values().for_each(|node| collect(schema, node, methods));
    };
    let mut walk = Walk { schema, open: Vec::new(), path: Vec::new(), places: BTreeSet::new() };
    walk.visit(&node["params"]);
    let description = node["description"].as_str().unwrap_or_default().to_owned();
    methods.push(Method { name: name.to_owned(), description, places: walk.places });
}

struct Walk<'a> {
    schema: &'a Value,
    /// The definitions that are being read, which may refer to themselves.
    open: Vec<&'a str>,
    path: Vec<Step>,
    places: BTreeSet<Vec<Step>>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, node: &'a Value) {
        if let Some((name, definition)) = definition(self.schema, node) {
            if !self.open.contains(&name) {
                self.open.push(name);
                self.visit(definition);
                self.open.pop();
            }
            return;
        }
        for each in alternatives(node) {
            self.visit(each);
        }
        for (name, property) in node["properties"].as_object().into_iter().flatten() {
            self.path.push(Step::Member(name.clone()));
            if of_interest(name) && holds_text(self.schema, property, 0) {
                self.places.insert(self.path.clone());
            }
            self.visit(property);
            self.path.pop();
        }
        for (member, step) in [("items", Step::Each), ("additionalProperties", Step::Values)] {
            if node[member].is_object() {
                self.path.push(step);
                self.visit(&node[member]);
                self.path.pop();
            }
        }
    }
}

fn definition<'a>(schema: &'a Value, node: &Value) -> Option<(&'a str, &'a Value)> {
    let name = node["$ref"].as_str()?.strip_prefix("#/definitions/")?;
    let definitions = schema["definitions"].as_object()?;
    definitions.get_key_value(name).map(|(name, definition)| (name.as_str(), definition))
}

fn alternatives(node: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf", "allOf"].into_iter().flat_map(|key| node[key].as_array().into_iter().flatten())
}

/// Whether a value of it can hold a text that nobody chose beforehand.
fn holds_text(schema: &Value, node: &Value, depth: usize) -> bool {
    if let Some((_, definition)) = definition(schema, node) {
        return depth < 8 && holds_text(schema, definition, depth + 1);
    }
    if alternatives(node).next().is_some() {
        return alternatives(node).any(|node| holds_text(schema, node, depth + 1));
    }
    let plain = |kind: &str| matches!(kind, "boolean" | "integer" | "number" | "null");
    match &node["type"] {
        Value::String(kind) => !plain(kind) && node["enum"].is_null() && node["const"].is_null(),
        Value::Array(kinds) => kinds.iter().any(|kind| !kind.as_str().is_some_and(plain)),
        _ => true,
    }
}

/// Whether a member of that name may hold a session id, or concern the host or other machines.
fn of_interest(name: &str) -> bool {
    let words = words(name);
    let has = |word: &str| words.iter().any(|w| w == word);
    let anywhere = ["path", "paths", "url", "urls", "command", "commands", "token", "secret", "password"];
    let last = [
        "uri",
        "dir",
        "dirs",
        "directory",
        "directories",
        "cwd",
        "root",
        "home",
        "host",
        "hostname",
        "headers",
        "endpoint",
        "endpoints",
        "env",
        "args",
    ];
    (has("session") && (has("id") || has("ids")))
        || (has("api") && has("key"))
        || anywhere.into_iter().any(has)
        || words.last().is_some_and(|word| last.contains(&word.as_str()))
}

/// The words of a name in camel or snake case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if (c.is_uppercase() && !before.is_uppercase()) || matches!(c, '_' | '-') {
            words.push(String::new());
        }
        before = c;
        if c.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    words
}

/// As the catalogue writes it.
pub(crate) fn spell(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Member(name) if text.is_empty() => text.push_str(name),
            Step::Member(name) => text.extend([".", name]),
            Step::Each => text.push_str("[]"),
            Step::Values => text.push_str("{}"),
        }
    }
    text
}

/// As the catalogue takes it.
pub(crate) fn borrow(path: &[Step]) -> Vec<catalogue::Step<'_>> {
    let borrow = |step| match step {
        &Step::Each => catalogue::Step::Each,
        &Step::Values => catalogue::Step::Values,
        Step::Member(name) => catalogue::Step::Member(name),
    };
    path.iter().map(borrow).collect()
}
