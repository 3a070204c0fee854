//! The session directory, in SQLite and in Redis: the same for both.

mod crash;
mod model;
mod store;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jetway_config::{Identity, SessionId};
use jetway_gateway::directory::{
    ChangeError, ClaimError, Directory, Entry, FenceError, Key, List, ListError, MAX_MEMBERS, MAX_RECORDS,
    Member, MoveError, New, Order, Place, Resolution, Role, Sort, Status, UnixMs,
};

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

async fn one_of_many_claimers_wins(store: Store) {
    let d = Arc::new(store.open().await);
    let claims = (0..100).map(|n| {
        let d = Arc::clone(&d);
        tokio::spawn(async move {
            let key = key(&format!("t{}/u{n}", n % 7), "prize");
            d.claim(&key, &new(&shared("10.0.0.5:4321")), T).await
        })
    });
    let mut won = 0;
    for claim in claims.collect::<Vec<_>>() {
        match claim.await.unwrap() {
            Ok(claim) => won += u32::from(claim.fresh),
            Err(ClaimError::Taken) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(won, 1);
}

async fn an_owner_may_claim_again_and_again(store: Store) {
    let d = Arc::new(store.open().await);
    let key = key("acme/ada", "s-1");
    let claims = (0..50).map(|_| {
        let (d, key) = (Arc::clone(&d), key.clone());
        tokio::spawn(async move { d.claim(&key, &new(&shared("a:1")), T).await.unwrap().fresh })
    });
    let mut fresh = 0;
    for claim in claims.collect::<Vec<_>>() {
        fresh += u32::from(claim.await.unwrap());
    }
    assert_eq!(fresh, 1);
    // All but one fail: the id stays with the one. All fail: it is free.
    for _ in 0..49 {
        assert!(!d.release(&key).await.unwrap());
    }
    assert!(!d.find(&key.owner, &key.id).await.unwrap().unwrap().confirmed);
    assert!(d.release(&key).await.unwrap());
    assert_eq!(d.find(&key.owner, &key.id).await.unwrap(), None);
}

async fn ids_are_taken_where_they_are_shared(store: Store) {
    let d = store.open().await;
    let claim = async |owner, place: &Place| d.claim(&key(owner, "s-1"), &new(place), T).await;
    // On servers of their own, users of a tenant and tenants choose alike.
    for owner in ["acme/ada", "acme/bob", "globex/ada"] {
        assert!(claim(owner, &own(owner)).await.unwrap().fresh);
    }
    // On a shared one the first has it; on another server it is another session.
    assert!(claim("acme/eve", &shared("a:1")).await.unwrap().fresh);
    assert!(matches!(claim("globex/eve", &shared("a:1")).await, Err(ClaimError::Taken)));
    assert!(claim("globex/eve", &shared("b:1")).await.unwrap().fresh);
    // Servers that share their state are as one, and a group's name is no server's.
    let grouped = |server: &str| Place { group: Some("g".into()), ..shared(server) };
    assert!(claim("acme/gus", &grouped("c:1")).await.unwrap().fresh);
    assert!(matches!(claim("acme/hal", &grouped("d:1")).await, Err(ClaimError::Taken)));
    assert!(claim("acme/hal", &shared("g")).await.unwrap().fresh);
    // What is known already stays where it is.
    let known = claim("acme/ada", &shared("a:1")).await.unwrap();
    assert!(!known.fresh);
    assert_eq!(known.entry.place, own("acme/ada"));
}

async fn claims_are_given_up(store: Store) {
    let d = store.open().await;
    let (young, old, used) = (key("acme/ada", "young"), key("acme/ada", "old"), key("acme/ada", "used"));
    let now = UnixMs::now();
    for (key, at) in [(&old, T), (&used, T), (&young, now)] {
        let claim = d.claim(key, &New { ephemeral: true, ..new(&shared("a:1")) }, at).await.unwrap();
        assert_eq!((claim.entry.status, claim.entry.confirmed), (Status::Pending, false));
        assert!(claim.entry.ephemeral);
    }
    d.confirm(&used, T).await.unwrap();
    assert!(!d.release(&used).await.unwrap());
    d.close().await;

    // Opening it releases what a gateway that died left.
    let d = store.open().await;
    assert_eq!(d.find(&old.owner, &old.id).await.unwrap(), None);
    assert!(matches!(d.confirm(&old, T).await, Err(ChangeError::NotFound)));
    assert!(d.claim(&key("globex/eve", "old"), &new(&shared("a:1")), T).await.unwrap().fresh);
    assert_eq!(d.find(&used.owner, &used.id).await.unwrap().unwrap().status, Status::Running);
    assert!(d.find(&young.owner, &young.id).await.unwrap().is_some());
    assert_eq!(d.release_orphans(UnixMs(now.0 + 1)).await.unwrap(), 2);
    assert_eq!(d.release_orphans(UnixMs(now.0 + 1)).await.unwrap(), 0);
}

async fn others_find_nothing(store: Store) {
    let d = store.open().await;
    let key = make(&d, "acme/ada", "s-1", T).await;
    assert_eq!(d.find(&who("acme/ada"), &key.id).await.unwrap().unwrap().key, key);
    for other in ["acme/bob", "globex/ada"] {
        assert_eq!(d.find(&who(other), &key.id).await.unwrap(), None);
        assert_eq!(d.resolve(&who(other), "s-1").await.unwrap(), Resolution::None);
        assert_eq!(d.list(&who(other), &List::default()).await.unwrap().entries, []);
    }
}

async fn members_come_and_go(store: Store) {
    let d = store.open().await;
    let bob = who("acme/bob");
    let ada = make(&d, "acme/ada", "s-1", T).await;
    let cy = make(&d, "acme/cy", "s-1", T).await;
    d.set_members(&cy, &[member("bob", Role::Member)], later(1)).await.unwrap();
    // Ada shares it later: the name does not begin to mean another session.
    d.set_members(&ada, &[member("bob", Role::Viewer), member("ada", Role::Viewer)], later(2)).await.unwrap();
    let found = d.find(&bob, &id("s-1")).await.unwrap().unwrap();
    assert_eq!((&found.key, found.role_of(&bob)), (&cy, Some(Role::Member)));
    assert_eq!(found.role_of(&who("acme/ada")), None);
    assert_eq!(found.role_of(&who("globex/bob")), None);
    assert_eq!(d.list(&bob, &List::default()).await.unwrap().entries.len(), 2);

    d.set_members(&cy, &[member("bob", Role::Owner), member("al", Role::Viewer)], later(3)).await.unwrap();
    let found = d.find(&bob, &id("s-1")).await.unwrap().unwrap();
    assert_eq!(found.members, [member("al", Role::Viewer), member("bob", Role::Owner)]);

    d.remove_member(&cy, &bob.user, later(4)).await.unwrap();
    assert!(matches!(d.remove_member(&cy, &bob.user, later(4)).await, Err(ChangeError::NotFound)));
    let found = d.find(&bob, &id("s-1")).await.unwrap().unwrap();
    assert_eq!((&found.key, found.members.len()), (&ada, 1));
    // One's own comes first.
    let mine = make(&d, "acme/bob", "s-1", later(5)).await;
    assert_eq!(d.find(&bob, &id("s-1")).await.unwrap().unwrap().key, mine);
    assert_eq!(mine.owner, bob);
    assert!(d.forget(&mine).await.unwrap());
    assert!(d.forget(&ada).await.unwrap());
    assert!(!d.forget(&ada).await.unwrap());
    assert_eq!(d.find(&bob, &id("s-1")).await.unwrap(), None);
    // A member of what is forgotten is not one of what comes after.
    make(&d, "acme/ada", "s-1", later(6)).await;
    assert_eq!(d.find(&bob, &id("s-1")).await.unwrap(), None);
}

async fn references_mean_one_or_several(store: Store) {
    let d = store.open().await;
    let ada = who("acme/ada");
    let one = async |reference: &str| match d.resolve(&ada, reference).await.unwrap() {
        Resolution::One(entry) => format!("{}", entry.key),
        Resolution::None => "none".to_owned(),
        Resolution::Ambiguous(entries) => ids(&entries).join(" "),
    };
    assert_eq!(one("latest").await, "none");
    for (n, name) in ["alpha-1", "alpha-2", "beta", "alpha-22"].into_iter().enumerate() {
        make(&d, "acme/ada", name, later(n as u64)).await;
    }
    let theirs = make(&d, "acme/bob", "gamma", later(90)).await;
    d.set_members(&theirs, &[member("ada", Role::Member)], later(91)).await.unwrap();
    d.rename(&key("acme/ada", "beta"), Some(&" Ünder Way ".parse().unwrap()), later(5)).await.unwrap();
    d.rename(&key("acme/ada", "alpha-1"), Some(&"Twice".parse().unwrap()), later(5)).await.unwrap();
    d.rename(&theirs, Some(&"twice".parse().unwrap()), later(5)).await.unwrap();

    assert_eq!(one("alpha-2").await, "acme/ada/alpha-2", "an id before its longer namesakes");
    assert_eq!(one("alpha").await, "alpha-1 alpha-2 alpha-22");
    assert_eq!(one("b").await, "acme/ada/beta");
    assert_eq!(one("B").await, "none", "ids have a case");
    assert_eq!(one("üNDER wAY").await, "acme/ada/beta");
    assert_eq!(one("TWICE").await, "alpha-1 gamma");
    assert_eq!(one("gam").await, "acme/bob/gamma");
    for nothing in ["", " ", "*", "a%", "_", "alpha-2 ", "alpha\0", "x".repeat(5000).as_str()] {
        assert_eq!(one(nothing).await, "none", "{nothing:?}");
    }
    // The latest is one's own, whatever others do with theirs.
    assert_eq!(one("latest").await, "acme/ada/alpha-22");
    d.touch(&[key("acme/ada", "beta"), theirs, key("acme/ada", "nothing")], later(100)).await.unwrap();
    assert_eq!(one("latest").await, "acme/ada/beta");

    // A name comes before a beginning, and goes with its session.
    d.rename(&key("acme/ada", "beta"), Some(&"alpha".parse().unwrap()), later(5)).await.unwrap();
    assert_eq!(one("alpha").await, "acme/ada/beta");
    assert_eq!(one("ünder way").await, "none");
    d.set_status(&key("acme/ada", "beta"), Status::Terminated, Some("deleted"), later(101)).await.unwrap();
    assert_eq!(one("alpha").await, "alpha-1 alpha-2 alpha-22");
    assert_eq!(one("latest").await, "acme/ada/alpha-22");
    assert_eq!(one("bet").await, "none");
    assert_eq!(one("beta").await, "acme/ada/beta", "a record, by its whole id");
}

async fn pages_are_stable(store: Store) {
    let d = store.open().await;
    let ada = who("acme/ada");
    for n in 0..60_u64 {
        // Some at the same time, some another's.
        let owner = if n % 5 == 0 { "acme/bob" } else { "acme/ada" };
        let key = make(&d, owner, &format!("s-{n:02}"), later(1000 + n / 4)).await;
        if n % 5 == 0 {
            d.set_members(&key, &[member("ada", Role::Viewer)], later(5000)).await.unwrap();
        }
    }
    for order in [Order::Ascending, Order::Descending] {
        let mut list = List { order, limit: 7, ..List::default() };
        let mut seen: Vec<String> = Vec::new();
        let mut round = 0;
        loop {
            let page = d.list(&ada, &list).await.unwrap();
            assert!(page.entries.len() <= 7);
            seen.extend(page.entries.iter().map(|e| e.key.id.as_str().to_owned()));
            let Some(next) = page.next else { break };
            // The cursor's own entry goes; others come before, after and beside it; all are used.
            let last = page.entries.last().unwrap();
            assert!(d.forget(&last.key).await.unwrap());
            for (name, at) in [("old", 0), ("young", 9000), ("beside", last.created.0 - T.0)] {
                make(&d, "acme/ada", &format!("new-{order:?}-{name}-{round}"), later(at)).await;
            }
            let keys: Vec<Key> = page.entries.iter().map(|e| e.key.clone()).collect();
            d.touch(&keys, later(10_000 + round)).await.unwrap();
            (list.cursor, round) = (Some(next), round + 1);
        }
        let kept: Vec<&String> = seen.iter().filter(|s| s.starts_with("s-")).collect();
        let mut unique = kept.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), kept.len(), "none twice");
        assert_eq!(kept.len(), 60, "all that was there");
        // The next walk begins with all of them again.
        for name in (0..60).map(|n| format!("s-{n:02}")) {
            let n: u64 = name[2..].parse().unwrap();
            let owner = if n % 5 == 0 { "acme/bob" } else { "acme/ada" };
            if d.find(&who(owner), &id(&name)).await.unwrap().is_none() {
                let key = make(&d, owner, &name, later(1000 + n / 4)).await;
                d.set_members(&key, &[member("ada", Role::Viewer)], later(5000)).await.unwrap();
            }
        }
    }
    // A cursor is of one list only, and not to be made up.
    let first = d.list(&ada, &List { limit: 1, ..List::default() }).await.unwrap();
    for cursor in [first.next.unwrap(), String::new(), "zz".to_owned(), "é".to_owned(), "00".repeat(9)] {
        let list = List { cursor: Some(cursor), sort: Sort::Updated, ..List::default() };
        assert!(matches!(d.list(&ada, &list).await, Err(ListError::BadCursor)));
    }
}

