//! Holders, waiters and messages that get lost, with a real Redis.

mod common;

use common::{Durable, Redis, holder::Holder, key, ms, proxy::Proxy, settings, soon, who};
use jetway_lockd::{Cause, Fence, Lockd, no_floors, store::StoreError};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(2);

/// Not a test: the other process of the tests below.
#[tokio::test]
async fn holder_process() {
    common::holder::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_2_a_killed_holder_is_followed_within_its_ttl() {
    let redis = Redis::start(&[]);
    let lockd = redis.lockd(TTL, no_floors()).await;
    let holder = Holder::start(redis.port(), TTL);
    let fence = Fence::from_u64(holder.expect("held").parse().unwrap());
    let next = waiter(&lockd, "shared");
    in_line(&lockd).await;
    let killed = Instant::now();
    holder.signal(Signal::SIGKILL);
    let lease = next.await.unwrap();
    println!("check 2: next grant {:?} after kill -9 of the holder, ttl {TTL:?}", killed.elapsed());
    assert!(killed.elapsed() <= TTL + ms(1000) && lease.fence() > fence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_3_a_stopped_holder_sends_no_stale_frame() {
    let redis = Redis::start(&[]);
    let (lockd, durable) = (redis.lockd(TTL, no_floors()).await, Durable::default());
    let holder = Holder::start(redis.port(), TTL);
    let fence = Fence::from_u64(holder.expect("held").parse().unwrap());
    holder.expect("frame");
    let next = waiter(&lockd, "shared");
    in_line(&lockd).await;
    tokio::time::sleep(ms(100)).await;
    holder.signal(Signal::SIGSTOP);
    let lease = next.await.unwrap();
    assert!(lease.fence() > fence && durable.accept(&key("shared"), lease.fence()));
    tokio::time::sleep(TTL * 3).await;
    let before = holder.lines.try_iter().count();
    let continued = std::time::Instant::now();
    holder.signal(Signal::SIGCONT);
    let (mut sent, mut accepted, over) = (
        0,
        0,
        tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            loop {
                let (at, line) = holder.lines.recv_timeout(Duration::from_secs(10)).unwrap();
                let over = line.starts_with("over");
                lines.push((at, line));
                if over {
                    return lines;
                }
            }
        }),
    );
    for (at, line) in over.await.unwrap() {
        if let Some(fence) = line.strip_prefix("frame ").filter(|_| at > continued) {
            sent += 1;
            accepted += usize::from(durable.accept(&key("shared"), Fence::from_u64(fence.parse().unwrap())));
        } else if line.starts_with("over") {
            assert_eq!(line, "over Some(Stalled)");
        }
    }
    println!(
        "check 3: stopped for 3 ttl: {before} frames before, {sent} stale ones sent, {accepted} accepted"
    );
    // One may have been on its way between the look and the sending.
    assert!(sent <= 1 && accepted == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_4_cut_off_a_lease_is_lost_before_another_has_it() {
    let redis = Redis::start(&[]);
    let proxy = Proxy::start(redis.port()).await;
    let cut_off = Lockd::open(&common::locks(TTL), &settings(proxy.port), no_floors()).await.unwrap();
    let other = redis.lockd(TTL, no_floors()).await;
    let lease = cut_off.acquire(&key("shared"), &who("ada"), soon()).await.unwrap();
    tokio::time::sleep(TTL).await;
    assert!(lease.is_live(Instant::now()));
    let next = waiter(&other, "shared");
    in_line(&other).await;
    proxy.freeze(true);
    let frozen = Instant::now();
    let lost = tokio::spawn({
        let authority = lease.authority().clone();
        async move { (authority.valid_until(), authority.over().await, Instant::now()) }
    });
    let next = next.await.unwrap();
    let granted = Instant::now();
    let (until, cause, heard) = lost.await.unwrap();
    println!(
        "check 4: cut off, lost after {:?}, {:?} before the next grant; the signal came {:?} after the deadline",
        heard - frozen,
        granted - heard,
        heard.saturating_duration_since(until)
    );
    assert_eq!(cause, Some(Cause::Unreachable));
    assert!(heard < granted && next.fence() > lease.fence());
    // The way back does not bring it back.
    proxy.freeze(false);
    tokio::time::sleep(TTL).await;
    assert!(!lease.is_live(Instant::now()) && next.is_live(Instant::now()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_9_without_messages_the_timers_find_out() {
    let redis = Redis::start(&["--rename-command", "PUBLISH", "UNHEARD"]);
    let (a, b) = (redis.lockd(TTL, no_floors()).await, redis.lockd(TTL, no_floors()).await);
    let lease = a.acquire(&key("shared"), &who("ada"), soon()).await.unwrap();
    let next = waiter(&b, "shared");
    in_line(&b).await;
    tokio::time::timeout(TTL, lease.wanted()).await.expect("by the next renewal");
    let released = Instant::now();
    lease.release().await;
    let next = next.await.unwrap();
    println!("check 9: hand-off without its message {:?}, ttl {TTL:?}", released.elapsed());
    assert!(released.elapsed() <= TTL + ms(1000));
    drop(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_10_a_dead_head_waiter_is_skipped() {
    let redis = Redis::start(&[]);
    let lockd = redis.lockd(TTL, no_floors()).await;
    let lease = lockd.acquire(&key("shared"), &who("ada"), soon()).await.unwrap();
    let dead = Holder::start(redis.port(), TTL);
    dead.expect("waiting");
    tokio::time::timeout(Duration::from_secs(5), lease.wanted()).await.expect("it is in line");
    let next = waiter(&lockd, "shared");
    in_line(&lockd).await;
    assert_eq!(lockd.place(&key("shared")).unwrap().ahead, 1);
    dead.signal(Signal::SIGKILL);
    let released = Instant::now();
    lease.release().await;
    let _next = next.await.unwrap();
    println!("check 10: a dead head waiter was skipped within {:?}", released.elapsed());
    assert!(released.elapsed() <= ms(2000));
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused() {
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let error = Lockd::open(&common::locks(TTL), &redis.settings(), no_floors()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Evicts(policy) if policy == "allkeys-lru"), "{error}");
    println!("eviction: {error}");
}

/// A cluster of one refuses what is not in one slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_takes_the_scripts() {
    let redis = Redis::start(&["--cluster-enabled", "yes"]);
    let _: String = redis.query(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let ready = |info: String| info.contains("cluster_state:ok");
    while !ready(redis.query(&["CLUSTER", "INFO"]).await) {
        tokio::time::sleep(ms(20)).await;
    }
    let lockd = redis.lockd(TTL, no_floors()).await;
    let mut leases = Vec::new();
    for i in 0..40 {
        let lease = lockd.acquire(&key(&format!("s{i}")), &who("ada"), soon()).await.unwrap();
        leases.push(lease);
    }
    let next = waiter(&lockd, "s7");
    in_line(&lockd).await;
    tokio::time::sleep(TTL).await;
    assert!(leases.iter().all(|lease| lease.is_live(Instant::now())), "renewed in batches");
    drop(leases);
    drop(next.await.unwrap());
    lockd.shutdown().await;
    println!("cluster: 40 sessions' leases taken, waited for, renewed and given back, each in one slot");
}

#[tokio::test]
async fn no_redis_is_said_at_once() {
    let begun = Instant::now();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Lockd::open(&common::locks(TTL), &settings(port), no_floors()).await.unwrap_err();
    assert!(matches!(error, StoreError::Connect(_)) && begun.elapsed() < ms(2000), "{error}");
}

fn waiter(lockd: &Lockd, session: &str) -> tokio::task::JoinHandle<jetway_lockd::Lease> {
    let (lockd, key) = (lockd.clone(), key(session));
    tokio::spawn(async move { lockd.acquire(&key, &who("next"), soon()).await.unwrap() })
}

async fn in_line(lockd: &Lockd) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lockd.status().waiting.iter().all(|waiting| waiting.place.is_none()) {
        assert!(Instant::now() < deadline, "not in line");
        tokio::time::sleep(ms(2)).await;
    }
}
