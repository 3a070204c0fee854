//! What the operator wrote, parsed into validated values.

pub mod ids;

pub use ids::{IdError, Identity, KeyId, SessionId, TenantId, UserId};
