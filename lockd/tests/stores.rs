//! What holds for leases and turns, whichever store keeps them: one suite, run for both.

mod common;

use common::{Durable, Redis, key, locks, ms, percentile, soon, who};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use jetway_lockd::{
    AcquireError, Ended, Fence, Floors, Key, Lockd, Tenure, Turns, no_floors, store::MemoryStore,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(2);

enum Store {
    Memory(MemoryStore),
    Redis(Redis),
}

impl Store {
    fn memory() -> Self {
        Self::Memory(MemoryStore::new(TTL))
    }

    /// A Redis whose first pause is over.
    async fn redis() -> Self {
        let redis = Redis::start(&[]);
        redis.lockd(TTL, no_floors()).await.shutdown().await;
        redis.settled().await;
        Self::Redis(redis)
    }

    async fn process(&self, floors: Floors) -> Lockd {
        match self {
            Self::Memory(store) => Lockd::over(store, &locks(TTL), floors),
            Self::Redis(redis) => redis.lockd(TTL, floors).await,
        }
    }

    async fn commands(&self) -> Option<u64> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => Some(redis.scripts_called().await),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Store::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Store::redis().await).await;
            })*
        }
    };
}

suite!(
    contended_turns_never_overlap_and_fences_grow,
    a_hundred_waiters_are_served_first_come_first_served,
    who_leaves_the_line_is_skipped,
    busy_and_timed_out_say_where_one_stood,
    the_holder_hears_that_another_process_waits,
    fences_are_above_what_is_stored_durably,
    shutdown_waits_for_what_was_dropped,
    a_session_is_handed_over_at_the_end_of_the_turn,
    turns_under_a_held_lease_cost_no_command,
    a_session_without_turns_is_given_up,
    a_turn_that_would_not_wait,
    a_tenure_ends_before_another_begins,
);

/// Check 1 (the part that is this crate's): 3 processes, 1 session.
async fn contended_turns_never_overlap_and_fences_grow(store: Store) {
    let each: usize = std::env::var("LOCKD_TURNS").ok().and_then(|n| n.parse().ok()).unwrap_or(999) / 9;
    let (key, durable) = (key("shared"), Durable::default());
    let (inside, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(store.process(durable.floors()).await);
    }
    let begun = Instant::now();
    join_all((0..9).map(|i| {
        let (lockd, key, durable) = (processes[i % 3].clone(), key.clone(), durable.clone());
        let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
        tokio::spawn(async move {
            for _ in 0..each {
                let lease = lockd.acquire(&key, &who("ada"), soon()).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "overlap");
                let fence = lease.fence().to_u64();
                assert!(last.swap(fence, Ordering::SeqCst) < fence, "fences grow");
                assert!(durable.accept(&key, lease.fence()) && lease.is_live(Instant::now()));
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(lease);
            }
        })
    }))
    .await
    .into_iter()
    .for_each(|task| task.unwrap());
    let turns = 9 * each;
    println!(
        "check 1 ({}): {turns} contended turns by 3 processes in {:?}, 0 overlaps, fences grow",
        store.name(),
        begun.elapsed()
    );
}

/// Checks 8 and 9.
async fn a_hundred_waiters_are_served_first_come_first_served(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    let held = a.acquire(&key, &who("ada"), soon()).await.unwrap();
    let (order, handed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Instant::now())));
    let mut waiters = Vec::new();
    for i in 0..100 {
        let (lockd, at) = (if i % 2 == 0 { &a } else { &b }.clone(), key.clone());
        let (order, handed) = (Arc::clone(&order), Arc::clone(&handed));
        waiters.push(tokio::spawn(async move {
            let lease = lockd.acquire(&at, &who("bob"), soon()).await.unwrap();
            let took = handed.lock().unwrap().elapsed();
            order.lock().unwrap().push(i);
            *handed.lock().unwrap() = Instant::now();
            drop(lease);
            took
        }));
        // In line before the next one comes.
        while a.status().waiting.iter().chain(&b.status().waiting).filter(|w| w.place.is_some()).count() <= i
        {
            tokio::time::sleep(ms(1)).await;
        }
    }
    let idle = ms(4000);
    let before = store.commands().await;
    tokio::time::sleep(idle).await;
    let cost = store.commands().await.zip(before).map(|(after, before)| after - before);
    // With this ttl; a waiter looks once in a ttl, so with the default one (10 s) five times less.
    let per_waiter = cost.map(|cost| cost as f64 / 100.0 / idle.as_secs_f64() * (TTL.as_secs_f64() / 10.0));

    *handed.lock().unwrap() = Instant::now();
    let before = store.commands().await;
    drop(held);
    let mut times = Vec::new();
    for waiter in waiters {
        times.push(waiter.await.unwrap());
    }
    let cost = store.commands().await.zip(before).map(|(after, before)| after - before);
    assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>(), "first come first served");
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!(
        "check 8 ({0}): 100 waiters served in order; idle waiter {per_waiter:.3?} commands/s at ttl 10 s\n\
         check 9 ({0}): hand-off p50 {p50:.3} ms, p99 {p99:.3} ms; {cost:?} commands for 100 grants and 101 releases",
        store.name(),
    );
    if let Some(per_waiter) = per_waiter {
        assert!(per_waiter <= 0.2, "{per_waiter}");
    }
}

