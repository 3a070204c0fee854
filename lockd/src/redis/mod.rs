//! Leases kept in Redis, for several gateways: the lease table as Lua scripts, each atomic.
//!
//! Sessions are spread over [`Shards::COUNT`] shards, and a shard is a hash tag: all keys of a session are
//! in one slot together with the counter that its fences come from. So Redis Cluster can hold them, nothing
//! is left behind by a session that is over, and all leases of a shard are renewed by one command.

mod link;

use crate::{
    fence::Fence,
    key::Key,
    rules::Rules,
    store::{Answer, Ear, Enter, Leave, Node, Place, Renew, Renewed, StoreError},
};
use futures_util::future::join_all;
use jetway_config::{UserId, stores};
use link::Link;
use redis::{Script, ScriptInvocation, Value};
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// The most leases that one command renews.
const BATCH: usize = 128;

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), include_str!($file))))
    };
}

static ENTER: LazyLock<Script> = script!("enter.lua");
static LEAVE: LazyLock<Script> = script!("leave.lua");
static RENEW: LazyLock<Script> = script!("renew.lua");
static SEED: LazyLock<Script> = script!("seed.lua");

/// Leases kept in Redis; clones share the connection.
#[derive(Clone)]
pub struct RedisStore {
    link: Arc<Link>,
    rules: Rules,
}

impl RedisStore {
    /// Connects. `ear` hears what Redis has to say to `node`.
    ///
    /// # Errors
    /// If Redis cannot be reached or may evict keys.
    pub async fn connect(
        redis: &stores::Redis,
        rules: Rules,
        node: Node,
        ear: Ear,
    ) -> Result<Self, StoreError> {
        let link = Arc::new(Link::new(redis.url.expose(), rules, node, ear)?);
        link.get().await?;
        Ok(Self { link, rules })
    }

    /// Keeps the connection up, for ever.
    pub async fn mend(self) {
        self.link.mend().await;
    }

    /// See [`Enter`].
    ///
    /// # Errors
    /// If Redis did not answer in time; the command may have been carried out.
    pub async fn enter(&self, enter: &Enter) -> Result<Answer, StoreError> {
        let shard = Shards::of(&enter.key);
        let floor = enter.floor.max(self.link.shards().highest(shard));
        let keys = Keys::of(&enter.key);
        let mut script = ENTER.key(keys.fence);
        script.key(keys.quarantine).key(keys.lease).key(keys.line);
        script.arg(enter.ticket.to_string()).arg(enter.who.as_str()).arg(ms(self.rules.ttl));
        script.arg(enter.max_waiters).arg(floor.to_u64()).arg(ms(self.rules.offer));
        // Those in line enter again within a ttl; a line that nobody is in is forgotten.
        script.arg(ms(self.rules.ttl * 4));
        // Seeding is asked for once: that it did not help is an error.
        for _ in 0..2 {
            let answer = parse(self.link.run("enter", &script).await?);
            match answer.ok_or(StoreError::Nonsense { command: "enter" })? {
                Answer::Unseeded => self.link.seed(shard, floor).await?,
                Answer::Held { fence, wanted } => {
                    self.link.shards().saw(shard, fence);
                    return Ok(Answer::Held { fence, wanted });
                }
                answer => return Ok(answer),
            }
        }
        Err(StoreError::Nonsense { command: "enter" })
    }

    /// See [`Leave`].
    ///
    /// # Errors
    /// If Redis did not answer in time; the command may have been carried out.
    pub async fn leave(&self, leave: &Leave) -> Result<(), StoreError> {
        let keys = Keys::of(&leave.key);
        let mut script = LEAVE.key(keys.quarantine);
        script.key(keys.lease).key(keys.line);
        script.arg(leave.ticket.to_string()).arg(leave.who.as_str()).arg(ms(self.rules.offer));
        self.link.run("leave", &script).await
    }

    /// See [`Renew`]: one outcome per lease, in their order; none where Redis did not answer in time.
    pub async fn renew(&self, leases: &[Renew]) -> Vec<Option<Renewed>> {
        let mut shards: Vec<Vec<usize>> = vec![Vec::new(); Shards::COUNT];
        for (i, lease) in leases.iter().enumerate() {
            shards[Shards::of(&lease.key)].push(i);
        }
        let batches = shards.iter().enumerate().flat_map(|(shard, of_it)| {
            of_it.chunks(BATCH).map(move |batch| async move {
                let answers = self.renew_batch(shard, batch.iter().map(|i| &leases[*i])).await;
                (batch, answers)
            })
        });
        let mut outcomes = vec![None; leases.len()];
        for (batch, answers) in join_all(batches).await {
            match answers {
                Ok(answers) => batch.iter().zip(answers).for_each(|(i, answer)| outcomes[*i] = Some(answer)),
                Err(e) => tracing::warn!(error = %e, leases = batch.len(), "cannot renew leases"),
            }
        }
        outcomes
    }

