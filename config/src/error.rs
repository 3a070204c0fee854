//! What is wrong with a configuration, all of it at once, in words that an operator can act on.

use std::fmt;

/// What is wrong with one value and how to mend it; where it stands is added by the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Completes the sentence "`locks.ttl`: …".
    pub(crate) what: String,
    /// An imperative: "write …", "add …".
    pub(crate) remedy: String,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key path (`pool.process.memory_budget`), or for a file that cannot be read or parsed, the
    /// file and position (`jetway.toml:3:7`).
    pub place: String,
    /// The environment variable that set the value, if one did.
    pub variable: Option<String>,
    /// What is wrong. Never contains a secret.
    pub problem: String,
    /// How to mend it.
    pub remedy: String,
}

impl ConfigError {
    pub(crate) fn new(place: impl Into<String>, variable: Option<&str>, problem: Problem) -> Self {
        let Problem { what, remedy } = problem;
        Self { place: place.into(), variable: variable.map(str::to_owned), problem: what, remedy }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(variable) = &self.variable {
            write!(f, " (set by {variable})")?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` when there is nothing wrong.
    pub fn new(errors: Vec<ConfigError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, in the order in which the configuration is read.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

/// One line each, `error: <place>: <problem>; <remedy>`, without a newline at the end.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}error: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}
