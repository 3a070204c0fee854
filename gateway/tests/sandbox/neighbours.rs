//! What others feel of somebody who takes too much.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    common::{self, client::Client, program::bearing},
    scene::{PATIENCE, scene},
};

/// Turns of a neighbour's, one after the other, for so long.
async fn turns_for(client: &mut Client, time: Duration) -> Vec<Duration> {
    let (since, mut took) = (Instant::now(), Vec::new());
    while since.elapsed() < time {
        let begun = Instant::now();
        assert_eq!(client.turn("chat", "hello").await, "You said: hello");
        took.push(begun.elapsed());
        client.seen.clear();
        client.raw.clear();
    }
    took
}

/// Check 34: what one user's shell does is felt by nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn check_34_neighbours_of_a_hog() {
    const NAME: &str = "check_34_neighbours_of_a_hog";
    /// As the check has them: a fork bomb, 4 GB, a full disk.
    const HOGS: [(&str, &str, &str); 3] = [
        ("a fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 1000", "process_limit"),
        ("4 GB of memory", "dd if=/dev/zero of=/dev/null bs=4G count=1", "memory_limit"),
        ("a full disk", "head -c 4G /dev/zero > big; sleep 1000", "disk_limit"),
    ];
    /// The hog's time, from its start until some time after its end; and as long without it.
    const WINDOW: Duration = Duration::from_secs(2);
    /// Below this it is the machine that is measured.
    const FLOOR: Duration = Duration::from_millis(50);
    // The p99 of a few dozen turns is the slowest of them, whatever the machine did then.
    let (rounds, times, within) =
        if common::long() { (10, 2, Duration::from_secs(2)) } else { (2, 4, Duration::from_secs(4)) };
    let limits = "[pool.process.limits]\nmemory = \"512MiB\"\nprocesses = 256\ndisk = \"64MiB\"";
    let Some(scene) = scene(NAME, limits).await else { return };
    if scene.gateway.log().contains("no control groups") {
        return eprintln!("SKIPPED {NAME}: no control groups may be made here");
    }
    let mut bob = scene.session("bob").await;
    turns_for(&mut bob, Duration::from_secs(1)).await;
    let mut slow = Vec::new();
    for (hog, script, reason) in HOGS {
        let (mut quiet, mut during, mut stopped_after) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Each has a process that was not stopped before: the next one's start is delayed.
            let user = format!("hog-{}-{round}", reason.replace('_', "-"));
            let mut ada = scene.session(&user).await;
            let mark = format!("HOG={}", scene.home(&user).display());
            let workspace = scene.home(&user).join("workspace");
            std::fs::write(workspace.join("script"), format!("export {mark}\n{script}")).unwrap();
            let metric = format!("jetway_process_stops_total{{reason=\"{reason}\"}}");
            let stops = scene.gateway.metric(&metric).await;
            let run = json!({ "sessionId": "chat", "command": "bash script" });
            quiet.extend(turns_for(&mut bob, WINDOW).await);
            let begun = Instant::now();
            let (_, stopped) = tokio::join!(
                async {
                    ada.request("session.shell.exec", run).await;
                    during.extend(turns_for(&mut bob, WINDOW).await);
                },
                async {
                    while scene.gateway.metric(&metric).await <= stops || !bearing(&mark).is_empty() {
                        assert!(begun.elapsed() < PATIENCE, "{hog}: not stopped");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    begun.elapsed()
                }
            );
            stopped_after.push(stopped);
            let _ = std::fs::remove_file(workspace.join("big"));
        }
        let (before, p99) = (common::quantile(&mut quiet, 0.99), common::quantile(&mut during, 0.99));
        let last = common::quantile(&mut stopped_after, 1.0);
        println!(
            "CHECK 34: {hog}, {rounds} times: a neighbour's {} turns p99 {p99:.1?}, before {before:.1?} ({:.2} x); all of it gone \
             after {last:.1?} at most",
            during.len(),
            p99.as_secs_f64() / before.as_secs_f64()
        );
        if p99 > times * before.max(FLOOR) || last > within {
            slow.push(hog);
        }
    }
    assert_eq!(slow, Vec::<&str>::new());
}
