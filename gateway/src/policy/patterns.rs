//! The method patterns of the configuration, held against the methods that there are.

use jetway_config::{
    Config, ConfigError, ConfigErrors, Sources,
    tenants::{MethodPattern, Tenant},
};
use jetway_wire::catalogue;

/// Reads a configuration, method patterns included.
///
/// # Errors
///
/// Everything that is wrong, at once; the patterns are looked at when nothing else is.
pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    let config = Config::load(sources)?;
    check(&config)?;
    Ok(config)
}

/// A pattern that means no method protects nothing, or allows nothing: most likely it is misspelt.
pub(crate) fn check(config: &Config) -> Result<(), ConfigErrors> {
    let default = &config.tenants.default;
    let mut errors = errors("default", default, None);
    for (name, tenant) in &config.tenants.named {
        errors.extend(self::errors(name.as_str(), tenant, Some(default)));
    }
    ConfigErrors::new(errors).map_or(Ok(()), Err)
}

/// What is inherited is wrong where it is written.
fn errors(name: &str, tenant: &Tenant, base: Option<&Tenant>) -> Vec<ConfigError> {
    let lists = [
        ("allow_methods", &tenant.allow_methods, base.map(|b| &b.allow_methods)),
        ("deny_methods", &tenant.deny_methods, base.map(|b| &b.deny_methods)),
    ];
    let own = lists.into_iter().filter(|(_, list, inherited)| Some(*list) != *inherited);
    let patterns = own.flat_map(|(key, list, _)| list.iter().enumerate().map(move |(at, p)| (key, at, p)));
    let unknown = patterns.filter(|(_, _, p)| catalogue::matches(p.as_str()).next().is_none());
    unknown
        .map(|(key, at, pattern)| ConfigError {
            place: format!("tenants.{}.{key}[{at}]", bare(name)),
            variable: None,
            problem: format!("\"{}\" is no method of the CLI, nor a group of them", pattern.as_str()),
            remedy: format!("did you mean \"{}\"?", nearest(pattern)),
        })
        .collect()
}

/// A tenant's name as it stands in a path of keys.
fn bare(name: &str) -> String {
    let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { name.to_owned() } else { format!("\"{name}\"") }
}

/// The method, or the group, that is spelt most like it.
fn nearest(pattern: &MethodPattern) -> String {
    let pattern = pattern.as_str();
    let groups = || {
        let dots =
            |name: &'static str| name.match_indices('.').map(move |(at, _)| format!("{}.*", &name[..at]));
        catalogue::all().flat_map(move |method| dots(method.name))
    };
    let names = catalogue::all().map(|method| method.name.to_owned());
    let all: Vec<_> = if pattern.ends_with('*') { groups().collect() } else { names.collect() };
    let likeness = |name: &String| strsim::normalized_damerau_levenshtein(pattern, name);
    // Of two alike, always the same one.
    let best = all.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)).then_with(|| b.cmp(a)));
    best.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(toml: &str) -> String {
        load(&Sources::fixed(toml, &[])).map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    #[test]
    fn what_means_no_method_is_refused() {
        let errors = told(
            "[tenants.default]\ndeny_methods = [\"session.shell.*\", \"session.shel.exec\"]\n[tenants.'b.c']\nallow_methods = [\"session.shells.*\", \"session.shell\"]",
        );
        let expected = "error: tenants.default.deny_methods[1]: \"session.shel.exec\" is no method of the CLI, nor a group of them; did you mean \"session.shell.exec\"?\n\
            error: tenants.\"b.c\".allow_methods[0]: \"session.shells.*\" is no method of the CLI, nor a group of them; did you mean \"session.shell.*\"?\n\
            error: tenants.\"b.c\".allow_methods[1]: \"session.shell\" is no method of the CLI, nor a group of them; did you mean";
        assert!(errors.starts_with(expected), "{errors}");
        assert_eq!(errors.lines().count(), 3, "what is inherited is told once: {errors}");
        assert_eq!(told("tenants.a.deny_methods = [\"ping\", \"session.*\"]"), "");
    }
}
