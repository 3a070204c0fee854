//! Everybody at once, and one after the other.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    common::quantile,
    scene::{SLACK, Scene, count},
};

const PEOPLE: [&str; 6] = ["ada", "bob", "cyd", "dan", "eve", "fay"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_1_contended_turns_never_overlap() {
    let each = count("JETWAY_TURNS", 60).div_ceil(PEOPLE.len());
    let Some(scene) = Scene::start("check_1_contended_turns_never_overlap", 3, "5s", &[]) else { return };
    let (people, since) = (scene.room(&PEOPLE).await, Instant::now());
    let mut at_work = JoinSet::new();
    for mut person in people {
        at_work.spawn(async move {
            let mut again = 0;
            for _ in 0..each {
                again += person.turn("[[quiet]] mine").await;
            }
            again
        });
    }
    let again: usize = at_work.join_all().await.into_iter().sum();
    let (done, (tenures, _)) = (scene.no_overlap(), scene.fences_increase());
    println!(
        "CHECK 1: {done} contended turns of 6 people on 3 gateways in {:.1?}: 0 overlaps; {tenures} tenures, each with a higher fence; {again} prompts tried again",
        since.elapsed()
    );
    assert!(done >= each * PEOPLE.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_11_the_session_changes_gateways() {
    let moves = count("JETWAY_MOVES", 30);
    let Some(scene) = Scene::start("check_11_the_session_changes_gateways", 3, "5s", &[]) else { return };
    let mut people = scene.room(&["ada", "bob", "cyd"]).await;
    let mut times = Vec::new();
    for n in 0..=moves {
        let person = &mut people[n % 3];
        let since = Instant::now();
        person.turn("[[quiet]] next").await;
        times.push(since.elapsed());
    }
    let (done, (tenures, moved)) = (scene.no_overlap(), scene.fences_increase());
    let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
    println!(
        "CHECK 11: {moved} moves between 3 gateways, {tenures} tenures, each with a higher fence: 0 overlaps in {done} turns; a turn with its move p50 {p50:.1?}, p99 {p99:.1?}"
    );
    // The last tenure has not ended.
    assert!(moved + 1 >= moves && done > moves);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_10_a_dead_gateway_in_line_is_skipped() {
    let Some(mut scene) = Scene::start("check_10_a_dead_gateway_in_line_is_skipped", 3, "5s", &[]) else {
        return;
    };
    let mut people = scene.room(&["ada", "bob", "cyd"]).await;
    people[0].begin("[[hang]]").await.unwrap();
    let (_, _dead) = people[1].ask("mine").await;
    scene.until_lock(1, "bob is first", |row| row["elsewhere"]["ahead"] == 0).await;
    let (_, next) = people[2].ask("mine").await;
    scene.until_lock(2, "cyd is second", |row| row["elsewhere"]["ahead"] == 1).await;
    scene.gateways[1].signal(Signal::SIGKILL);
    scene.gateways[1].exit(SLACK).await;
    let since = Instant::now();
    people[0].client.call("session.abort", json!({ "sessionId": "room" })).await.unwrap();
    people[2].reply(next).await.unwrap();
    let took = since.elapsed();
    people[2].end().await.unwrap();
    scene.no_overlap();
    println!(
        "CHECK 10: the first in line died with its gateway: the next had its turn {took:.1?} after the last"
    );
    assert!(took < Duration::from_secs(2) + SLACK);
}
