//! The environment laid over the file: `JETWAY__POOL__MODE=fleet` is `pool.mode = "fleet"`.
//!
//! Names are matched without regard to case. A value is text here; the reader gives it the type of its key.

use crate::{
    error::{ConfigError, Problem},
    reader::join,
    sources::Sources,
};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// What a variable's name begins with when it overrides a key; `__` also stands between its parts.
pub(crate) const PREFIX: &str = "JETWAY__";

/// No key lies deeper (`tenants.acme.provider.model` is 4), and tables are dropped recursively.
const DEEPEST: usize = 8;

/// The variables that set keys, by key path.
pub(crate) type Origins = BTreeMap<String, String>;

/// Sets in `table` what the environment overrides, and tells which variable set what.
pub(crate) fn overlay(table: &mut Table, sources: &Sources, errors: &mut Vec<ConfigError>) -> Origins {
    let mut origins = Origins::new();
    for (variable, value) in sources.variables() {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_lowercase();
        let keys: Vec<&str> = name.split("__").collect();
        let set = match value.to_str() {
            Some(text) => set(table, &keys, text, &origins),
            None => Err((keys.join("."), Problem::new("its value is not UTF-8", "set it to plain text"))),
        };
        match set {
            Ok(place) => _ = origins.insert(place, variable.to_owned()),
            Err((place, problem)) => errors.push(ConfigError::new(place, Some(variable), problem)),
        }
    }
    origins
}

/// Sets the key whose path is `keys`, making the tables on the way. Returns the path in the file's spelling.
fn set(table: &mut Table, keys: &[&str], text: &str, origins: &Origins) -> Result<String, (String, Problem)> {
    let (last, parents) = keys.split_last().expect("split yields at least one part");
    if keys.len() > DEEPEST {
        return Err((keys[..2].join(".") + "…", Problem::new("no key lies so deep", "unset the variable")));
    }
    let (mut table, mut place) = (table, String::new());
    for key in parents {
        let key = spelling(table, key);
        place = join(&place, &key);
        table = match table.entry(key).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            _ => return Err((place.clone(), whole(&place, origins))),
        };
    }
    let key = spelling(table, last);
    place = join(&place, &key);
    if let Some(other) = origins.get(&place) {
        return Err((place, Problem::new(format!("{other} sets it too"), "unset one of them")));
    }
    table.insert(key, Value::String(text.to_owned()));
    Ok(place)
}

/// The key of `table` that is `key` but for case, or `key` itself.
fn spelling(table: &Table, key: &str) -> String {
    if table.contains_key(key) {
        return key.to_owned();
    }
    table.keys().find(|known| known.to_lowercase() == key).map_or(key, |known| known.as_str()).to_owned()
}

/// That the value at `place` is not a table, so that nothing within it can be set.
fn whole(place: &str, origins: &Origins) -> Problem {
    match origins.get(place) {
        Some(other) => Problem::new(format!("{other} sets all of it already"), "unset one of them"),
        None => Problem::new(
            "is not a table, so that nothing within it can be set",
            format!("set all of it: {PREFIX}{}", place.to_uppercase().replace('.', "__")),
        ),
    }
}
