//! A reader of TOML that does not stop at the first error.
//!
//! A [`Section`] hands out its keys one by one, notes what is wrong with each, and at the end refuses
//! the keys that nobody asked for. Where a value is bad the reader goes on with a stand-in; that is
//! safe because any error discards the whole result ([`read`]).

use crate::{
    error::{ConfigError, ConfigErrors, Problem},
    overlay::{Origins, overlay},
    setting::{Setting, quoted},
    sources::Sources,
};
use std::{cell::RefCell, fmt::Display, ops::RangeInclusive};
use toml::{Table, Value, de::DeTable};

/// Reads all of `sources` with `f`. Returns its result and the effective configuration, secrets
/// redacted, unless anything at all was wrong.
pub(crate) fn read<T>(
    sources: &Sources,
    f: impl FnOnce(&mut Section<'_>) -> T,
) -> Result<(T, Table), ConfigErrors> {
    sources.begin();
    let mut table = parse(sources)?;
    let mut errors = Vec::new();
    let origins = overlay(&mut table, sources, &mut errors);
    let context = Context { sources, origins, errors: RefCell::new(errors) };
    let mut root = Section::new(&context, String::new(), table);
    let value = f(&mut root);
    let effective = root.finish();
    match ConfigErrors::new(context.errors.into_inner()) {
        None => Ok((value, effective)),
        Some(errors) => Err(errors),
    }
}

/// The file's table. Errors give the position and never the text, which may be a secret.
fn parse(sources: &Sources) -> Result<Table, ConfigErrors> {
    /// A file that is not TOML at all has an error per character.
    const MOST: usize = 100;
    let Some((path, text)) = sources.config_file()? else { return Ok(Table::new()) };
    let first = match text.parse() {
        Ok(table) => return Ok(table),
        Err(first) => first,
    };
    let at = |e: &toml::de::Error, what: &str| {
        let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or(&text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let problem = Problem::new(format!("is not TOML: {what}"), "mend the line");
        ConfigError::new(format!("{}:{line}:{column}", path.display()), None, problem)
    };
    // The parser that recovers sees all that is wrong with the form, in no order of use to a reader. Its
    // messages are fixed texts; those about values quote them.
    let mut all = DeTable::parse_recoverable(&text).1;
    all.sort_by_key(|e| e.span().map(|span| span.start));
    let errors = all.iter().take(MOST).map(|e| at(e, e.message())).collect();
    Err(ConfigErrors::new(errors).unwrap_or_else(|| at(&first, "a number has more than 64 bits").into()))
}

/// What all sections of one reading share.
struct Context<'a> {
    sources: &'a Sources,
    origins: Origins,
    errors: RefCell<Vec<ConfigError>>,
}

/// One table, being read.
pub(crate) struct Section<'a> {
    context: &'a Context<'a>,
    /// The path of the table; empty for the root.
    path: String,
    /// What has not been read yet.
    table: Table,
    known: Vec<&'static str>,
    /// What has been read, as it took effect.
    effective: Table,
}

impl<'a> Section<'a> {
    fn new(context: &'a Context<'a>, path: String, table: Table) -> Self {
        Self { context, path, table, known: Vec::new(), effective: Table::new() }
    }

