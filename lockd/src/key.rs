//! What is locked.

use jetway_config::{Identity, SessionId};
use std::fmt;

/// A session of an owner: what one turn at a time is let into.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose session; its members name it after its owner as well.
    pub owner: Identity,
    /// Which one.
    pub session: SessionId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.session)
    }
}
