//! The session directory, in SQLite and in Redis: the same for both.

mod claims;
mod crash;
mod marks;
mod migrations;
mod model;
mod people;
mod store;

use std::time::{Duration, Instant};

use jetway_config::{Identity, SessionId};
use jetway_gateway::directory::{
    ChangeError, ClaimError, Directory, Entry, FenceError, Key, Lifetime, List, MAX_MEMBERS, MAX_RECORDS,
    Member, MoveError, New, OpenError, Place, Resolution, Role, Status, StoreError, UnixMs,
};

use claims::*;
use marks::*;
use migrations::*;
use people::*;
use store::Store;

/// Each test, once for each store.
macro_rules! both {
    ($($test:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Store::sqlite()).await; })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(store) = super::Store::redis(stringify!($test)) { super::$test(store).await; }
            })+
        }
    };
}

both! {
    one_of_many_claimers_wins
    an_owner_may_claim_again_and_again
    ids_are_taken_where_they_are_shared
    claims_are_given_up
    others_find_nothing
    members_come_and_go
    references_mean_one_or_several
    pages_are_stable
    moves_need_the_epoch
    fences_only_rise
    records_are_kept_apart
    there_are_bounds
    all_is_there_after_a_crash
    two_gateways_see_the_same
    lifetimes_end
    a_name_stands_for_one_request
    the_oldest_names_make_room
    what_was_there_is_brought_up_to_date
    what_is_of_a_later_version_is_left_alone
    how_long_it_takes
}

fn who(name: &str) -> Identity {
    let (tenant, user) = name.split_once('/').unwrap();
    Identity { tenant: tenant.parse().unwrap(), user: user.parse().unwrap() }
}

fn id(id: &str) -> SessionId {
    id.parse().unwrap()
}

fn key(owner: &str, name: &str) -> Key {
    Key { owner: who(owner), id: id(name) }
}

fn shared(server: &str) -> Place {
    Place { server: server.to_owned(), group: None, exclusive: false }
}

fn own(owner: &str) -> Place {
    Place { server: owner.to_owned(), group: None, exclusive: true }
}

fn member(user: &str, role: Role) -> Member {
    Member { user: user.parse().unwrap(), role }
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|e| e.key.id.as_str()).collect()
}

fn new(place: &Place) -> New {
    New { place: place.clone(), ephemeral: false, most: 10_000 }
}

const T: UnixMs = UnixMs(1_700_000_000_000);

fn later(ms: u64) -> UnixMs {
    UnixMs(T.0 + ms)
}

/// A confirmed session on a server of the owner's.
async fn make(d: &Directory, owner: &str, name: &str, at: UnixMs) -> Key {
    let key = key(owner, name);
    assert!(d.claim(&key, &new(&own(owner)), at).await.unwrap().fresh);
    d.confirm(&key, at).await.unwrap();
    key
}

async fn fences_only_rise(mut store: Store) {
    let d = store.open().await;
    let key = make(&d, "acme/ada", "s-1", T).await;
    let high = (2 << 32) + 7;
    for fence in [5, 5, high] {
        d.record_fence(&key, fence).await.unwrap();
    }
    d.close().await;
    store.crash();
    let d = store.open().await;
    let refused = d.record_fence(&key, high - 1).await;
    assert!(matches!(refused, Err(FenceError::Superseded { highest }) if highest == high));
    d.record_fence(&key, (1 << 53) - 1).await.unwrap();
    assert_eq!(d.find(&key.owner, &key.id).await.unwrap().unwrap().fence, (1 << 53) - 1);
    let unknown = Key { id: id("s-9"), ..key };
    assert!(matches!(d.record_fence(&unknown, 1).await, Err(FenceError::NotFound)));
}

/// What is over is given out once, and again if nobody has seen to it.
async fn lifetimes_end(store: Store) {
    let (d, other) = (store.open().await, store.open().await);
    let [timed, unused, both] = ["timed", "unused", "both"];
    for name in [timed, unused, both] {
        make(&d, "acme/ada", name, T).await;
    }
    make(&d, "acme/bob", "for-ever", T).await;
    let set = async |name, ends: Option<u64>, unused_for| {
        let lifetime = Lifetime { ends: ends.map(later), unused_for };
        d.set_note(&key("acme/ada", name), Some("note"), lifetime, T).await.unwrap();
    };
    set(timed, Some(100), None).await;
    set(unused, None, Some(50)).await;
    set(both, Some(80), Some(1 << 60)).await;
    let due = async |d: &Directory, at, again| d.take_due(later(at), later(again), 10).await.unwrap();
    assert!(due(&d, 49, 500).await.is_empty());
    d.touch(&[key("acme/ada", unused), key("acme/ada", timed)], later(40)).await.unwrap();
    assert!(due(&d, 79, 500).await.is_empty(), "its last use was later");
    assert_eq!(ids(&due(&d, 100, 500).await), [both, unused, timed]);
    assert!(due(&other, 100, 500).await.is_empty(), "one gateway sees to it");
    d.set_status(&key("acme/ada", both), Status::Terminated, Some("timeout"), later(101)).await.unwrap();
    d.touch(&[key("acme/ada", unused)], later(470)).await.unwrap();
    assert_eq!(ids(&due(&other, 500, 900).await), [timed], "nobody has");
    assert_eq!(d.take_due(later(5000), later(9000), 1).await.unwrap().len(), 1);
    // The id is free for another, which has no end of its own.
    assert!(d.claim(&key("acme/ada", both), &new(&own("acme/ada")), later(6000)).await.unwrap().fresh);
    d.set_note(&key("acme/ada", timed), None, Lifetime::default(), later(6000)).await.unwrap();
    assert_eq!(ids(&due(&d, 1 << 50, 1 << 51).await), [unused]);
}

