//! A gateway that is killed while it claims: what it was told is there, and nothing is there by half.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use jetway_gateway::directory::{List, Order, Role, UnixMs};

use crate::{id, key, member, new, shared, store, store::Store, who};

/// Set for the process that is to be killed: the configuration of its store.
const CHILD: &str = "JETWAY_TEST_DIRECTORY";

const ROUNDS: usize = 8;

/// Claims without end, and tells what it was told.
async fn claim_for_ever(toml: &str, round: &str) {
    let d = store::open(toml).await;
    let crowd = ["bob", "cy", "dee"].map(|user| member(user, Role::Member));
    for n in 0.. {
        let key = key("acme/ada", &format!("s-{round}-{n}"));
        d.claim(&key, &new(&shared("a:1")), UnixMs::now()).await.unwrap();
        println!("claimed {n}");
        d.set_members(&key, &crowd, UnixMs::now()).await.unwrap();
        println!("shared {n}");
    }
}

#[tokio::test]
async fn killed_in_a_loop_of_claims() {
    if let Ok(toml) = std::env::var(CHILD) {
        let (round, toml) = toml.split_once(' ').unwrap();
        return claim_for_ever(toml, round).await;
    }
    let store = Store::sqlite();
    let (mut acknowledged, mut shares) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::killed_in_a_loop_of_claims", "--nocapture"])
            .env(CHILD, format!("{round} {}", store.toml()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = |line: Option<Result<String, std::io::Error>>,
                    lists: (&mut Vec<String>, &mut Vec<String>)| {
            let Some(Ok(line)) = line else { return false };
            if let Some(n) = line.strip_prefix("claimed ") {
                lists.0.push(format!("s-{round}-{n}"));
            } else if let Some(n) = line.strip_prefix("shared ") {
                lists.1.push(format!("s-{round}-{n}"));
            }
            true
        };
        // Each round at another point.
        let enough = acknowledged.len() + 40 + 7 * round;
        while acknowledged.len() < enough && told(lines.next(), (&mut acknowledged, &mut shares)) {}
        child.kill().unwrap();
        child.wait().unwrap();
        while told(lines.next(), (&mut acknowledged, &mut shares)) {}
    }
    assert!(acknowledged.len() >= ROUNDS * 40);

    let Store::Sqlite(dir) = &store else { unreachable!() };
    let file = rusqlite::Connection::open(dir.path().join("directory.sqlite")).unwrap();
    let check: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let d = store.open().await;
    for name in &acknowledged {
        assert!(d.find(&who("acme/ada"), &id(name)).await.unwrap().is_some(), "{name} was acknowledged");
    }
    for name in &shares {
        assert!(d.find(&who("acme/dee"), &id(name)).await.unwrap().is_some(), "{name} was shared");
    }
    let mut list = List { order: Order::Ascending, limit: 500, ..List::default() };
    let mut found = 0;
    loop {
        let page = d.list(&who("acme/ada"), &list).await.unwrap();
        found += page.entries.len();
        assert!(page.entries.iter().all(|e| matches!(e.members.len(), 0 | 3)), "shared by half");
        let Some(next) = page.next else { break };
        list.cursor = Some(next);
    }
    // At most one in each round was made and not told.
    assert!((acknowledged.len()..=acknowledged.len() + ROUNDS).contains(&found));
    println!("{ROUNDS} kills: {} claims acknowledged, {found} found", acknowledged.len());
}
