//! What of a configuration can change while Jetway runs, and what cannot.

use crate::{
    admin::Admin,
    auth::Auth,
    config::{Config, Drain, Log},
    error::ConfigErrors,
    http::Http,
    ids::TenantId,
    limits::Limits,
    listen::Listen,
    pool::{Pool, PoolMode},
    reader,
    sources::Sources,
    stores::{Directory, Locks, Redis},
    tenants::{Surface, Tenants},
};
use toml::{Table, Value};

/// The sections of [`Live`].
const LIVE: [&str; 3] = ["auth", "tenants", "limits"];
/// Keys in them of what is built when Jetway starts.
const LIVE_BUT_FIXED: [&str; 1] = ["limits.cli_start_attempts"];

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
    /// The HTTP port.
    pub http: Http,
    /// Who may operate.
    pub admin: Admin,
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
        let Self {
            listen,
            http,
            admin,
            auth,
            tenants,
            pool,
            locks,
            directory,
            redis,
            drain,
            log,
            limits,
            ..
        } = self;
        (
            Fixed { listen, http, admin, pool, locks, directory, redis, drain, log },
            Live { auth, tenants, limits },
        )
    }
}

/// A configuration that was loaded again.
#[derive(Debug)]
pub struct Reloaded {
    /// What is in effect with it: the new [`Live`], the old everything else.
    pub config: Config,
    /// The keys whose change takes effect.
    pub changed: Vec<String>,
    /// The keys that read otherwise than what Jetway was started with, and take effect only when it is started anew.
    pub restart: Vec<String>,
}

impl Config {
    /// Reads `sources` again for a Jetway that runs with this configuration.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, as when it was loaded first; then nothing of it may be used.
    pub fn load_again(&self, sources: &Sources) -> Result<Reloaded, ConfigErrors> {
        let new = Self::load_beside(sources, Some(self))?;
        let keys = differences(&self.effective, &new.effective);
        let live = |key: &String| {
            let section = key.split('.').next().unwrap_or_default();
            LIVE.contains(&section) && !LIVE_BUT_FIXED.contains(&key.as_str())
        };
        let (mut changed, mut restart): (Vec<_>, Vec<_>) = keys.into_iter().partition(live);
        self.add_secrets(&new, &mut changed, &mut restart);
        let mut effective = self.effective.clone();
        for section in LIVE {
            match new.effective.get(section) {
                Some(table) => effective.insert(section.to_owned(), table.clone()),
                None => effective.remove(section),
            };
        }
        let Self { auth, tenants, mut limits, .. } = new;
        limits.cli_start_attempts = self.limits.cli_start_attempts;
        for key in LIVE_BUT_FIXED {
            keep(key, &self.effective, &mut effective);
        }
        let config = Self { auth, tenants, limits, effective, ..self.clone() };
        Ok(Reloaded { config, changed, restart })
    }

    /// Names what differs in a secret only, which is written the same way in both.
    fn add_secrets(&self, new: &Self, changed: &mut Vec<String>, restart: &mut Vec<String>) {
        let add = |keys: &mut Vec<String>, key: &str, differs: bool| {
            if differs && !keys.iter().any(|other| other.starts_with(key)) {
                keys.push(key.to_owned());
            }
        };
        add(changed, "auth.keys", self.auth.keys != new.auth.keys);
        add(changed, "auth.jwt", self.auth.jwt != new.auth.jwt);
        add(changed, "tenants", self.tenants != new.tenants);
        add(restart, "admin", self.admin != new.admin);
        add(restart, "pool", self.pool != new.pool);
        add(restart, "redis", self.redis != new.redis);
    }
}

/// Keeps the value of a key as it was.
fn keep(path: &str, old: &Table, new: &mut Table) {
    let Some((section, key)) = path.split_once('.') else { return };
    let value = old.get(section).and_then(|table| table.get(key));
    if let (Some(Value::Table(table)), Some(value)) = (new.get_mut(section), value) {
        table.insert(key.to_owned(), value.clone());
    }
}

/// The paths of the keys at which two tables differ.
fn differences(old: &Table, new: &Table) -> Vec<String> {
    fn compare(path: &str, old: &Table, new: &Table, found: &mut Vec<String>) {
        let added = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(added) {
            let place = reader::join(path, key);
            match (old.get(key), new.get(key)) {
                (Some(Value::Table(old)), Some(Value::Table(new))) => compare(&place, old, new, found),
                (old, new) if old != new => found.push(place),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found.sort();
    found
}
