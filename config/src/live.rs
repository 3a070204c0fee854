//! What of a configuration can change while Jetway runs, and what cannot.

use crate::{
    auth::Auth,
    config::{Config, Drain, Log},
    ids::TenantId,
    limits::Limits,
    listen::Listen,
    pool::{Pool, PoolMode},
    stores::{Directory, Locks, Redis},
    tenants::{Surface, Tenants},
};

/// Who may call, and how much: replaced as a whole when the configuration is loaded again.
#[derive(Debug, Clone)]
pub struct Live {
    /// Who may call.
    pub auth: Auth,
    /// What each tenant may use.
    pub tenants: Tenants,
    /// Bounds. What is bounded already when one changes keeps to the old bound, unless it is asked again.
    pub limits: Limits,
}

impl Live {
    /// Whether the users of `tenant` may call all methods of their CLI.
    pub fn full_surface(&self, tenant: &TenantId, mode: PoolMode) -> bool {
        match self.tenants.get(tenant).surface {
            Surface::Auto => mode == PoolMode::PerUser,
            Surface::Full => true,
            Surface::Shared => false,
        }
    }
}

/// What holds from start to end: what Jetway is built from.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Where Jetway listens.
    pub listen: Listen,
    /// CLI servers.
    pub pool: Pool,
    /// Turn locks.
    pub locks: Locks,
    /// The session directory.
    pub directory: Directory,
    /// The Redis server.
    pub redis: Redis,
    /// Shutting down.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
}

impl Config {
    /// Takes apart what holds for good and what can be replaced.
    pub fn split(self) -> (Fixed, Live) {
        let Self { listen, auth, tenants, pool, locks, directory, redis, drain, log, limits, .. } = self;
        (Fixed { listen, pool, locks, directory, redis, drain, log }, Live { auth, tenants, limits })
    }
}
