//! How one value is read from TOML, and written back for `jetway check`.

use crate::error::Problem;
use std::path::PathBuf;
use toml::Value;

/// A value that a key may have.
pub(crate) trait Setting: Sized {
    /// Reads the value; the problem names neither the key (the caller does) nor a secret.
    fn read(value: &Value) -> Result<Self, Problem>;

    /// The value as it would be written in a file; a secret part is redacted.
    fn write(&self) -> Value;
}

/// A [`Setting`] that is written as text.
pub(crate) trait Text: Sized {
    /// What a value is, with its article: "a duration".
    const WHAT: &'static str;
    /// What to write instead of a bad one.
    const REMEDY: &'static str;

    fn parse_text(text: &str) -> Result<Self, Problem>;
    fn text(&self) -> String;

    /// That a value, [`shown`] here, is not such a one. Secrets do not show it.
    fn problem(shown: &str) -> Problem {
        Problem::new(format!("{shown} is not {}", Self::WHAT), Self::REMEDY)
    }
}

impl<T: Text> Setting for T {
    fn read(value: &Value) -> Result<Self, Problem> {
        match value.as_str() {
            Some(text) => Self::parse_text(text),
            None => Err(Self::problem(&shown(value))),
        }
    }

    fn write(&self) -> Value {
        Value::String(self.text())
    }
}

macro_rules! whole_number {
    ($($int:ty),*) => {$(
        impl Setting for $int {
            fn read(value: &Value) -> Result<Self, Problem> {
                value.as_integer().and_then(|n| n.try_into().ok()).ok_or_else(|| {
                    Problem::new(format!("{} is not a whole number of 0 or more", shown(value)), "write one such as 50")
                })
            }

            fn write(&self) -> Value {
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}

whole_number!(u32, u64, usize);

impl Setting for f64 {
    fn read(value: &Value) -> Result<Self, Problem> {
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        number
            .ok_or_else(|| Problem::new(format!("{} is not a number", shown(value)), "write one such as 2.5"))
    }

    fn write(&self) -> Value {
        Value::Float(*self)
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, Problem> {
        let problem =
            || Problem::new(format!("{} is neither true nor false", shown(value)), "write true or false");
        value.as_bool().ok_or_else(problem)
    }

    fn write(&self) -> Value {
        Value::Boolean(*self)
    }
}

/// Text without further form: never empty.
impl Text for String {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() { Err(Self::problem(&quoted(text))) } else { Ok(text.to_owned()) }
    }

    fn text(&self) -> String {
        self.clone()
    }

    const WHAT: &str = "a text";
    const REMEDY: &str = "write one, in quotes";
}

impl Text for PathBuf {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() || text.contains('\0') {
            Err(Self::problem(&quoted(text)))
        } else {
            Ok(text.into())
        }
    }

    fn text(&self) -> String {
        self.display().to_string()
    }

    const WHAT: &str = "a path";
    const REMEDY: &str = r#"write one, such as "/var/lib/jetway""#;
}

/// `value` for an error message: one short line.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// `text` in quotes, escaped and cut to a length that fits a line.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The remedy that lists words.
macro_rules! one_of {
    ($first:literal $(, $word:literal)*) => {
        concat!("write \"", $first, "\"" $(, " or \"", $word, "\"")*)
    };
}

pub(crate) use one_of;

/// An enum whose values are written as words.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word that stands for it in the configuration.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::setting::Text for $name {
            fn parse_text(text: &str) -> Result<Self, $crate::error::Problem> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Self::problem(&$crate::setting::quoted(text))),
                }
            }

            fn text(&self) -> String {
                self.as_str().to_owned()
            }

            const WHAT: &str = "one of the choices";
            const REMEDY: &str = $crate::setting::one_of!($($word),+);
        }
    };
}

pub(crate) use choice;

/// An identifier or another type whose `FromStr` already says what is wrong, without repeating the text.
macro_rules! parsed_text {
    ($name:ty, $what:literal, $remedy:literal) => {
        impl $crate::setting::Text for $name {
            fn parse_text(text: &str) -> Result<Self, $crate::error::Problem> {
                text.parse().map_err(|e| $crate::error::Problem::new(format!("{e}"), $remedy))
            }

            fn text(&self) -> String {
                self.to_string()
            }

            const WHAT: &str = $what;
            const REMEDY: &str = $remedy;
        }
    };
}

parsed_text!(crate::TenantId, "a tenant", r#"write a name such as "acme""#);
parsed_text!(crate::UserId, "a user", r#"write a name such as "ada""#);
parsed_text!(crate::KeyId, "a key's id", "copy the entry that `jetway key new` printed");
