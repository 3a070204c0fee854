//! What the operator wrote, parsed into validated values.
//!
//! [`Config::load`] reads [`Sources`]: embedded defaults, over them a TOML file, over it the environment
//! (`JETWAY__POOL__MODE=fleet` is `pool.mode`). It reports everything that is wrong at once, each with its
//! key path and a remedy, and refuses keys that it does not know. The result is immutable;
//! [`Config::load_again`] makes a new one beside it, of which [`Live`] may take its place.
//!
//! Each section is one type in one module, whose `read` is the only place that knows its keys, defaults,
//! ranges and relations; `reader` does the rest.

pub mod admin;
pub mod auth;
mod config;
mod error;
pub mod http;
pub mod ids;
pub mod jwt;
pub mod keys;
pub mod limits;
pub mod listen;
mod live;
pub mod net;
mod overlay;
pub mod pool;
mod reader;
pub mod recycle;
pub mod sandbox;
pub mod secret;
mod setting;
mod sources;
pub mod stores;
pub mod tenants;
mod units;

pub use admin::Admin;
pub use auth::{Auth, AuthError, Credential};
pub use config::{AuditSink, Config, Drain, Log, LogFormat, LogLevel};
pub use error::{ConfigError, ConfigErrors};
pub use ids::{IdError, Identity, KeyId, MAX_ID_LEN, SessionId, TenantId, UserId};
pub use keys::{ApiKey, KeyEntry, KeyHash, Keys};
pub use limits::Limits;
pub use live::{Fixed, Live, Reloaded};
pub use secret::{Secret, SecretString};
pub use sources::{Fingerprint, Sources};
pub use units::{ByteSize, MemoryBudget, Share};
