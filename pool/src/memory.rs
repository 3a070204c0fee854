//! What CLI processes hold, and what they may.

use std::fs;

/// At this share of the budget idle processes begin to go, so that it is not exceeded while they do.
const NEAR: f64 = 0.9;

/// Memory of all CLI processes of this pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that they hold: each for itself alone, and once what they share.
    pub used: u64,
    /// How many processes that is.
    pub processes: usize,
    /// Bytes that they may hold, `pool.process.memory_budget`.
    pub budget: u64,
}

/// What a process is taken to need until more of them tell better: a `copilot-runtime` holds some 51 MB after its
/// first turn. A process that has just come up holds much less, and must not be counted at that.
const TYPICAL: u64 = 52 << 20;

impl Memory {
    /// How many processes fit into the budget; at least one.
    pub fn fits(self) -> usize {
        (self.budget / self.average().max(TYPICAL)).max(1) as usize
    }

    fn average(self) -> u64 {
        self.used / self.processes.max(1) as u64
    }

    /// How many processes of average size should go for the rest to be well inside the budget.
    pub fn excess(self) -> usize {
        let allowed = (self.budget as f64 * NEAR) as u64;
        let over = self.used.saturating_sub(allowed);
        if over == 0 { 0 } else { over.div_ceil(self.average().max(1)) as usize }
    }
}

/// Bytes that a process holds for itself alone; 0 for one that is gone.
///
/// Its anonymous pages: reading that costs some 30 µs. The exact proportional share (`smaps_rollup`) walks all
/// pages, and what files back is shared by all processes of one program.
pub(crate) fn private_bytes(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "RssAnon:").unwrap_or(0)
}

/// Bytes that a process has of files, its program above all. All processes of one program share them.
pub(crate) fn shared_bytes(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "RssFile:").unwrap_or(0)
}

/// Bytes of memory of this host.
pub(crate) fn host_bytes() -> u64 {
    // Unreadable: no budget that is a share of it can be exceeded.
    field("/proc/meminfo", "MemTotal:").unwrap_or(u64::MAX)
}

/// A line `Name:   123 kB` of a file below `/proc`, in bytes.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_host_hold_something() {
        let mine = private_bytes(std::process::id());
        assert!(mine > 100 << 10 && mine < host_bytes(), "{mine}");
        assert_eq!(private_bytes(0), 0);
        assert!(shared_bytes(std::process::id()) > 100 << 10);
    }

    #[test]
    fn excess_is_counted_in_processes() {
        let memory = |used, processes| Memory { used, processes, budget: 1000 };
        assert_eq!(memory(900, 9).excess(), 0);
        assert_eq!(memory(1000, 10).excess(), 1);
        assert_eq!(memory(1300, 13).excess(), 4);
        assert_eq!(memory(0, 0).excess(), 0);
        assert_eq!(memory(0, 0).fits(), 1);
        let roomy = Memory { used: 100 << 20, processes: 1, budget: 1 << 30 };
        assert_eq!(roomy.fits(), 10);
        assert_eq!(Memory { processes: 20, ..roomy }.fits(), 19);
    }
}