async fn moves_need_the_epoch(store: Store) {
    let d = Arc::new(store.open().await);
    let key1 = key("acme/ada", "s-1");
    assert_eq!(d.claim(&key1, &new(&shared("a:1")), T).await.unwrap().entry.epoch, 1);
    let moves = (0..20).map(|n| {
        let (d, key) = (Arc::clone(&d), key1.clone());
        tokio::spawn(async move { d.move_to(&key, 1, &shared(&format!("m{n}:1")), T).await })
    });
    let mut moved = 0;
    for attempt in moves.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(epoch) => {
                assert_eq!(epoch, 2);
                moved += 1;
            }
            Err(MoveError::Stale { epoch }) => assert_eq!(epoch, 2),
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(moved, 1);
    // It takes its id along: free where it was, taken where it is.
    let other = key("globex/eve", "s-1");
    assert!(d.claim(&other, &new(&shared("a:1")), T).await.unwrap().fresh);
    assert!(matches!(d.move_to(&key1, 2, &shared("a:1"), T).await, Err(MoveError::Taken)));
    let entry = d.find(&key1.owner, &key1.id).await.unwrap().unwrap();
    assert!(matches!(d.move_to(&other, 1, &entry.place, T).await, Err(MoveError::Taken)));
    assert_eq!(d.move_to(&key1, 2, &own("acme/ada"), later(9)).await.unwrap(), 3);
    let unknown = key("acme/ada", "s-9");
    assert!(matches!(d.move_to(&unknown, 1, &shared("a:1"), T).await, Err(MoveError::NotFound)));
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
    d.set_status(&key, Status::Completed, Some("done"), later(4)).await.unwrap();
    d.touch(std::slice::from_ref(&key), later(5)).await.unwrap();
    d.record_fence(&key, 3).await.unwrap();
    let before = d.find(&who("acme/bob"), &key.id).await.unwrap().unwrap();
    d.close().await;
    store.crash();

    let d = store.open().await;
    assert_eq!(d.find(&who("acme/bob"), &key.id).await.unwrap().unwrap(), before);
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
        updated: later(5),
        last_used: later(5),
        ended: Some(later(4)),
        epoch: 2,
        fence: 3,
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
