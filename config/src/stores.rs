//! What gateways share or keep: turn locks, the session directory, Redis.

use crate::{
    error::Problem,
    reader::Section,
    secret::{REDACTED, Secret},
    setting::{Text, choice},
};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

choice! {
    /// Where turn locks are kept.
    LockStore {
        /// In this process: for a single gateway.
        Memory = "memory",
        /// In Redis: for several gateways.
        Redis = "redis",
    }
}

/// One turn at a time per session, `[locks]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locks {
    /// Where they are kept.
    pub store: LockStore,
    /// How long a lock outlives a holder that died; a live one renews it.
    pub ttl: Duration,
    /// How long a turn waits its turn.
    pub wait: Duration,
    /// How many turns may wait for one session; 0 refuses at once.
    pub max_waiters: usize,
}

impl Locks {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            store: s.get("store", LockStore::Memory),
            ttl: s.get_in("ttl", seconds(10), seconds(1)..=seconds(60)),
            wait: s.get_in("wait", seconds(30), seconds(0)..=seconds(3600)),
            max_waiters: s.get_in("max_waiters", 100, 0..=10_000),
        }
    }
}

choice! {
    /// Where the session directory is kept.
    DirectoryStore {
        /// In a file: for a single gateway.
        Sqlite = "sqlite",
        /// In Redis: for several gateways.
        Redis = "redis",
    }
}

/// Who owns which session, where it lives, its status and name, `[directory]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is kept.
    pub store: DirectoryStore,
    /// The file of the SQLite store; `<pool.process.state_dir>/~jetway/directory.sqlite` unless given: the other
    /// directories there are tenants', and no tenant has a `~` in its name.
    pub path: PathBuf,
}

impl Directory {
    pub(crate) fn read(s: &mut Section<'_>, state_dir: &Path) -> Self {
        Self {
            store: s.get("store", DirectoryStore::Sqlite),
            path: s.get("path", state_dir.join("~jetway/directory.sqlite")),
        }
    }
}

/// The Redis server, `[redis]`; used if a store is `redis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is, and the password if it has one.
    pub url: RedisUrl,
}

impl Redis {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let local = RedisUrl { full: Secret::new(LOCAL_REDIS.to_owned()), shown: LOCAL_REDIS.to_owned() };
        Self { url: s.get("url", local) }
    }
}

const LOCAL_REDIS: &str = "redis://127.0.0.1:6379";

/// `redis://[user:password@]host[:port][/database]`, or `rediss://…` for TLS. Shown without what may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    full: Secret<String>,
    shown: String,
}

/// Redis's own.
const DEFAULT_PORT: u16 = 6379;

impl RedisUrl {
    /// The whole URL, password included: for the Redis client only.
    pub fn expose(&self) -> &str {
        self.full.expose()
    }

    /// The machine as it is written, without an IPv6 address's brackets, and the port.
    pub fn machine(&self) -> (&str, u16) {
        let rest = self.shown.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(DEFAULT_PORT)),
            _ => (authority, DEFAULT_PORT),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

impl Text for RedisUrl {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let split = || {
            let (scheme, rest) = text.split_once("://").filter(|(s, _)| matches!(*s, "redis" | "rediss"))?;
            // The last `@`: a password may hold one, and what precedes it must not be shown.
            let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
            let end = host.find(['/', '?', '#']).unwrap_or(host.len());
            let printable = !text.chars().any(|c| c.is_whitespace() || c.is_control());
            (printable && end > 0).then_some((scheme, user, host))
        };
        let (scheme, user, host) = split().ok_or_else(|| Self::problem(""))?;
        let user = user.map_or(String::new(), |_| format!("{REDACTED}@"));
        let (host, query) = host.split_once(['?', '#']).map_or((host, ""), |(host, _)| (host, REDACTED));
        let shown = format!("{scheme}://{user}{host}{}{query}", if query.is_empty() { "" } else { "?" });
        Ok(Self { full: Secret::new(text.to_owned()), shown })
    }

    fn text(&self) -> String {
        self.shown.clone()
    }

    /// A bad URL may hold a password as well as a good one, so it is not shown.
    fn problem(_: &str) -> Problem {
        Problem::new(format!("the value is not {}", Self::WHAT), Self::REMEDY)
    }

    const WHAT: &'static str = "a Redis URL";
    const REMEDY: &'static str = r#"write "redis://host:6379", or "rediss://…" for TLS"#;
}

/// Without user, password and query.
impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_urls_show_no_secret() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://:pw@cache:6380/2", "rediss://<redacted>@cache:6380/2"),
            ("redis://ada:p@w/1@cache", "redis://<redacted>@cache"),
            ("redis://cache?password=pw", "redis://cache?<redacted>"),
        ] {
            let parsed = RedisUrl::parse_text(url).unwrap();
            assert!(matches!(parsed.machine(), ("127.0.0.1", 6379) | ("cache", 6379 | 6380)), "{url}");
            assert_eq!((parsed.expose(), format!("{parsed:?}").as_str()), (url, shown));
        }
        for url in ["", "redis://", "redis:///0", "http://cache", "cache:6379", "redis://:pw@", "redis://a b"]
        {
            assert!(RedisUrl::parse_text(url).is_err(), "{url}");
        }
    }
}
