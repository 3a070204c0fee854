//! Worn processes of users' own, with the real `copilot-runtime`: replaced when nobody uses them, and never before.

mod common;

use std::time::{Duration, Instant};

use common::{MANY, nothing_outside, runtime, settings, until, who};
use jetway_config::{ByteSize, Limits, Share, pool::Pool as Settings, recycle::Recycle};
use jetway_pool::{Attachment, Cause, DrainReason, Gone, Pool, ServerState, StopReason};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const RECYCLED: Gone = Gone::Stopped(StopReason::Drained(DrainReason::Recycle));

async fn start(change: impl FnOnce(&mut Settings)) -> (Pool, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(runtime(), dir.path());
    change(&mut settings);
    let pool = Pool::start(&settings, &Limits::default(), nothing_outside()).await;
    (pool.unwrap_or_else(|e| panic!("{e}; `deploy/setup test` installs it")), dir)
}

async fn stop(pool: &Pool) {
    pool.shutdown(Instant::now() + Duration::from_secs(10)).await;
}

/// Waits until a process is left for that reason; it goes on as long as it is used, and is replaced then.
async fn is_replaced(pool: &Pool, at: Attachment, cause: Cause) {
    let row = || pool.status().into_iter().find(|s| s.id == *at.id()).unwrap();
    until("it is left", || row().draining == Some(DrainReason::Recycle)).await;
    assert_eq!((row().state, row().worn), (ServerState::Draining, Some(cause)));
    assert_eq!(at.gone(), None, "somebody uses it");
    let (who, old) = (who(at.id().as_str()), at.server().clone());
    drop(at);
    until("it is stopped", || old.gone().is_some()).await;
    assert_eq!(old.gone(), Some(RECYCLED));
    let new = pool.home(&who, MANY).await.unwrap();
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!(row_of(pool, &new).worn, None);
}

fn row_of(pool: &Pool, at: &Attachment) -> jetway_pool::ServerStatus {
    pool.status().into_iter().find(|s| s.id == *at.id()).unwrap()
}

#[tokio::test]
async fn one_that_has_served_its_turns_or_sessions() {
    let rules = Recycle { max_turns: Some(3), max_sessions: Some(2), ..Recycle::default() };
    let (pool, _dir) = start(|s| s.recycle = rules).await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    (0..3).for_each(|_| ada.served_turn());
    is_replaced(&pool, ada, Cause::Turns).await;
    let bob = pool.home(&who("acme/bob"), MANY).await.unwrap();
    (0..2).for_each(|_| bob.served_session());
    is_replaced(&pool, bob, Cause::Sessions).await;
    stop(&pool).await;
}

#[tokio::test]
async fn one_that_is_old() {
    let rules = Recycle { max_age: Some(Duration::from_secs(1)), ..Recycle::default() };
    let (pool, _dir) = start(|s| s.recycle = rules).await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    is_replaced(&pool, ada, Cause::Age).await;
    stop(&pool).await;
}

#[tokio::test]
async fn one_that_is_big() {
    // Less than a runtime holds before it does anything is below what the configuration takes.
    let rules = Recycle { max_rss: Some(ByteSize(1 << 20)), ..Recycle::default() };
    let (pool, _dir) = start(|s| s.recycle = rules).await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    let old = ada.server().clone();
    until("it is left", || row_of(&pool, &ada).worn == Some(Cause::Memory)).await;
    drop(ada);
    until("it is stopped", || old.gone() == Some(RECYCLED)).await;
    stop(&pool).await;
}

#[tokio::test]
async fn one_that_grew_slow() {
    let rules = Recycle { latency_factor: Some(3.0), ..Recycle::default() };
    let (pool, _dir) = start(|s| s.recycle = rules).await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    (0..30).for_each(|_| ada.spoke_after(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(row_of(&pool, &ada).worn, None);
    (0..30).for_each(|_| ada.spoke_after(Duration::from_secs(17)));
    is_replaced(&pool, ada, Cause::Latency).await;
    stop(&pool).await;
}

#[tokio::test]
async fn one_that_hangs() {
    let (pool, _dir) = start(|s| {
        s.process.ping_interval = Duration::from_millis(200);
        s.health.failures = 3;
    })
    .await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    until("it is pinged", || row_of(&pool, &ada).rtt.is_some()).await;
    let pid = Pid::from_raw(ada.pid().unwrap().cast_signed());
    // A moment of silence is no hanging.
    kill(pid, Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    kill(pid, Signal::SIGCONT).unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(row_of(&pool, &ada).worn, None);
    kill(pid, Signal::SIGSTOP).unwrap();
    is_replaced(&pool, ada, Cause::Hung).await;
    stop(&pool).await;
}

#[tokio::test]
async fn not_all_at_once() {
    let rules = Recycle { max_turns: Some(1), share: Share::percent(40), ..Recycle::default() };
    let (pool, _dir) = start(|s| s.recycle = rules).await;
    let mut all = Vec::new();
    for n in 0..5 {
        let at = pool.home(&who(&format!("acme/user-{n}")), MANY).await.unwrap();
        at.served_turn();
        all.push(at);
    }
    let leaving = || pool.status().iter().filter(|s| s.draining.is_some()).count();
    until("some are left", || leaving() == 2).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(leaving(), 2, "two of five are forty per cent");
    assert!(pool.status().iter().all(|s| s.worn == Some(Cause::Turns)), "all of them are to be");
    // With those gone it is the others' turn.
    let (gone, mut stay): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|at| row_of(&pool, at).draining.is_some());
    drop(gone);
    until("the next are left", || stay.iter().filter(|at| row_of(&pool, at).draining.is_some()).count() == 2)
        .await;
    stay.clear();
    stop(&pool).await;
}

#[tokio::test]
async fn a_tenant_makes_room_among_its_own() {
    let (pool, _dir) = start(|_| {}).await;
    let [ada, bob, cyd] = ["acme/ada", "acme/bob", "acme/cyd"].map(who);
    let others = pool.home(&who("umbrella/una"), 2).await.unwrap();
    let others = others.server().clone();
    let at_ada = pool.home(&ada, 2).await.unwrap();
    let at_bob = pool.home(&bob, 2).await.unwrap();
    let full = pool.home(&cyd, 2).await.unwrap_err();
    assert_eq!(full.to_string(), "all of 2 CLI processes of the tenant are in use");
    let bobs = at_bob.server().clone();
    drop(at_bob);
    let at_cyd = pool.home(&cyd, 2).await.unwrap();
    until("bob's makes room", || bobs.gone() == Some(Gone::Stopped(StopReason::Evicted))).await;
    assert_eq!((others.gone(), at_ada.gone()), (None, None));
    // A tenant that may have fewer than it has: what it does not use goes, the rest is told of.
    drop(at_ada);
    assert_eq!(pool.trim(|_| 1), []);
    until("one is stopped", || pool.status().len() == 2).await;
    assert_eq!(pool.trim(|t| if t.as_str() == "acme" { 0 } else { 1 }), [("acme".parse().unwrap(), 1)]);
    assert_eq!((others.gone(), at_cyd.gone()), (None, None));
    stop(&pool).await;
}
