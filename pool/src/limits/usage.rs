//! What a user's processes take.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::memory;

/// What one user's processes take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory, as they count towards its limit; without control groups, what the CLI holds for itself alone.
    pub memory: u64,
    /// Processor time since the CLI was started; without control groups, of the CLI alone.
    pub cpu: Duration,
}

/// Where that can be read.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: Option<u32>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Meter {
    pub(super) fn new(pid: Option<u32>, memory: Option<PathBuf>, cpu: Option<PathBuf>) -> Self {
        Self { pid, memory, cpu }
    }

    /// Reads it; `None` for what is gone.
    pub(crate) fn read(&self) -> Option<Usage> {
        let memory = match &self.memory {
            Some(file) => read(file, "")?,
            None => memory::private_bytes(self.pid?),
        };
        let cpu = match &self.cpu {
            // In version 1 there is nothing else there, in nanoseconds.
            Some(file) if file.ends_with("cpuacct.usage") => Duration::from_nanos(read(file, "")?),
            Some(file) => Duration::from_micros(read(file, "usage_usec ")?),
            None => of_process(self.pid?)?,
        };
        Some(Usage { memory, cpu })
    }
}

/// The number after `key` at the beginning of a line.
fn read(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// A process's time, with that of children that it has waited for.
fn of_process(pid: u32) -> Option<Duration> {
    /// The kernel's unit for user programs, on every architecture.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u64 = rest.split(' ').skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let mut spun = 0_u64;
        let since = std::time::Instant::now();
        while since.elapsed() < Duration::from_millis(50) {
            spun = spun.wrapping_add(1);
        }
        let usage = Meter::new(Some(std::process::id()), None, None).read().unwrap();
        assert!(usage.memory > 100 << 10 && usage.cpu > Duration::ZERO && spun > 0, "{usage:?}");
        assert_eq!(Meter::new(Some(u32::MAX), None, None).read(), None);
    }

    #[test]
    fn accounts_of_both_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            Some(dir.path().join(name))
        };
        let one =
            Meter::new(None, file("memory.usage_in_bytes", "4096\n"), file("cpuacct.usage", "1500000000\n"));
        assert_eq!(one.read(), Some(Usage { memory: 4096, cpu: Duration::from_millis(1500) }));
        let two = Meter::new(
            None,
            file("memory.current", "8192\n"),
            file("cpu.stat", "usage_usec 250000\nuser_usec 1\n"),
        );
        assert_eq!(two.read(), Some(Usage { memory: 8192, cpu: Duration::from_millis(250) }));
    }
}
