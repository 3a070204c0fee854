//! What a user finds: by id, by reference, in lists.

use jetway_gateway::directory::{ChangeError, Key, List, ListError, Order, Resolution, Role, Sort, Status};

use crate::{T, id, ids, key, later, make, member, store::Store, who};

pub(crate) async fn others_find_nothing(store: Store) {
    let d = store.open().await;
    let key = make(&d, "acme/ada", "s-1", T).await;
    assert_eq!(d.find(&who("acme/ada"), &key.id).await.unwrap().unwrap().key, key);
    for other in ["acme/bob", "globex/ada"] {
        assert_eq!(d.find(&who(other), &key.id).await.unwrap(), None);
        assert_eq!(d.resolve(&who(other), "s-1").await.unwrap(), Resolution::None);
        assert_eq!(d.list(&who(other), &List::default()).await.unwrap().entries, []);
    }
}

pub(crate) async fn members_come_and_go(store: Store) {
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

pub(crate) async fn references_mean_one_or_several(store: Store) {
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

pub(crate) async fn pages_are_stable(store: Store) {
    let d = store.open().await;
    let ada = who("acme/ada");
    for n in 0..60_u64 {
        // Some at the same time, some another's.
        let owner = if n.is_multiple_of(5) { "acme/bob" } else { "acme/ada" };
        let key = make(&d, owner, &format!("s-{n:02}"), later(1000 + n / 4)).await;
        if n.is_multiple_of(5) {
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
            let owner = if n.is_multiple_of(5) { "acme/bob" } else { "acme/ada" };
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
