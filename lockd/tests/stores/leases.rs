//! Leases between processes.

use crate::{
    Store, TTL,
    common::{Durable, key, ms, percentile, soon, who},
    waiting,
};
use futures_util::future::join_all;
use jetway_lockd::{AcquireError, Fence, no_floors};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Check 1 (the part that is this crate's): 3 processes, 1 session.
pub(crate) async fn contended_turns_never_overlap_and_fences_grow(store: Store) {
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
pub(crate) async fn a_hundred_waiters_are_served_first_come_first_served(store: Store) {
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

pub(crate) async fn who_leaves_the_line_is_skipped(store: Store) {
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

pub(crate) async fn busy_and_timed_out_say_where_one_stood(store: Store) {
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

pub(crate) async fn the_holder_hears_that_another_process_waits(store: Store) {
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

pub(crate) async fn fences_are_above_what_is_stored_durably(store: Store) {
    let (key, durable) = (key("shared"), Durable::default());
    durable.accept(&key, Fence::new(7, 70));
    let lockd = store.process(durable.floors()).await;
    let first = lockd.acquire(&key, &who("ada"), soon()).await.unwrap().fence();
    let second = lockd.acquire(&key, &who("ada"), soon()).await.unwrap().fence();
    assert!(first > Fence::new(7, 70) && second > first, "{first} {second}");
}

pub(crate) async fn shutdown_waits_for_what_was_dropped(store: Store) {
    let key = key("shared");
    let (a, b) = (store.process(no_floors()).await, store.process(no_floors()).await);
    drop(a.acquire(&key, &who("ada"), soon()).await.unwrap());
    a.shutdown().await;
    b.acquire(&key, &who("bob"), Instant::now()).await.expect("given back by now").release().await;
    assert!(matches!(a.acquire(&key, &who("ada"), soon()).await, Err(AcquireError::Closed)));
}