    async fn renew_batch(
        &self,
        shard: usize,
        leases: impl Iterator<Item = &Renew> + Clone,
    ) -> Result<Vec<Renewed>, StoreError> {
        let mut script = RENEW.key(Shards::key(shard, "fence"));
        script.key(Shards::key(shard, "quarantine")).arg(ms(self.rules.ttl));
        for lease in leases.clone() {
            let keys = Keys::of(&lease.key);
            script.key(keys.lease).key(keys.line);
            script.arg(lease.ticket.to_string()).arg(lease.who.as_str()).arg(lease.fence.to_u64());
            self.link.shards().saw(shard, lease.fence);
        }
        let nonsense = || StoreError::Nonsense { command: "renew" };
        let expected = leases.count();
        for _ in 0..2 {
            let answers: Vec<Value> = self.link.run("renew", &script).await?;
            if let Some(Value::BulkString(_)) = answers.first() {
                self.link.seed(shard, self.link.shards().highest(shard)).await?;
                continue;
            }
            let parsed = answers.iter().map(|answer| match answer {
                Value::Int(0) => Some(Renewed::Gone),
                Value::Int(n @ 1..=2) => Some(Renewed::Kept { wanted: *n == 2 }),
                _ => None,
            });
            let parsed: Option<Vec<_>> = parsed.collect();
            return parsed.filter(|answers| answers.len() == expected).ok_or_else(nonsense);
        }
        Err(nonsense())
    }
}

/// The answer of `enter.lua`.
fn parse(answer: Vec<Value>) -> Option<Answer> {
    let text = |i: usize| match answer.get(i)? {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    let number = |i: usize| match answer.get(i)? {
        Value::Int(n) => u64::try_from(*n).ok().or(Some(0)),
        _ => None,
    };
    let place = || {
        let holder = match text(2)? {
            "" => None,
            who => Some(who.parse::<UserId>().ok()?),
        };
        Some(Place { ahead: number(1)? as usize, holder, left: Duration::from_millis(number(3)?) })
    };
    match text(0)? {
        "held" => {
            Some(Answer::Held { fence: Fence::from_u64(text(1)?.parse().ok()?), wanted: number(2)? > 0 })
        }
        "waiting" => Some(Answer::Waiting(place()?)),
        "full" => Some(Answer::Full(place()?)),
        "unseeded" => Some(Answer::Unseeded),
        _ => None,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The keys of a session.
struct Keys {
    fence: String,
    quarantine: String,
    lease: String,
    line: String,
}

impl Keys {
    /// Ids hold neither braces nor colons, so the tag is the shard's alone.
    fn of(key: &Key) -> Self {
        let shard = Shards::of(key);
        Self {
            fence: Shards::key(shard, "fence"),
            quarantine: Shards::key(shard, "quarantine"),
            lease: Shards::key(shard, &format!("lease:{key}")),
            line: Shards::key(shard, &format!("line:{key}")),
        }
    }
}

/// The highest fence that this process has seen of each shard.
#[derive(Default)]
struct Shards([AtomicU64; Shards::COUNT]);

impl Shards {
    /// More than a cluster is likely to have servers. With another number, sessions would be counted by
    /// other counters; only the floors that callers keep would hold their fences up.
    const COUNT: usize = 16;

    /// FNV-1a, folded: the same in every process, for ever.
    fn of(key: &Key) -> usize {
        let hash = key.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ((hash ^ (hash >> 32)) % Self::COUNT as u64) as usize
    }

    fn key(shard: usize, name: &str) -> String {
        format!("jetway:lock:{{{shard}}}:{name}")
    }

    fn highest(&self, shard: usize) -> Fence {
        Fence::from_u64(self.0[shard].load(Ordering::Acquire))
    }

    fn saw(&self, shard: usize, fence: Fence) {
        self.0[shard].fetch_max(fence.to_u64(), Ordering::AcqRel);
    }

    fn seed(&self, shard: usize, floor: Fence, run: &str, rules: &Rules) -> ScriptInvocation<'static> {
        let mut script = SEED.key(Self::key(shard, "fence"));
        script.key(Self::key(shard, "quarantine")).key(Self::key(shard, "run"));
        script.arg(floor.to_u64()).arg(run).arg(ms(rules.ttl)).arg(ms(rules.settle));
        script.arg(Fence::at(SystemTime::now()).to_u64());
        script
    }
}
