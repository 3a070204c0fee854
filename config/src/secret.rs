//! Values that must not be shown, and how the configuration refers to them: by variable or by file.

use crate::{error::Problem, reader::Section, setting::Text};
use std::{fmt, path::PathBuf};

/// What stands in the place of a secret wherever a configuration is shown.
pub const REDACTED: &str = "<redacted>";

/// A value that can be used but not shown: `Debug` is redacted and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

/// A secret text: a token, an API key, a URL with a password.
pub type SecretString = Secret<String>;

impl<T> Secret<T> {
    /// Hides `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: for the one place that sends or compares it, never for a log line or an error.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// The secret in the variable that `key` names, if it names one.
pub(crate) fn from_variable(s: &mut Section<'_>, key: &'static str) -> Option<SecretString> {
    let VariableName(name) = s.optional(key)?;
    match s.sources().variable(&name) {
        Ok(secret) => Some(Secret::new(secret.to_owned())),
        Err(problem) => {
            s.fail(key, problem);
            None
        }
    }
}

/// The secret in the file that `key` names, if it names one, without white space around it.
pub(crate) fn from_file(s: &mut Section<'_>, key: &'static str) -> Option<SecretString> {
    let path: PathBuf = s.optional(key)?;
    let problem = match s.sources().read(&path) {
        Ok(text) if !text.trim().is_empty() => return Some(Secret::new(text.trim().to_owned())),
        // Without the path: it is where a secret is pasted by mistake.
        Ok(_) => Problem::new("the file is empty", "write the secret into it"),
        Err(e) => Problem::new(
            format!("the file cannot be read: {e}"),
            "name a readable file that holds the secret",
        ),
    };
    s.fail(key, problem);
    None
}

/// Capital letters, digits and `_`: narrow on purpose, so that a token pasted in the name's place is
/// neither taken for one nor shown.
struct VariableName(String);

impl Text for VariableName {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let capitals = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        let begins = text.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
        if capitals && begins { Ok(Self(text.to_owned())) } else { Err(Self::problem("")) }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    fn problem(_: &str) -> Problem {
        Problem::new(format!("the value is not {}", Self::WHAT), Self::REMEDY)
    }

    const WHAT: &'static str = "the name of an environment variable";
    const REMEDY: &'static str =
        "put the secret into a variable, and its name (capital letters, digits and `_`) here";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "<redacted> Some(<redacted>)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn tokens_are_no_names() {
        assert!(VariableName::parse_text("CLI_TOKEN_2").is_ok());
        for text in ["", "ghp_abc", "sk-ABC", "2A", "A B", "eyJhbGciOi"] {
            assert!(VariableName::parse_text(text).is_err(), "{text}");
        }
    }
}
