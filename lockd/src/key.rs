//! What is locked.

use jetway_config::{SessionId, TenantId};
use std::fmt;

/// A session of a tenant: what one turn at a time is let into.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose session.
    pub tenant: TenantId,
    /// Which one.
    pub session: SessionId,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.session)
    }
}