    /// Whether the key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of `key`, if it is there and good.
    pub(crate) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        match self.interpret::<T>(key, &value) {
            Ok(setting) => {
                self.effective.insert(key.to_owned(), setting.write());
                Some(setting)
            }
            Err(problem) => {
                self.fail(key, problem);
                None
            }
        }
    }

    /// As [`optional`](Self::optional), and refuses a value outside `range`.
    pub(crate) fn optional_in<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Setting + PartialOrd,
    {
        let setting = self.optional::<T>(key)?;
        if !range.contains(&setting) {
            let bounds = format!("write a value from {} to {}", range.start().write(), range.end().write());
            self.fail(key, Problem::new(format!("{} is out of range", setting.write()), bounds));
        }
        Some(setting)
    }

    /// The value of `key`, or `default` if it is not there.
    pub(crate) fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        let setting = self.optional(key);
        self.or_default(key, setting, default)
    }

    /// As [`get`](Self::get), and refuses a value outside `range`.
    pub(crate) fn get_in<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd,
    {
        let setting = self.optional_in(key, range);
        self.or_default(key, setting, default)
    }

    fn or_default<T: Setting>(&mut self, key: &'static str, setting: Option<T>, default: T) -> T {
        setting.unwrap_or_else(|| {
            self.effective.insert(key.to_owned(), default.write());
            default
        })
    }

    /// The value of `key`, which must be there.
    pub(crate) fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        if !self.has(key) {
            self.fail(key, Problem::new("is missing", format!("add it to {}", self.header())));
        }
        self.optional(key)
    }

    /// The items of the list `key`, each judged by itself, if the key is there.
    pub(crate) fn list<T: Setting>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let items = self.array(key)?;
        let mut read = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match T::read(item) {
                Ok(item) => read.push(item),
                Err(problem) => self.fail(format!("{key}[{i}]"), problem),
            }
        }
        self.effective.insert(key.to_owned(), Value::Array(read.iter().map(T::write).collect()));
        Some(read)
    }

    /// As [`list`](Self::list), or `default` if the key is not there.
    pub(crate) fn list_or<T: Setting>(&mut self, key: &'static str, default: Vec<T>) -> Vec<T> {
        self.list(key).unwrap_or_else(|| {
            self.effective.insert(key.to_owned(), Value::Array(default.iter().map(T::write).collect()));
            default
        })
    }

    /// Refuses `key` for now: it is known, but what it is about does not exist yet.
    pub(crate) fn unavailable(&mut self, key: &'static str, remedy: &str) {
        if self.take(key).is_some() {
            self.fail(key, Problem::new("is not available yet", remedy));
        }
    }

    /// The table `key`, read with `f`; an empty one if it is not there.
    pub(crate) fn section<T>(&mut self, key: &'static str, f: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = self.take(key).and_then(|value| self.table_of(key, value)).unwrap_or_default();
        self.enter(key, table, f)
    }

    /// The table `key`, read with `f`, if it is there.
    pub(crate) fn optional_section<T>(
        &mut self,
        key: &'static str,
        f: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        let value = self.take(key)?;
        let table = self.table_of(key, value)?;
        Some(self.enter(key, table, f))
    }

    /// The tables of the array `key`, each read with `f`.
    pub(crate) fn sections<T>(
        &mut self,
        key: &'static str,
        mut f: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<T> {
        let (mut read, mut effective) = (Vec::new(), Vec::new());
        for (i, item) in self.array(key).unwrap_or_default().into_iter().enumerate() {
            let place = format!("{key}[{i}]");
            let Some(table) = self.table_of(&place, item) else { continue };
            let mut section = Section::new(self.context, join_rendered(&self.path, &place), table);
            read.push(f(&mut section));
            effective.push(Value::Table(section.finish()));
        }
        if !effective.is_empty() {
            self.effective.insert(key.to_owned(), Value::Array(effective));
        }
        read
    }

    /// The tables that are left, each under a name, read with `f`.
    pub(crate) fn named_sections<K: Setting, T>(
        &mut self,
        mut f: impl FnMut(&mut Section<'_>) -> T,
    ) -> Vec<(K, T)> {
        let mut read = Vec::new();
        for (key, value) in std::mem::take(&mut self.table) {
            let place = render(&key);
            let name = K::read(&Value::String(key.clone())).map_err(|problem| self.fail(&place, problem));
            let Some(table) = self.table_of(&place, value) else { continue };
            let section = self.enter(&key, table, &mut f);
            read.extend(name.map(|name| (name, section)));
        }
        read
    }

    fn enter<T>(&mut self, key: &str, table: Table, f: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let mut section = Section::new(self.context, join(&self.path, key), table);
        let value = f(&mut section);
        let effective = section.finish();
        if !effective.is_empty() {
            self.effective.insert(key.to_owned(), Value::Table(effective));
        }
        value
    }

    /// Where the configuration came from, for what it refers to: secrets in variables and files.
    pub(crate) fn sources(&self) -> &'a Sources {
        self.context.sources
    }

    /// Records what is wrong with `key`, which may be a path below this section.
    pub(crate) fn fail(&self, key: impl Display, problem: Problem) {
        let place = join_rendered(&self.path, &key.to_string());
        let error = ConfigError::new(&place, self.context.origin(&place), problem);
        self.context.errors.borrow_mut().push(error);
    }

    /// Records that values do not go together, at the first of `keys`, unless the relation `holds`. Says
    /// nothing when one of the keys is bad in itself: then a stand-in was compared.
    pub(crate) fn relate(&self, keys: &[&str], holds: bool, problem: impl FnOnce() -> Problem) {
        if !holds && keys.iter().all(|key| self.sound(key)) {
            self.fail(keys[0], problem());
        }
    }

    /// Whether nothing wrong was found at `key` or below it.
    pub(crate) fn sound(&self, key: &str) -> bool {
        let place = join_rendered(&self.path, key);
        let below = |error: &ConfigError| match error.place.strip_prefix(&place) {
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        };
        !self.context.errors.borrow().iter().any(below)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Reads `value` as it stands, or, when it is a variable's text, as the TOML that the text may be.
    fn interpret<T: Setting>(&self, key: &str, value: &Value) -> Result<T, Problem> {
        T::read(value).or_else(|problem| match self.variable_as_toml(key, value) {
            Some(value) => T::read(&value),
            None => Err(problem),
        })
    }

    /// What a variable that set `key` means as TOML, if it did and if it means anything.
    fn variable_as_toml(&self, key: &str, value: &Value) -> Option<Value> {
        let set_by_variable = self.context.origins.contains_key(&join_rendered(&self.path, key));
        if set_by_variable { value.as_str()?.parse().ok() } else { None }
    }

    fn array(&mut self, key: &'static str) -> Option<Vec<Value>> {
        let value = self.take(key)?;
        match self.variable_as_toml(key, &value).unwrap_or(value) {
            Value::Array(items) => Some(items),
            // Without the value, here and below: it may be a secret in the wrong place.
            _ => {
                self.fail(key, Problem::new("is not a list", "write it as [ … ]"));
                None
            }
        }
    }

    fn table_of(&self, key: &str, value: Value) -> Option<Table> {
        match self.variable_as_toml(key, &value).unwrap_or(value) {
            Value::Table(table) => Some(table),
            _ => {
                self.fail(key, Problem::new("is not a table", "write it as { key = value, … }"));
                None
            }
        }
    }

    /// Refuses what is left, and returns what took effect.
    fn finish(mut self) -> Table {
        for key in std::mem::take(&mut self.table).keys() {
            self.fail(render(key), unknown(key, &self.known, &self.path));
        }
        self.effective
    }

    /// The table's header in a file.
    fn header(&self) -> String {
        match self.path.strip_suffix(']').and_then(|path| path.rsplit_once('[')) {
            Some((list, _)) => format!("[[{list}]]"),
            None => format!("[{}]", self.path),
        }
    }
}

impl Context<'_> {
    /// The variable that set the value at `place`, or a table around it.
    fn origin(&self, place: &str) -> Option<&str> {
        let ends = place.match_indices(['.', '[']).map(|(end, _)| end).chain([place.len()]);
        ends.filter_map(|end| self.origins.get(&place[..end])).next().map(String::as_str)
    }
}

/// That `key` is unknown, with the nearest of the `known` keys of the table at `path`.
fn unknown(key: &str, known: &[&'static str], path: &str) -> Problem {
    /// Comparing takes memory in proportion to the length.
    const LONGEST: usize = 64;
    const NEAR: f64 = 0.5;
    let likeness = |known: &&'static str| strsim::normalized_damerau_levenshtein(key, known);
    let near = known.iter().copied().map(|known| (likeness(&known), known)).filter(|(near, _)| *near >= NEAR);
    let nearest = if key.len() > LONGEST { None } else { near.max_by(|a, b| a.0.total_cmp(&b.0)) };
    let remedy = match nearest {
        Some((_, nearest)) => format!("did you mean `{}`?", join(path, nearest)),
        None => format!("known here: {}", known.join(", ")),
    };
    Problem::new("unknown key", remedy)
}

/// `a` and `b`, the latter a single key.
pub(crate) fn join(path: &str, key: &str) -> String {
    join_rendered(path, &render(key))
}

fn join_rendered(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as a part of a path: quoted where TOML would want quotes.
fn render(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare && key.len() <= 128 { key.to_owned() } else { quoted(key) }
}
