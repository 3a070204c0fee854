//! Whoever takes too much is stopped.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    common::program::bearing,
    scene::{PATIENCE, scene, wait},
};

/// What a shell does to take too much, and what that is called.
async fn takes_too_much(test: &str, script: &str, reason: &str) {
    let limits = "[pool.process.limits]\nmemory = \"256MiB\"\nprocesses = 120\ndisk = \"32MiB\"";
    let Some(scene) = scene(test, limits).await else { return };
    if reason != "disk_limit" && scene.gateway.log().contains("no control groups") {
        return eprintln!("SKIPPED {test}: no control groups may be made here");
    }
    let mut ada = scene.session("ada").await;
    let mut bob = scene.session("bob").await;
    assert_eq!(ada.turn("chat", "hello").await, "You said: hello");
    let mark = format!("HOG={}", scene.home("ada").display());
    std::fs::write(scene.home("ada").join("workspace/script"), format!("export {mark}\n{script}")).unwrap();
    let run = json!({ "sessionId": "chat", "command": "bash script" });
    let begun = Instant::now();
    ada.call("session.shell.exec", run).await.unwrap();
    let stopped = format!("jetway_process_stops_total{{reason=\"{reason}\"}}");
    while scene.gateway.metric(&stopped).await < 1.0 {
        assert!(begun.elapsed() < PATIENCE, "not stopped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{reason}: stopped after {:?}", begun.elapsed());
    wait("all of it is gone", || bearing(&mark).is_empty()).await;
    // Neither the neighbour nor her own next turn is any the worse for it.
    assert_eq!(bob.turn("chat", "still here").await, "You said: still here");
    std::fs::remove_file(scene.home("ada").join("workspace/big")).ok();
    assert_eq!(ada.turn("chat", "again").await, "You said: again");
    assert_eq!(scene.gateway.metric("jetway_process_stops_total{reason=\"exited\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_much_memory_is_stopped() {
    // A tail of what has no lines is all of it.
    let script = "head -c 1G /dev/zero | tail";
    takes_too_much("who_takes_too_much_memory_is_stopped", script, "memory_limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_starts_too_many_processes_is_stopped() {
    let script = "for n in {1..200}; do sleep 1000 & done; wait";
    takes_too_much("who_starts_too_many_processes_is_stopped", script, "process_limit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fills_the_disk_is_stopped() {
    let script = "for n in 1 2 3 4; do head -c 16M /dev/zero >> big; done; sync big; sleep 1000";
    takes_too_much("who_fills_the_disk_is_stopped", script, "disk_limit").await;
}
