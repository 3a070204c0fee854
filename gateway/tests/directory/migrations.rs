//! What an earlier Jetway has stored, and what a later one has.

use jetway_gateway::directory::{Entry, OpenError, Status, UnixMs};

use crate::{
    T, id, ids, later,
    store::{Store, try_open},
    who,
};

const NOTE: &str = r#"{"permissions":"ask","config":{"timeout_minutes":60,"auto_delete_after_hours":2},"given":{"model":"m"}}"#;
/// Notes that say nothing of an end, or nothing that could be meant.
const OTHERS: [&str; 5] = [
    "",
    "text",
    r#"{"config":{"timeout_minutes":0}}"#,
    r#"{"config":[60]}"#,
    r#"{"config":{"timeout_minutes":"60"}}"#,
];

/// A session of a version before lifetimes: running since `T`, last used at 1500 after it; `ada` owns it, `bob` sees it.
fn old(name: &str, note: &str) -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    vec![
        ("id", text(name)),
        ("name", text("One")),
        ("folded", text("one")),
        ("status", text("running")),
        ("reason", text("")),
        ("server", text("10.0.0.5:4321")),
        ("state", text("shared-a")),
        ("exclusive", text("0")),
        ("domain", text("group shared-a")),
        ("ephemeral", text("0")),
        ("claims", text("0")),
        ("created", T.0.to_string()),
        ("updated", later(2000).0.to_string()),
        ("last_used", later(1500).0.to_string()),
        ("ended", text("")),
        ("epoch", text("3")),
        ("fence", text("7")),
        ("note", text(note)),
    ]
}

fn fill(store: &Store, entries: &[Vec<(&'static str, String)>]) {
    match store {
        Store::Sqlite(dir) => {
            let file = rusqlite::Connection::open(dir.path().join("directory.sqlite")).unwrap();
            let versions = [
                include_str!("../../src/directory/sqlite/1.sql"),
                include_str!("../../src/directory/sqlite/2.sql"),
                include_str!("../../src/directory/sqlite/3.sql"),
            ];
            file.execute_batch(&format!("{} PRAGMA user_version = 3", versions.concat())).unwrap();
            for entry in entries {
                let columns: Vec<_> = entry.iter().map(|(column, _)| *column).collect();
                // Columns have a type of their own, which texts take on; '' stands for none.
                let values: Vec<_> = (1..=entry.len()).map(|n| format!("nullif(?{n}, '')")).collect();
                let sql = format!(
                    "INSERT INTO session (tenant, owner, {}) VALUES ('acme', 'ada', {})",
                    columns.join(", "),
                    values.join(", ")
                );
                let values = entry.iter().map(|(_, value)| value.as_str());
                file.execute(&sql, rusqlite::params_from_iter(values)).unwrap();
                let member = "INSERT INTO member VALUES ('acme', 'bob', ?1, 'ada', 'viewer', 1200)";
                file.execute(member, [&entry[0].1]).unwrap();
            }
        }
        Store::Redis(_) => {
            let prefix = "jetway:{directory}:";
            for entry in entries {
                let name = &entry[0].1;
                let mut hash = redis::cmd("HSET");
                hash.arg(format!("{prefix}entry:acme/ada {name}"));
                entry[1..].iter().for_each(|(field, value)| {
                    hash.arg(field).arg(value);
                });
                store.ask(&hash);
                let members = format!("{prefix}members:acme/ada {name}");
                store.ask(redis::cmd("HSET").arg(members).arg("bob").arg("viewer 1200"));
                for user in ["ada", "bob"] {
                    let ids = format!("{prefix}view:acme/{user}:ids");
                    store.ask(redis::cmd("ZADD").arg(ids).arg(0).arg(format!("{name} ada")));
                }
            }
        }
    }
}

pub(crate) async fn what_was_there_is_brought_up_to_date(store: Store) {
    // More than one step of either store.
    let many = (0..1200).map(|n| old(&format!("plain-{n:04}"), OTHERS[n % OTHERS.len()]));
    let entries: Vec<_> = [old("timed", NOTE)].into_iter().chain(many).collect();
    fill(&store, &entries);
    // Twice: the second time there is nothing to do.
    for _ in 0..2 {
        let d = store.open().await;
        for user in ["acme/ada", "acme/bob"] {
            let kept: Entry = d.find(&who(user), &id("timed")).await.unwrap().unwrap();
            assert_eq!((kept.status, kept.started, kept.created), (Status::Running, Some(T), T));
            assert_eq!((kept.epoch, kept.fence, kept.note.as_deref()), (3, 7, Some(NOTE)));
        }
        d.close().await;
    }
    let d = store.open().await;
    let hour = 3_600_000;
    let due = async |at: u64, again: u64| d.take_due(UnixMs(at), UnixMs(again), 500).await.unwrap();
    assert!(due(T.0 + hour - 1, 0).await.is_empty());
    assert_eq!(ids(&due(T.0 + hour, T.0 + hour).await), ["timed"]);
    // Its use moves the one end, not the other.
    d.touch(&[crate::key("acme/ada", "timed")], later(2 * hour)).await.unwrap();
    assert_eq!(ids(&due(T.0 + hour, 1 << 52).await), ["timed"]);
    assert!(due(1 << 50, 1 << 52).await.is_empty(), "none of the others has an end");
}

pub(crate) async fn what_is_of_a_later_version_is_left_alone(store: Store) {
    match &store {
        Store::Sqlite(dir) => {
            let file = rusqlite::Connection::open(dir.path().join("directory.sqlite")).unwrap();
            file.execute_batch("PRAGMA user_version = 99").unwrap();
        }
        Store::Redis(_) => store.ask(redis::cmd("SET").arg("jetway:{directory}:version").arg(99)),
    }
    let refused = try_open(&store.toml()).await;
    assert!(
        matches!(refused, Err(OpenError::Newer { found: 99, .. } | OpenError::NewerRedis { found: 99, .. })),
        "{refused:?}"
    );
}
