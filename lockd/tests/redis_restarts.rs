//! A Redis that comes back empty, older than it was, or with another clock: no fence is given twice, and
//! what is held stays held.

mod common;

use common::{Durable, Redis, key, locks, ms, proxy::Proxy, settings, soon, who};
use futures_util::future::{BoxFuture, FutureExt};
use jetway_lockd::{AcquireError, Cause, Ended, Fence, Key, Lockd, Tenure, Turns, no_floors};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

const TTL: Duration = Duration::from_secs(2);

/// Every fence ever given, and that each is above those before.
#[derive(Clone, Default)]
struct Given(Arc<Mutex<BTreeMap<Key, Vec<Fence>>>>);

impl Given {
    fn note(&self, key: &Key, fence: Fence) {
        let mut given = self.0.lock().unwrap();
        let fences = given.entry(key.clone()).or_default();
        assert!(fences.last().is_none_or(|last| *last < fence), "{key}: {fence} after {fences:?}");
        fences.push(fence);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_5_an_empty_redis_gives_no_fence_twice() {
    let mut redis = Redis::start(&[]);
    let given = Given::default();
    let durable = Durable::default();
    let holding = redis.lockd(TTL, durable.floors()).await;
    let keys: Vec<Key> = (0..20).map(|i| key(&format!("s{i}"))).collect();
    let mut leases = Vec::new();
    for key in &keys {
        let lease = holding.acquire(key, &who("ada"), soon()).await.unwrap();
        given.note(key, lease.fence());
        leases.push(lease);
    }
    let mut reinstated = 0;
    for round in 0..3 {
        redis.kill();
        redis.up();
        let back = Instant::now();
        // One that knows nothing but what is stored durably, and of these leases nothing is.
        let fresh = redis.lockd(TTL, durable.floors()).await;
        let key = key(&format!("new{round}"));
        let lease = fresh.acquire(&key, &who("bob"), soon()).await.unwrap();
        given.note(&key, lease.fence());
        assert!(back.elapsed() >= TTL - ms(50), "nothing is granted before holders had their time");
        // Those that were held still are, and nobody else gets them.
        reinstated += leases.iter().filter(|lease| lease.is_live(Instant::now())).count();
        let refused = fresh.acquire(&keys[0], &who("bob"), Instant::now()).await.unwrap_err();
        assert!(matches!(&refused, AcquireError::Busy(p) if p.holder == Some(who("ada"))), "{refused:?}");
        // Given back and taken by the other.
        let (i, old) = (round + 1, leases.remove(1));
        old.release().await;
        let lease = fresh.acquire(&keys[i], &who("bob"), soon()).await.unwrap();
        given.note(&keys[i], lease.fence());
    }
    assert_eq!(reinstated, 20 + 19 + 18);
    // Emptied while connected, by hand, in mid-lease.
    let _: String = redis.query(&["FLUSHALL"]).await;
    let begun = Instant::now();
    for key in &keys[10..] {
        leases.retain(|lease| lease.key() != key);
    }
    for key in &keys[10..] {
        given.note(key, holding.acquire(key, &who("eve"), soon()).await.unwrap().fence());
    }
    assert!(begun.elapsed() >= TTL - ms(50));
    // All processes dead, and Redis empty: what is stored durably holds the fences up.
    for key in &keys {
        let highest = *given.0.lock().unwrap()[key].last().unwrap();
        durable.accept(key, highest);
    }
    drop(leases);
    holding.shutdown().await;
    redis.kill();
    redis.up();
    let fresh = redis.lockd(TTL, durable.floors()).await;
    for key in &keys {
        given.note(key, fresh.acquire(key, &who("eve"), soon()).await.unwrap().fence());
    }
    println!(
        "check 5: 5 empty restarts, {} fences given, none twice; {reinstated} leases held through them",
        given.count()
    );
}

/// Turns of several processes in one session, for as long as they are let.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    given: Given,
    last: Arc<Mutex<Instant>>,
    overlaps: Arc<AtomicUsize>,
    stale: Arc<AtomicUsize>,
}

impl Load {
    async fn start(ports: &[u16]) -> Self {
        let load = Self {
            stop: Arc::default(),
            tasks: Vec::new(),
            given: Given::default(),
            last: Arc::new(Mutex::new(Instant::now())),
            overlaps: Arc::default(),
            stale: Arc::default(),
        };
        let (mut tasks, durable, inside) = (Vec::new(), Durable::default(), Arc::new(AtomicUsize::new(0)));
        for port in ports {
            let lockd = Lockd::open(&locks(TTL), &settings(*port), durable.floors()).await.unwrap();
            tasks.push(tokio::spawn(load.turns(lockd, durable.clone(), Arc::clone(&inside))));
        }
        Self { tasks, ..load }
    }

    fn turns(
        &self,
        lockd: Lockd,
        durable: Durable,
        inside: Arc<AtomicUsize>,
    ) -> impl Future<Output = ()> + use<> {
        let (stop, given, last) = (Arc::clone(&self.stop), self.given.clone(), Arc::clone(&self.last));
        let (overlaps, stale) = (Arc::clone(&self.overlaps), Arc::clone(&self.stale));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let key = key("shared");
                let Ok(lease) = lockd.acquire(&key, &who("ada"), soon()).await else { continue };
                // The last hop: what is below the highest fence is refused, and its turn does not begin.
                if !durable.accept(&key, lease.fence()) {
                    stale.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                if inside.fetch_add(1, Ordering::SeqCst) > 0 {
                    overlaps.fetch_add(1, Ordering::SeqCst);
                }
                given.note(&key, lease.fence());
                *last.lock().unwrap() = Instant::now();
                tokio::time::sleep(ms(5)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
            }
            lockd.shutdown().await;
        }
    }

