//! What a lock costs, beside a plain `SET NX` with a Lua release and beside a poller, in one run on one Redis
//! of its own: `cargo bench -p jetway-lockd`. Prints a table, and JSON in the last line.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Redis, key, ms, percentile, soon, who};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use jetway_lockd::{Ended, Fence, Key, Lockd, Tenure, Turns, no_floors};
use redis::{Script, aio::MultiplexedConnection};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const TTL: Duration = Duration::from_secs(10);
const ROUNDS: usize = 7;
const PAIRS: usize = 3000;
const WORKERS: usize = 16;
const GRANTS: usize = 150;
const HOLD: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(50);

/// The plain lock: no fence, no renewal, no line.
#[derive(Clone)]
struct Plain {
    conn: MultiplexedConnection,
    release: Arc<Script>,
}

impl Plain {
    async fn connect(redis: &Redis) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        let release =
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
        Self {
            conn: client.get_multiplexed_async_connection().await.unwrap(),
            release: Arc::new(Script::new(release)),
        }
    }

    async fn try_take(&mut self, key: &str, token: &str) -> bool {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(token).arg("NX").arg("PX").arg(10_000);
        set.query_async::<Option<String>>(&mut self.conn).await.unwrap().is_some()
    }

    async fn release(&mut self, key: &str, token: &str) {
        self.release.key(key).arg(token).invoke_async::<i64>(&mut self.conn).await.unwrap();
    }
}

/// Microseconds of a pair alone: the median of each of the rounds, which take turns.
async fn lone(lockd: &Lockd, plain: &mut Plain) -> (f64, f64) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (key, user) = (key("lone"), who("ada"));
    for _ in 0..ROUNDS {
        let mut times = Vec::new();
        for _ in 0..PAIRS {
            let begun = Instant::now();
            assert!(plain.try_take("plain", "token").await);
            plain.release("plain", "token").await;
            times.push(begun.elapsed());
        }
        theirs.push(percentile(&mut times, 50) * 1e3);
        times.clear();
        for _ in 0..PAIRS {
            let begun = Instant::now();
            lockd.acquire(&key, &user, soon()).await.unwrap().release().await;
            times.push(begun.elapsed());
        }
        ours.push(percentile(&mut times, 50) * 1e3);
    }
    let median = |mut rounds: Vec<f64>| {
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2]
    };
    (median(ours), median(theirs))
}

/// Times from a release to the next grant, and waits.
#[derive(Clone, Default)]
struct Handed(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    released: Option<Instant>,
    handed: Vec<Duration>,
    waited: Vec<Duration>,
}

impl Handed {
    fn granted(&self, waited: Duration) {
        let mut times = self.0.lock().unwrap();
        if let Some(released) = times.released.take() {
            times.handed.push(released.elapsed());
        }
        times.waited.push(waited);
    }

    fn releasing(&self) {
        self.0.lock().unwrap().released = Some(Instant::now());
    }

    /// p50 and p99 of hand-offs, and the longest wait, in milliseconds.
    fn figures(&self) -> (f64, f64, f64) {
        let mut times = self.0.lock().unwrap();
        let (p50, p99) = (percentile(&mut times.handed, 50), percentile(&mut times.handed, 99));
        (p50, p99, percentile(&mut times.waited, 100))
    }
}

async fn contended(processes: &[Lockd]) -> Handed {
    let handed = Handed::default();
    join_all((0..WORKERS).map(|i| {
        let (lockd, handed) = (processes[i % processes.len()].clone(), handed.clone());
        tokio::spawn(async move {
            for _ in 0..GRANTS {
                let begun = Instant::now();
                let lease = lockd.acquire(&key("contended"), &who("ada"), soon()).await.unwrap();
                handed.granted(begun.elapsed());
                tokio::time::sleep(HOLD).await;
                handed.releasing();
                lease.release().await;
            }
        })
    }))
    .await;
    handed
}

async fn polled(plain: &Plain) -> Handed {
    let handed = Handed::default();
    join_all((0..WORKERS).map(|i| {
        let (mut plain, handed, token) = (plain.clone(), handed.clone(), format!("token{i}"));
        tokio::spawn(async move {
            for _ in 0..GRANTS / 10 {
                let begun = Instant::now();
                while !plain.try_take("polled", &token).await {
                    tokio::time::sleep(POLL).await;
                }
                handed.granted(begun.elapsed());
                tokio::time::sleep(HOLD).await;
                handed.releasing();
                plain.release("polled", &token).await;
                // As ours, which goes to the end of the line.
                tokio::time::sleep(ms(1)).await;
            }
        })
    }))
    .await;
    handed
}

struct Nothing;

impl Tenure for Nothing {
    fn ended(&self, _: &Key, _: Fence, _: Ended) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let redis = Redis::start(&[]);
    let a = redis.lockd(TTL, no_floors()).await;
    let b = redis.lockd(TTL, no_floors()).await;
    let mut plain = Plain::connect(&redis).await;
    redis.settled().await;

    let (ours, theirs) = lone(&a, &mut plain).await;
    let before = redis.scripts_called().await;
    let handed = contended(&[a.clone(), b.clone()]).await;
    let acquired = (WORKERS * GRANTS) as f64;
    // Each acquire is followed by one command that gives back.
    let commands = (redis.scripts_called().await - before) as f64 / acquired - 1.0;
    let (p50, p99, longest) = handed.figures();
    let (poll50, poll99, poll_longest) = polled(&plain).await.figures();

    let turns = Turns::new(a.clone(), Arc::new(Nothing), TTL, 100);
    let keep = turns.begin(&key("turns"), &who("ada"), soon()).await.unwrap();
    drop(keep);
    let (before, begun) = (redis.scripts_called().await, Instant::now());
    for _ in 0..1000 {
        drop(turns.begin(&key("turns"), &who("ada"), soon()).await.unwrap());
    }
    let turn = begun.elapsed().as_secs_f64() * 1e3;
    let turn_commands = redis.scripts_called().await - before;

    println!("| | lockd | plain SET NX + Lua | 50 ms poller |\n|---|---|---|---|");
    println!(
        "| pair alone, p50 µs (median of {ROUNDS} rounds) | {ours:.1} ({:.2} ×) | {theirs:.1} | |",
        ours / theirs
    );
    println!("| hand-off p50 ms, {WORKERS} workers | {p50:.3} | | {poll50:.1} |");
    println!("| hand-off p99 ms | {p99:.3} | | {poll99:.1} |");
    println!("| longest wait ms, holds of {HOLD:?} | {longest:.0} | | {poll_longest:.0} |");
    println!("| commands per contended acquire (and one per release) | {commands:.2} | | |");
    println!("| commands for 1000 turns under a held lease | {turn_commands} ({turn:.1} µs a turn) | | |");
    let json = serde_json::json!({
        "pair_us": ours, "plain_pair_us": theirs, "pair_ratio": ours / theirs,
        "handoff_p50_ms": p50, "handoff_p99_ms": p99, "longest_wait_ms": longest,
        "poller_p50_ms": poll50, "poller_p99_ms": poll99, "poller_longest_wait_ms": poll_longest,
        "commands_per_contended_acquire": commands, "commands_per_1000_held_turns": turn_commands,
        "held_turn_us": turn,
    });
    println!("{json}");
    turns.shutdown().await;
    a.shutdown().await;
    b.shutdown().await;
}
