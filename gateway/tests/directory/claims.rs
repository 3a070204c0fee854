//! Who gets an id, and where it lives.

use std::sync::Arc;

use jetway_gateway::directory::{ChangeError, ClaimError, MoveError, New, Place, Status, UnixMs};

use crate::{T, key, later, new, own, shared, store::Store};

pub(crate) async fn one_of_many_claimers_wins(store: Store) {
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

pub(crate) async fn an_owner_may_claim_again_and_again(store: Store) {
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

pub(crate) async fn ids_are_taken_where_they_are_shared(store: Store) {
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

pub(crate) async fn claims_are_given_up(store: Store) {
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

pub(crate) async fn moves_need_the_epoch(store: Store) {
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