async fn records_are_kept_apart(store: Store) {
    let d = store.open().await;
    let key = key("acme/ada", "s-1");
    d.claim(&key, &new(&shared("a:1")), T).await.unwrap();
    d.confirm(&key, T).await.unwrap();
    d.set_members(&key, &[member("bob", Role::Owner)], T).await.unwrap();
    d.record_fence(&key, 9).await.unwrap();
    d.set_status(&key, Status::Failed, Some("lost"), later(1)).await.unwrap();
    let failed = d.find(&key.owner, &key.id).await.unwrap().unwrap();
    assert_eq!((failed.reason.as_deref(), failed.ended), (Some("lost"), Some(later(1))));
    d.set_status(&key, Status::Running, None, later(2)).await.unwrap();
    assert_eq!(d.find(&key.owner, &key.id).await.unwrap().unwrap().ended, None);

    d.set_status(&key, Status::Terminated, Some(&"é".repeat(200)), later(3)).await.unwrap();
    for who in [&key.owner, &who("acme/bob")] {
        assert_eq!(d.find(who, &key.id).await.unwrap(), None);
    }
    let list = List { status: Some(Status::Terminated), ..List::default() };
    let records = d.list(&key.owner, &list).await.unwrap().entries;
    assert_eq!((records[0].ended, records[0].members.len()), (Some(later(3)), 0));
    assert_eq!(records[0].reason, Some("é".repeat(128)));
    assert_eq!(d.list(&who("acme/bob"), &list).await.unwrap().entries, []);
    assert!(matches!(d.rename(&key, None, later(4)).await, Err(ChangeError::NotFound)));
    assert!(matches!(d.record_fence(&key, 10).await, Err(FenceError::NotFound)));
    assert!(!d.release(&key).await.unwrap());

    // The id is free for others there; and its owner's next session goes on from epoch and fence.
    let eve = key_of("globex/eve");
    assert!(d.claim(&eve, &new(&shared("a:1")), later(5)).await.unwrap().fresh);
    let again = d.claim(&key, &new(&shared("b:1")), later(6)).await.unwrap();
    assert!(again.fresh);
    assert_eq!((again.entry.epoch, again.entry.fence, again.entry.created), (2, 9, later(6)));
    assert_eq!((again.entry.members.len(), again.entry.ended, again.entry.name), (0, None, None));
}

fn key_of(owner: &str) -> Key {
    key(owner, "s-1")
}

async fn there_are_bounds(store: Store) {
    let d = store.open().await;
    let party = make(&d, "acme/bob", "party", T).await;
    let crowd: Vec<Member> = (0..MAX_MEMBERS).map(|n| member(&format!("u{n}"), Role::Viewer)).collect();
    d.set_members(&party, &crowd, T).await.unwrap();
    d.set_members(&party, &crowd, T).await.unwrap();
    let one_more = d.set_members(&party, &[member("late", Role::Viewer)], T).await;
    assert!(matches!(one_more, Err(ChangeError::Full)));
    d.touch(std::slice::from_ref(&party), later(1)).await.unwrap();

    for n in 0..=MAX_RECORDS as u64 {
        let key = make(&d, "acme/eve", &format!("s-{n}"), later(n)).await;
        d.set_status(&key, Status::Terminated, None, later(n)).await.unwrap();
    }
    let eve = who("acme/eve");
    let exists = async |name| d.resolve(&eve, name).await.unwrap() != Resolution::None;
    assert!(!exists("s-0").await && exists("s-1").await && exists("s-1000").await);

    let three = New { most: 3, ..new(&own("acme/ada")) };
    let claim = async |n: u32| d.claim(&key("acme/ada", &format!("s-{n}")), &three, T).await;
    for n in 0..3 {
        assert!(claim(n).await.unwrap().fresh);
    }
    assert!(matches!(claim(3).await, Err(ClaimError::Full)));
    assert!(!claim(2).await.unwrap().fresh);
    // Each way for one to go makes room for one.
    let first = key("acme/ada", "s-0");
    d.set_status(&first, Status::Terminated, None, T).await.unwrap();
    assert!(claim(3).await.unwrap().fresh);
    assert!(matches!(claim(4).await, Err(ClaimError::Full)));
    assert!(d.forget(&first).await.unwrap());
    assert!(matches!(claim(4).await, Err(ClaimError::Full)));
    assert!(d.release(&key("acme/ada", "s-1")).await.unwrap());
    assert!(claim(4).await.unwrap().fresh);
    assert!(matches!(claim(0).await, Err(ClaimError::Full)));

    // Many orphans go in several steps, and a page has an end.
    for n in 0..1100 {
        d.claim(&key("acme/dee", &format!("s-{n}")), &new(&shared("a:1")), T).await.unwrap();
    }
    let all = d.list(&who("acme/dee"), &List { limit: 9999, ..List::default() }).await.unwrap();
    assert_eq!((all.entries.len(), all.next.is_some()), (500, true));
    assert_eq!(d.release_orphans(later(1)).await.unwrap(), 1103);
}