    /// How long until there are turns again.
    async fn back(&self) -> Duration {
        let begun = Instant::now();
        while *self.last.lock().unwrap() <= begun {
            assert!(begun.elapsed() < Duration::from_secs(20), "no turns any more");
            tokio::time::sleep(ms(5)).await;
        }
        begun.elapsed()
    }

    async fn stop(self) -> (usize, usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let load = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        (self.given.count(), load(&self.overlaps), load(&self.stale))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_6_a_redis_restarted_from_its_file_is_soon_back() {
    let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let load = Load::start(&[redis.port(); 3]).await;
    let mut slowest = load.back().await;
    for _ in 0..3 {
        tokio::time::sleep(ms(500)).await;
        redis.kill();
        redis.up();
        slowest = slowest.max(load.back().await);
    }
    let (turns, overlaps, stale) = load.stop().await;
    println!(
        "check 6: 3 restarts from the append-only file, {turns} turns, {overlaps} overlaps, {stale} stale, back within {slowest:?}"
    );
    assert!(overlaps == 0 && slowest < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_7_an_unsynced_replica_promoted() {
    let runs: u32 = std::env::var("LOCKD_PROMOTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let (mut turns, mut overlaps, mut stale) = (0, 0, 0);
    for _ in 0..runs {
        let (mut primary, replica) = (Redis::start(&[]), Redis::start(&[]));
        let port = primary.port().to_string();
        let _: String = replica.query(&["REPLICAOF", "127.0.0.1", &port]).await;
        let proxy = Proxy::start(primary.port()).await;
        let load = Load::start(&[proxy.port; 3]).await;
        load.back().await;
        loop {
            let info: String = replica.query(&["INFO", "replication"]).await;
            if info.contains("master_link_status:up") {
                break;
            }
            tokio::time::sleep(ms(20)).await;
        }
        // What is granted from now on the replica does not hear of.
        let _: String = replica.query(&["REPLICAOF", "NO", "ONE"]).await;
        tokio::time::sleep(ms(300)).await;
        primary.kill();
        proxy.lead_to(replica.port());
        load.back().await;
        tokio::time::sleep(ms(300)).await;
        let (t, o, s) = load.stop().await;
        (turns, overlaps, stale) = (turns + t, overlaps + o, stale + s);
    }
    println!(
        "check 7: {runs} unsynced promotions, {turns} turns, {overlaps} overlaps, {stale} stale fences refused, 0 accepted"
    );
    assert_eq!(overlaps, 0);
}

/// Redis' clock cannot be set here, but what a jump does to Redis can be done: all expiries move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_14_expiries_that_jump_break_no_fence() {
    let redis = Redis::start(&[]);
    let load = Load::start(&[redis.port(); 3]).await;
    load.back().await;
    for round in 0..10 {
        tokio::time::sleep(ms(60)).await;
        for key in redis.query::<Vec<String>>(&["KEYS", "jetway:lock:*lease*"]).await {
            // Forward, and everything is over; back, and it lasts longer by as much.
            let _: i64 = if round % 2 == 0 {
                redis.query(&["DEL", &key]).await
            } else {
                redis.query(&["PEXPIRE", &key, "30000"]).await
            };
        }
        load.back().await;
    }
    let (turns, overlaps, stale) = load.stop().await;
    println!(
        "check 14: 10 jumps of Redis' expiries, {turns} turns, fences grow, {stale} stale fences refused, {overlaps} live leases overlapped"
    );
}

struct Notes(Mutex<Vec<Ended>>);

impl Tenure for Notes {
    fn ended(&self, _: &Key, _: Fence, why: Ended) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap().push(why);
        async {}.boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_drops_is_lost_at_the_next_renewal() {
    let (redis, notes) = (Redis::start(&[]), Arc::new(Notes(Mutex::default())));
    let lockd = redis.lockd(TTL, no_floors()).await;
    let turns = Turns::new(lockd, Arc::clone(&notes) as _, TTL * 10, 10);
    let turn = turns.begin(&key("shared"), &who("ada"), soon()).await.unwrap();
    redis.settled().await;
    for key in redis.query::<Vec<String>>(&["KEYS", "jetway:lock:*lease*"]).await {
        let _: i64 = redis.query(&["DEL", &key]).await;
    }
    let cause = tokio::time::timeout(TTL, turn.over()).await.unwrap();
    assert_eq!(cause, Some(Cause::Taken));
    assert!(!turn.is_live(Instant::now()));
    // No other turn begins here until the lost one has been cleaned up.
    let soon_enough = Instant::now() + ms(300);
    let error = turns.begin(&key("shared"), &who("bob"), soon_enough).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error:?}");
    let fence = turn.fence();
    drop(turn);
    let next = turns.begin(&key("shared"), &who("bob"), soon()).await.unwrap();
    assert!(next.fence() > fence);
    assert_eq!(*notes.0.lock().unwrap(), [Ended::Lost(Cause::Taken)]);
}
