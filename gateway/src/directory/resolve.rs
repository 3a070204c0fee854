//! What a person may write for a session.

use jetway_config::SessionId;

use super::entry::{Entry, NAME_CHARS, fold};

/// How many of an ambiguous reference's sessions are told.
pub const SHOWN: usize = 10;

/// Which session is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// This one.
    One(Box<Entry>),
    /// None that the caller may see.
    None,
    /// Several: the first [`SHOWN`] of them.
    Ambiguous(Vec<Entry>),
}

impl Resolution {
    /// The one that is meant, if it is clear which.
    pub(super) fn one(&self) -> Option<&Entry> {
        match self {
            Self::One(entry) => Some(entry),
            Self::None | Self::Ambiguous(_) => None,
        }
    }

    pub(super) fn of(mut found: Vec<Entry>) -> Self {
        match found.len() {
            0 => Self::None,
            1 => Self::One(Box::new(found.remove(0))),
            _ => Self::Ambiguous(found),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Latest,
    /// An id or its beginning, if it can be one; a name, as names are compared.
    Text {
        id: Option<SessionId>,
        folded: String,
    },
}

impl Reference {
    /// `None` if no session can be called so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        // Ids are shorter than names.
        let fits = text.chars().take(NAME_CHARS + 1).count() <= NAME_CHARS;
        let sensible = fits && !text.trim().is_empty() && !text.chars().any(char::is_control);
        sensible.then(|| Self::Text { id: text.parse().ok(), folded: fold(text) })
    }
}