async fn all_is_there_after_a_crash(mut store: Store) {
    let d = store.open().await;
    let key = make(&d, "acme/ada", "s-1", T).await;
    let grouped = Place { group: Some("shared-a".into()), ..shared("a:1") };
    d.move_to(&key, 1, &grouped, later(1)).await.unwrap();
    d.rename(&key, Some(&"Kept".parse().unwrap()), later(2)).await.unwrap();
    d.set_members(&key, &[member("bob", Role::Member)], later(3)).await.unwrap();
    d.set_note(&key, Some("kept as well"), Lifetime::default(), later(3)).await.unwrap();
    d.set_status(&key, Status::Completed, Some("done"), later(4)).await.unwrap();
    d.touch(std::slice::from_ref(&key), later(5)).await.unwrap();
    d.record_fence(&key, 3).await.unwrap();
    let before = d.find(&who("acme/bob"), &key.id).await.unwrap().unwrap();
    store.crash();

    // Whoever had it open goes on; whoever opens it sees the same.
    for d in [d, store.open().await] {
        assert_eq!(d.find(&who("acme/bob"), &key.id).await.unwrap().unwrap(), before);
    }
    let expected = Entry {
        key,
        name: Some("Kept".parse().unwrap()),
        members: vec![member("bob", Role::Member)],
        status: Status::Completed,
        reason: Some("done".to_owned()),
        place: grouped,
        confirmed: true,
        ephemeral: false,
        created: T,
        started: Some(T),
        updated: later(5),
        last_used: later(5),
        ended: Some(later(4)),
        epoch: 2,
        fence: 3,
        note: Some("kept as well".into()),
    };
    assert_eq!(before, expected);
}

async fn two_gateways_see_the_same(store: Store) {
    let (a, b) = (store.open().await, store.open().await);
    let key = make(&a, "acme/ada", "s-1", T).await;
    assert!(b.find(&key.owner, &key.id).await.unwrap().is_some());
    assert_eq!(b.move_to(&key, 1, &shared("b:1"), T).await.unwrap(), 2);
    assert!(matches!(a.move_to(&key, 1, &shared("a:1"), T).await, Err(MoveError::Stale { epoch: 2 })));
}

#[tokio::test]
async fn a_redis_that_hangs_is_not_waited_for() {
    let Some(store) = Store::redis("a_redis_that_hangs_is_not_waited_for") else { return };
    let d = store.open().await;
    let key = make(&d, "acme/ada", "s-1", T).await;
    store.pause(true);
    let start = Instant::now();
    assert!(matches!(d.find(&key.owner, &key.id).await, Err(StoreError::Busy)));
    assert!(start.elapsed() < Duration::from_secs(10));
    store.pause(false);
    assert!(d.find(&key.owner, &key.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_redis_that_forgets_is_refused() {
    let Some(store) = Store::redis("a_redis_that_forgets_is_refused") else { return };
    store.ask(::redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru"));
    let refused = store::try_open(&store.toml()).await;
    assert!(matches!(refused, Err(OpenError::Evicts(policy)) if policy == "allkeys-lru"));
}

async fn how_long_it_takes(store: Store) {
    const N: usize = 1000;
    let d = store.open().await;
    let ada = who("acme/ada");
    let (mut claims, mut finds, mut fences) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..N {
        let key = key("acme/ada", &format!("s-{n}"));
        let start = Instant::now();
        d.claim(&key, &new(&shared("a:1")), T).await.unwrap();
        claims.push(start.elapsed());
        let start = Instant::now();
        d.find(&ada, &key.id).await.unwrap().unwrap();
        finds.push(start.elapsed());
        let start = Instant::now();
        d.record_fence(&key, 7).await.unwrap();
        fences.push(start.elapsed());
    }
    let p50 = |samples: &mut Vec<Duration>| {
        samples.sort_unstable();
        samples[N / 2]
    };
    let name = if matches!(store, Store::Sqlite(_)) { "SQLite" } else { "Redis" };
    println!(
        "{name}: p50 of {N}: claim {:?}, find {:?}, fence {:?}",
        p50(&mut claims),
        p50(&mut finds),
        p50(&mut fences)
    );
}