async fn who_leaves_the_line_is_skipped(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    let held = a.acquire(&key, &who("ada"), soon()).await.unwrap();
    let leaver = tokio::spawn({
        let (b, key) = (b.clone(), key.clone());
        async move { b.acquire(&key, &who("bob"), soon()).await }
    });
    waiting(&b, 1).await;
    let stayer = tokio::spawn({
        let (a, key) = (a.clone(), key.clone());
        async move { a.acquire(&key, &who("eve"), soon()).await }
    });
    waiting(&a, 1).await;
    assert_eq!(a.place(&key).unwrap().ahead, 1);
    leaver.abort();
    waiting(&b, 0).await;
    let begun = Instant::now();
    drop(held);
    let lease = stayer.await.unwrap().unwrap();
    assert!(begun.elapsed() < ms(1000), "not after the offer of one who left: {:?}", begun.elapsed());
    assert_eq!(lease.who(), who("eve"));
}

async fn busy_and_timed_out_say_where_one_stood(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    let _held = a.acquire(&key, &who("ada"), soon()).await.unwrap();
    let AcquireError::Busy(place) = b.acquire(&key, &who("bob"), Instant::now()).await.unwrap_err() else {
        panic!("no busy")
    };
    assert_eq!((place.ahead, place.holder), (0, Some(who("ada"))));
    assert!(place.left > Duration::ZERO && place.left <= TTL);
    let error = b.acquire(&key, &who("bob"), Instant::now() + ms(200)).await.unwrap_err();
    let AcquireError::TimedOut { after, place } = error else { panic!("{error:?}") };
    assert_eq!((place.ahead, place.holder), (0, Some(who("ada"))));
    assert!(after >= ms(200) && after < ms(1200), "{after:?}");
}

async fn the_holder_hears_that_another_process_waits(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    let held = a.acquire(&key, &who("ada"), soon()).await.unwrap();
    assert!(!held.is_wanted());
    let waiter = tokio::spawn({
        let (b, key) = (b.clone(), key.clone());
        async move { b.acquire(&key, &who("bob"), soon()).await }
    });
    tokio::time::timeout(ms(500), held.wanted()).await.expect("by a message, not by the next renewal");
    // Renewed all the while.
    tokio::time::sleep(TTL * 2).await;
    assert!(held.is_live(Instant::now()));
    let fence = held.fence();
    held.release().await;
    assert!(waiter.await.unwrap().unwrap().fence() > fence);
}

async fn fences_are_above_what_is_stored_durably(store: Store) {
    let (key, durable) = (key("shared"), Durable::default());
    durable.accept(&key, Fence::new(7, 70));
    let lockd = store.process(durable.floors()).await;
    let first = lockd.acquire(&key, &who("ada"), soon()).await.unwrap().fence();
    let second = lockd.acquire(&key, &who("ada"), soon()).await.unwrap().fence();
    assert!(first > Fence::new(7, 70) && second > first, "{first} {second}");
}

async fn shutdown_waits_for_what_was_dropped(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    drop(a.acquire(&key, &who("ada"), soon()).await.unwrap());
    a.shutdown().await;
    b.acquire(&key, &who("bob"), Instant::now()).await.expect("given back by now").release().await;
    assert!(matches!(a.acquire(&key, &who("ada"), soon()).await, Err(AcquireError::Closed)));
}

/// Notes when tenures end.
#[derive(Default)]
struct Notes(Mutex<Vec<(Fence, Ended)>>);

impl Tenure for Notes {
    fn ended(&self, _: &Key, fence: Fence, why: Ended) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap().push((fence, why));
        async {}.boxed()
    }
}

async fn gateway(store: &Store, idle: Duration) -> (Turns, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    (Turns::new(store.process(no_floors()).await, Arc::clone(&notes) as _, idle, 100), notes)
}

async fn a_session_is_handed_over_at_the_end_of_the_turn(store: Store) {
    let key = key("shared");
    let ((a, notes), (b, _)) = (gateway(&store, soon_idle()).await, gateway(&store, soon_idle()).await);
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = a.begin(&key, &who("ada"), soon()).await.unwrap();
    let mut tasks = Vec::new();
    for (turns, name, n) in [(&a, "a", 3), (&b, "b", 3)] {
        for i in 0..n {
            let (turns, key, order) = (turns.clone(), key.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = turns.begin(&key, &who(name), soon()).await.unwrap();
                order.lock().unwrap().push((name, turn.fence()));
                tokio::time::sleep(ms(30)).await;
            }));
            tokio::time::sleep(ms(20 + i)).await;
        }
    }
    tokio::time::timeout(ms(500), first.wanted()).await.unwrap();
    drop(first);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap();
    let names: String = order.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, "bababa", "turn about, whoever has more in line");
    assert!(order.is_sorted_by(|x, y| x.1 < y.1), "{order:?}");
    assert_eq!(notes.0.lock().unwrap().first().map(|(_, why)| *why), Some(Ended::Wanted));
    println!("fairness ({}): turns of two gateways alternate: {names}", store.name());
    a.shutdown().await;
    b.shutdown().await;
}

