//! The official SDK's own ping, directly against the real CLI server and through Jetway with a process per user.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use super::{
    measure::{Measure, Samples},
    peers::{Kind, Places, jetway_with},
    process::{Process, find, free_addr},
};

const PINGS: &str = "100";
/// The Linux build of the SDK's runtime, below `node_modules`.
const RUNTIME: &str = "@github/copilot-sdk-linux-x64/prebuilds/linux-x64/copilot-runtime";

/// What the script prints.
#[derive(Debug, Deserialize)]
struct Printed {
    p50_ms: f64,
}

/// Both ways, each on fresh processes.
///
/// # Errors
/// When something is missing or fails; the message says what.
pub fn measure(places: &Places, packages: &Path, samples: &mut Samples) -> io::Result<()> {
    let runtime = packages.join("node_modules").join(RUNTIME);
    if !runtime.is_file() {
        return Err(io::Error::other(format!("no {}; run `npm ci` in loadtest/", runtime.display())));
    }
    let home = places.dir.join("sdk-home");
    let mut direct = Command::new(&runtime);
    direct.args([
        "--headless",
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        "--no-auto-update",
        "--log-level",
        "error",
    ]);
    direct.env("HOME", &home).env("COPILOT_HOME", home.join(".copilot")).env("COPILOT_OFFLINE", "1");
    let (_running, addrs) = Process::start_cli(&mut direct, 1)?;
    samples.add(Measure::SdkPing, Kind::Direct, ping(places, packages, addrs[0])?);

    let listen = free_addr()?;
    let command = runtime.display().to_string();
    let mut jetway = jetway_with(places, "jetway-per-user.toml", listen, &[("COMMAND", &command)])?;
    let _running = Process::start(&mut jetway)?.listening(listen)?;
    samples.add(Measure::SdkPing, Kind::Jetway, ping(places, packages, listen)?);
    Ok(())
}

fn ping(places: &Places, packages: &Path, addr: SocketAddr) -> io::Result<f64> {
    let node: PathBuf = find("node").ok_or_else(|| io::Error::other("node is not installed"))?;
    let mut command = Command::new(node);
    command.arg(places.templates.join("sdk-ping.mjs")).arg(packages).arg(addr.to_string()).arg(PINGS);
    let output = command.output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("sdk-ping.mjs against {addr}: {}", why.trim())));
    }
    let printed: Printed = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    Ok(printed.p50_ms)
}
