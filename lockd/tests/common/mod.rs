//! What the tests share: keys, a real Redis of their own, waiting with a deadline.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

pub mod holder;
pub mod proxy;

use futures_util::future::FutureExt;
use jetway_config::{
    Config, Identity, Sources, UserId,
    stores::{self, LockStore, Locks},
};
use jetway_lockd::{Fence, Floors, Key, Lockd};
use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub fn key(session: &str) -> Key {
    let owner = Identity { tenant: "acme".parse().unwrap(), user: "ada".parse().unwrap() };
    Key { owner, session: session.parse().unwrap() }
}

pub fn who(user: &str) -> UserId {
    user.parse().unwrap()
}

pub fn locks(ttl: Duration) -> Locks {
    Locks { store: LockStore::Redis, ttl, wait: Duration::from_secs(30), max_waiters: 200 }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(30)
}

/// Fences as a gateway stores them beside a session's state: raised only, and refused when lower.
#[derive(Clone, Default)]
pub struct Durable(Arc<Mutex<HashMap<Key, Fence>>>);

impl Durable {
    pub fn floors(&self) -> Floors {
        let this = self.clone();
        Arc::new(move |key| {
            let fence = this.get(key);
            async move { Ok(fence) }.boxed()
        })
    }

    pub fn get(&self, key: &Key) -> Fence {
        self.0.lock().unwrap().get(key).copied().unwrap_or_default()
    }

    /// The last hop: stores a fence unless a higher one is known.
    pub fn accept(&self, key: &Key, fence: Fence) -> bool {
        let mut fences = self.0.lock().unwrap();
        let highest = fences.entry(key.clone()).or_default();
        let ok = fence >= *highest;
        *highest = fence.max(*highest);
        ok
    }
}

/// A Redis server of the test's own, and what lockd's tests ask of it.
pub struct Redis(jetway_loadtest::redis::Redis);

impl Deref for Redis {
    type Target = jetway_loadtest::redis::Redis;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Redis {
    pub fn start(args: &[&str]) -> Self {
        Self(jetway_loadtest::redis::Redis::start(args))
    }

    pub fn settings(&self) -> stores::Redis {
        settings(self.port())
    }

    pub async fn lockd(&self, ttl: Duration, floors: Floors) -> Lockd {
        Lockd::open(&locks(ttl), &self.settings(), floors).await.unwrap()
    }

    pub async fn query<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        let mut conn = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        command[1..].iter().for_each(|arg| {
            cmd.arg(*arg);
        });
        cmd.query_async(&mut conn).await.unwrap()
    }

    /// How often scripts have been called: every command of lockd is one.
    pub async fn scripts_called(&self) -> u64 {
        let info: String = self.query(&["INFO", "commandstats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    }

    /// Waits out the pause of a Redis that is new.
    pub async fn settled(&self) {
        let deadline = Instant::now() + Duration::from_secs(70);
        loop {
            let keys: Vec<String> = self.query(&["KEYS", "jetway:lock:*quarantine"]).await;
            if keys.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "quarantine does not end");
            tokio::time::sleep(ms(20)).await;
        }
    }
}

pub fn settings(port: u16) -> stores::Redis {
    let toml = format!("[redis]\nurl = \"redis://127.0.0.1:{port}\"\n");
    Config::load(&Sources::fixed(&toml, &[])).expect("a valid configuration").redis
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(ms(10));
    }
}

/// The `p`th percentile of some times, in milliseconds.
pub fn percentile(times: &mut [Duration], p: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * p / 100].as_secs_f64() * 1e3
}