fn soon_idle() -> Duration {
    Duration::from_secs(20)
}

async fn turns_under_a_held_lease_cost_no_command(store: Store) {
    let key = key("shared");
    let (a, _) = gateway(&store, soon_idle()).await;
    let fence = a.begin(&key, &who("ada"), soon()).await.unwrap().fence();
    let before = store.commands().await;
    let begun = Instant::now();
    for _ in 0..200 {
        assert_eq!(a.begin(&key, &who("ada"), soon()).await.unwrap().fence(), fence);
    }
    let took = begun.elapsed();
    let cost = store.commands().await.zip(before).map(|(after, before)| after - before);
    let renewals = (took.as_secs_f64() / (TTL / 3).as_secs_f64()).ceil() as u64;
    println!("held lease ({}): 200 turns in {took:?}, {cost:?} commands", store.name());
    assert!(cost.is_none_or(|cost| cost <= renewals), "{cost:?}, renewals alone would be {renewals}");
    a.shutdown().await;
}

async fn a_session_without_turns_is_given_up(store: Store) {
    let key = key("shared");
    let ((a, notes), (b, _)) = (gateway(&store, ms(100)).await, gateway(&store, soon_idle()).await);
    drop(a.begin(&key, &who("ada"), soon()).await.unwrap());
    common_eventually(|| a.status().is_empty()).await;
    assert_eq!(notes.0.lock().unwrap()[0].1, Ended::Idle);
    drop(b.begin(&key, &who("bob"), soon()).await.unwrap());
    assert!(b.status()[0].fence.is_some());
    b.release(&key);
    common_eventually(|| b.status().is_empty()).await;
}

async fn a_turn_that_would_not_wait(store: Store) {
    let key = key("shared");
    let ((a, _), (b, _)) = (gateway(&store, soon_idle()).await, gateway(&store, soon_idle()).await);
    let running = a.begin(&key, &who("ada"), soon()).await.unwrap();
    // In this process, at once.
    let begun = Instant::now();
    let error = a.begin(&key, &who("bob"), Instant::now()).await.unwrap_err();
    assert!(begun.elapsed() < ms(200));
    assert!(matches!(&error, AcquireError::Busy(p) if p.holder == Some(who("ada"))), "{error:?}");
    // In another, once it is sure that a turn runs there.
    let error = b.begin(&key, &who("bob"), Instant::now()).await.unwrap_err();
    assert!(matches!(&error, AcquireError::Busy(p) if p.holder == Some(who("ada"))), "{error:?}");
    drop(running);
    // Had, but not used, elsewhere: handed over.
    drop(b.begin(&key, &who("bob"), Instant::now()).await.unwrap());
    a.shutdown().await;
    b.shutdown().await;
}

/// Closing a session takes its time: nobody else may have it meanwhile.
#[derive(Default)]
struct SlowClose {
    open: Arc<AtomicUsize>,
}

impl Tenure for SlowClose {
    fn ended(&self, _: &Key, _: Fence, _: Ended) -> BoxFuture<'static, ()> {
        let open = Arc::clone(&self.open);
        async move {
            tokio::time::sleep(ms(50)).await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
        .boxed()
    }
}

async fn a_tenure_ends_before_another_begins(store: Store) {
    let (key, open) = (key("shared"), Arc::new(AtomicUsize::new(0)));
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let tenure = Arc::new(SlowClose { open: Arc::clone(&open) });
        gateways.push(Turns::new(store.process(no_floors()).await, tenure, soon_idle(), 100));
    }
    let tasks = (0..12).map(|i| {
        let (turns, key, open) = (gateways[i % 3].clone(), key.clone(), Arc::clone(&open));
        tokio::spawn(async move {
            static LAST: AtomicU64 = AtomicU64::new(0);
            let turn = turns.begin(&key, &who("ada"), soon()).await.unwrap();
            // The first turn of a tenure opens the session.
            if LAST.swap(turn.fence().to_u64(), Ordering::SeqCst) != turn.fence().to_u64() {
                assert_eq!(open.fetch_add(1, Ordering::SeqCst), 0, "open elsewhere");
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    for turns in gateways {
        turns.shutdown().await;
    }
    assert_eq!(open.load(Ordering::SeqCst), 0);
}

async fn waiting(lockd: &Lockd, n: usize) {
    common_eventually(|| lockd.status().waiting.iter().filter(|w| w.place.is_some()).count() == n).await;
}

async fn common_eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain");
        tokio::time::sleep(ms(2)).await;
    }
}
