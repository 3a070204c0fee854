//! Turns of a process under its leases.

use crate::{
    Store, TTL,
    common::{key, ms, soon, who},
    eventually,
};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use jetway_lockd::{AcquireError, Ended, Fence, Key, Tenure, Turns, no_floors};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

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

pub(crate) async fn a_session_is_handed_over_at_the_end_of_the_turn(store: Store) {
    let key = key("shared");
    let ((a, notes), (b, _)) = (gateway(&store, soon_idle()).await, gateway(&store, soon_idle()).await);
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = a.begin(&key, &who("ada"), soon()).await.unwrap();
    let mut tasks = Vec::new();
    for (turns, name, other) in [(&a, "a", "b"), (&b, "b", "a")] {
        for _ in 0..3 {
            let (turns, key, order) = (turns.clone(), key.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = turns.begin(&key, &who(name), soon()).await.unwrap();
                order.lock().unwrap().push((name, turn.fence()));
                // Until it is known here that the other one waits: how long that takes is not the question.
                let had = order.lock().unwrap().iter().filter(|(name, _)| *name == other).count();
                if had < 3 {
                    turn.wanted().await;
                }
            }));
        }
    }
    tokio::time::timeout(ms(20_000), first.wanted()).await.unwrap();
    drop(first);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap().clone();
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

pub(crate) async fn turns_under_a_held_lease_cost_no_command(store: Store) {
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

pub(crate) async fn a_session_without_turns_is_given_up(store: Store) {
    let key = key("shared");
    let ((a, notes), (b, _)) = (gateway(&store, ms(100)).await, gateway(&store, soon_idle()).await);
    drop(a.begin(&key, &who("ada"), soon()).await.unwrap());
    eventually(|| a.status().is_empty()).await;
    assert_eq!(notes.0.lock().unwrap()[0].1, Ended::Idle);
    drop(b.begin(&key, &who("bob"), soon()).await.unwrap());
    assert!(b.status()[0].fence.is_some());
    b.release(&key);
    eventually(|| b.status().is_empty()).await;
}

pub(crate) async fn a_turn_that_would_not_wait(store: Store) {
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

pub(crate) async fn a_tenure_ends_before_another_begins(store: Store) {
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

pub(crate) async fn who_waits_no_more_is_skipped(store: Store) {
    let key = key("shared");
    let (a, _) = gateway(&store, soon_idle()).await;
    let running = a.begin(&key, &who("ada"), soon()).await.unwrap();
    let begin = |user: &'static str, deadline| {
        let (a, key) = (a.clone(), key.clone());
        tokio::spawn(async move { a.begin(&key, &who(user), deadline).await })
    };
    let gone = begin("bob", soon());
    eventually(|| a.status()[0].waiting.len() == 1).await;
    // Long enough that all three wait before the first has left, on whatever machine.
    let late = begin("cyd", Instant::now() + ms(2_000));
    eventually(|| a.status()[0].waiting.len() == 2).await;
    let stays = begin("eve", soon());
    eventually(|| a.status()[0].waiting.len() == 3).await;
    gone.abort();
    eventually(|| a.status()[0].waiting.len() == 2).await;
    let error = late.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, AcquireError::TimedOut { place, .. }
        if place.ahead == 0 && place.holder == Some(who("ada"))),
        "{error:?}"
    );
    drop(running);
    assert_eq!(stays.await.unwrap().unwrap().who(), who("eve"));
    a.shutdown().await;
    assert!(matches!(a.begin(&key, &who("ada"), soon()).await, Err(AcquireError::Closed)));
}
