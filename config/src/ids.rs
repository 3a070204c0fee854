//! Identifiers of tenants, users, sessions and keys, parsed once at the edge.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest identifier that Jetway accepts, in bytes. The CLI takes session ids of up to 250;
/// 128 leaves room for them in file names, log lines and Redis keys.
pub const MAX_ID_LEN: usize = 128;

/// Why a string is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`MAX_ID_LEN`].
    #[error("must be at most {MAX_ID_LEN} characters long")]
    TooLong,
    /// A character outside the identifier's alphabet.
    #[error("must not contain {0:?}: allowed are {1}")]
    BadChar(char, &'static str),
    /// `.` and `..` name directories, and a leading `-` reads as an option.
    #[error("must not be `.` or `..` or begin with `-`")]
    Reserved,
}

/// Letters, digits, `_` and `-`: what the CLI itself accepts in a session id.
fn session_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// As [`session_char`], and `.`, `@`, `+`: enough for e-mail addresses; never a path or key separator.
fn name_char(c: char) -> bool {
    session_char(c) || matches!(c, '.' | '@' | '+')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $allowed:expr, $alphabet:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                if s.is_empty() {
                    return Err(IdError::Empty);
                }
                if s.len() > MAX_ID_LEN {
                    return Err(IdError::TooLong);
                }
                if let Some(c) = s.chars().find(|c| !$allowed(*c)) {
                    return Err(IdError::BadChar(c, $alphabet));
                }
                if matches!(s, "." | "..") || s.starts_with('-') {
                    return Err(IdError::Reserved);
                }
                Ok(Self(s.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    };
}

id! {
    /// A tenant: one customer of the SaaS that runs Jetway.
    TenantId, name_char, "letters, digits and `_ - . @ +`"
}
id! {
    /// A user of a tenant.
    UserId, name_char, "letters, digits and `_ - . @ +`"
}
id! {
    /// A Copilot session, as its client named it.
    SessionId, session_char, "letters, digits, `_` and `-`"
}
id! {
    /// An API key's public part.
    KeyId, char_is_alphanumeric, "letters and digits"
}

fn char_is_alphanumeric(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// The service user that a key acts as when no user is named. A key's alphabet is part of a user's.
impl From<&KeyId> for UserId {
    fn from(id: &KeyId) -> Self {
        Self(Arc::clone(&id.0))
    }
}

/// Who is calling: a user of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabets() {
        assert!("a-b_9".parse::<SessionId>().is_ok());
        assert!("ada@example.com".parse::<UserId>().is_ok());
        assert_eq!(
            "a/b".parse::<UserId>().unwrap_err(),
            IdError::BadChar('/', "letters, digits and `_ - . @ +`")
        );
        assert!("a.b".parse::<SessionId>().is_err());
        assert_eq!("".parse::<TenantId>().unwrap_err(), IdError::Empty);
        assert_eq!("..".parse::<TenantId>().unwrap_err(), IdError::Reserved);
        assert_eq!("-rf".parse::<UserId>().unwrap_err(), IdError::Reserved);
        assert!("a".repeat(MAX_ID_LEN).parse::<UserId>().is_ok());
        assert_eq!("a".repeat(MAX_ID_LEN + 1).parse::<UserId>().unwrap_err(), IdError::TooLong);
    }
}
