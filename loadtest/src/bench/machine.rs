//! Where the figures come from.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::process::find;

/// Processor, memory, kernel, load and the versions of what was compared.
#[must_use]
pub fn facts() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "at": seconds(),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").trim(),
        "nginx": version("nginx", "-v"),
        "haproxy": version("haproxy", "-v"),
        "node": version("node", "--version"),
        "commit": version("git", "rev-parse HEAD"),
    })
}

/// Seconds since the Unix epoch.
fn seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn version(program: &str, args: &str) -> Option<String> {
    let output = Command::new(find(program)?).args(args.split(' ')).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}
