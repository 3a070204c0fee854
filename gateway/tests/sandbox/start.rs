//! What walls cost when a process starts.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::io::AsyncBufReadExt as _;

use crate::{
    common::{self, client::Client, runtime},
    scene::{bubblewrap, landlock, scene_of},
};

/// Check 35: what walls cost at the start, beside the runtime without Jetway in the same run.
#[tokio::test(flavor = "multi_thread")]
async fn check_35_spawn_to_ready() {
    const NAME: &str = "check_35_spawn_to_ready";
    let starts = if common::long() { 40 } else { 8 };
    let Some(program) = runtime(NAME) else { return };
    let mut bare = Vec::new();
    let mut levels = Vec::new();
    for level in ["none", "landlock", "bwrap"] {
        let has = match level {
            "bwrap" => bubblewrap(NAME),
            "landlock" => landlock(NAME),
            _ => true,
        };
        if !has {
            continue;
        }
        levels.push((level, scene_of(NAME, level, "").await.unwrap(), Vec::new()));
    }
    // In turn, so that all have the same machine.
    for n in 0..starts {
        bare.push(bare_start(&program).await);
        for (_, scene, took) in &mut levels {
            let user = format!("user-{n}");
            drop(Client::hello(scene.gateway.sdk, &user).await);
            let log = scene.gateway.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let ready = lines.into_iter().find(|l| l["message"] == "CLI process ready" && l["user"] == *user);
            took.push(Duration::from_millis(ready.unwrap()["took_ms"].as_u64().unwrap()));
        }
    }
    for (level, _, took) in &mut levels {
        // The quickest: what others do on this machine makes the rest slow, and not alike.
        let [(quick, bare_quick), (half, bare_half)] =
            [0.0, 0.5].map(|share| (common::quantile(took, share), common::quantile(&mut bare, share)));
        println!(
            "CHECK 35: {starts} starts each, sandbox = \"{level}\": {half:.1?} (median; quickest {quick:.1?}), the runtime \
             itself {bare_half:.1?} ({bare_quick:.1?})"
        );
        assert!(quick <= bare_quick + Duration::from_millis(100), "{level}");
    }
}

/// From its start until it has answered `connect`.
async fn bare_start(program: &Path) -> Duration {
    let home = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(program);
    command.args([
        "--headless",
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        "--no-auto-update",
        "--log-level",
        "error",
    ]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home.path());
    command.env("COPILOT_HOME", home.path().join(".copilot")).current_dir(&home).kill_on_drop(true);
    let begun = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let port: u16 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let mut client = Client::dial(SocketAddr::from(([127, 0, 0, 1], port))).await;
    client.call("connect", json!({})).await.unwrap();
    let took = begun.elapsed();
    child.kill().await.unwrap();
    took
}
