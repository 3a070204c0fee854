//! The connection to Redis: one, multiplexed, for commands and for what Redis publishes to this process.
//! It is made anew when it breaks, and nothing is asked over it before Redis has been checked and seeded.

use super::Shards;
use crate::{
    fence::Fence,
    rules::Rules,
    store::{Ear, Heard, Node, Notice, StoreError, Ticket, What},
};
use futures_util::future::try_join_all;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, ScriptInvocation, Value, aio::MultiplexedConnection,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The least time between two attempts to connect.
const BACKOFF: Duration = Duration::from_millis(100);

pub(super) struct Link {
    client: Client,
    rules: Rules,
    node: Node,
    ear: Ear,
    shards: Shards,
    live: Mutex<Option<Live>>,
    /// Held while connecting, so that one does it; when it last failed.
    failed: tokio::sync::Mutex<Option<Instant>>,
    broken: Arc<Notify>,
}

/// A connection that has been checked.
#[derive(Clone)]
pub(super) struct Live {
    conn: MultiplexedConnection,
    broken: Arc<AtomicBool>,
    /// Redis' name for its run: another after a restart or a failover.
    run: Arc<str>,
}

impl Link {
    pub(super) fn new(url: &str, rules: Rules, node: Node, ear: Ear) -> Result<Self, StoreError> {
        // Leases and what is published to them share a connection, which takes RESP3.
        let info = url.into_connection_info().and_then(|info| {
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Client::open(info.set_redis_settings(settings))
        });
        Ok(Self {
            client: info.map_err(unconnected)?,
            rules,
            node,
            ear,
            shards: Shards::default(),
            live: Mutex::new(None),
            failed: tokio::sync::Mutex::new(None),
            broken: Arc::new(Notify::new()),
        })
    }

    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Runs a script. After any failure the connection is made anew: it may have missed notices, or lead to
    /// a Redis that is not the one to ask.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let mut live = self.get().await?;
        script.invoke_async(&mut live.conn).await.map_err(|e| {
            live.broken.store(true, Ordering::Release);
            self.broken.notify_one();
            StoreError::Command { command, source: Arc::new(e) }
        })
    }

    /// Tells a shard that has lost its memory what this process knows.
    pub(super) async fn seed(&self, shard: usize, floor: Fence) -> Result<(), StoreError> {
        let run = self.get().await?.run;
        let pause: u64 = self.run("seed", &self.shards.seed(shard, floor, &run, &self.rules)).await?;
        report(pause);
        Ok(())
    }

    /// Connects again as soon as a connection breaks, so that those in line hear what is published.
    pub(super) async fn mend(self: Arc<Self>) {
        loop {
            self.broken.notified().await;
            while let Err(e) = self.get().await {
                if !matches!(e, StoreError::Down) {
                    tracing::warn!(error = %e, "the lock store is away");
                }
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    fn current(&self) -> Option<Live> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().filter(|live| !live.broken.load(Ordering::Acquire)).cloned()
    }

    /// The connection; a new one if there is none.
    pub(super) async fn get(&self) -> Result<Live, StoreError> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut failed = self.failed.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        if failed.is_some_and(|at| at.elapsed() < BACKOFF) {
            return Err(StoreError::Down);
        }
        match self.connect().await {
            Ok(live) => {
                *failed = None;
                let before = self.live.lock().unwrap_or_else(PoisonError::into_inner).replace(live.clone());
                if before.is_some() {
                    tracing::info!("the lock store is back");
                    (self.ear)(Heard::Back);
                }
                Ok(live)
            }
            Err(e) => {
                *failed = Some(Instant::now());
                Err(e)
            }
        }
    }

    async fn connect(&self) -> Result<Live, StoreError> {
        let broken = Arc::new(AtomicBool::new(false));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.rules.command))
            .set_response_timeout(Some(self.rules.command))
            .set_push_sender(self.listener(Arc::clone(&broken)));
        let mut conn =
            self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(unconnected)?;

        let info: String = redis::cmd("INFO").query_async(&mut conn).await.map_err(unconnected)?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
        };
        let policy = field("maxmemory_policy");
        if policy != "noeviction" {
            tracing::error!(policy, "Redis may evict locks: set maxmemory-policy noeviction");
            return Err(StoreError::Evicts(policy.to_owned()));
        }
        if let Err(e) = conn.subscribe(format!("jetway:lock:node:{}", self.node)).await {
            tracing::warn!(error = %e, "cannot subscribe to jetway:lock:node:*: waiting turns find out late");
        }
        // Before anything is asked: a Redis that lost leases must not grant them again at once.
        let run: Arc<str> = field("run_id").into();
        let seeds = (0..Shards::COUNT).map(|shard| {
            let (mut conn, run) = (conn.clone(), &run);
            async move {
                let seed = self.shards.seed(shard, self.shards.highest(shard), run, &self.rules);
                seed.invoke_async::<u64>(&mut conn).await
            }
        });
        let pauses = try_join_all(seeds).await.map_err(unconnected)?;
        report(pauses.into_iter().max().unwrap_or_default());
        Ok(Live { conn, broken, run })
    }

    fn listener(&self, broken: Arc<AtomicBool>) -> impl Fn(PushInfo) -> Result<(), RedisError> + use<> {
        let (ear, node, notify) = (Arc::clone(&self.ear), self.node, Arc::clone(&self.broken));
        move |push| {
            match push.kind {
                PushKind::Disconnection => {
                    broken.store(true, Ordering::Release);
                    notify.notify_one();
                }
                PushKind::Message => {
                    if let Some(notice) = push.data.get(1).and_then(|text| notice(node, text)) {
                        ear(Heard::Notice(notice));
                    }
                }
                _ => {}
            }
            Ok(())
        }
    }
}

/// `<what> <seq> <ms>`, as the scripts publish it.
fn notice(node: Node, message: &Value) -> Option<Notice> {
    let text = match message {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) => text,
        _ => return None,
    };
    let mut words = text.split(' ');
    let (what, seq, ms) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let what = match what {
        "offered" => What::Offered,
        "next" => What::Next(Duration::from_millis(ms)),
        "wanted" => What::Wanted,
        _ => return None,
    };
    Some(Notice { ticket: Ticket { node, seq }, what })
}

fn unconnected(e: RedisError) -> StoreError {
    StoreError::Connect(Arc::new(e))
}

fn report(pause_ms: u64) {
    if pause_ms > 0 {
        tracing::warn!(pause_ms, "Redis is new, restarted or empty: no lock is granted for a while");
    }
}
