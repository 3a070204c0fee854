//! What a user's sessions ask their processes to be held to, beyond the operator's limits. Pure, but for the files
//! that are to be measured.

use std::path::PathBuf;

use jetway_config::sandbox::ProcessLimits;

use super::disk::Disk;

/// Limits that sessions have: the processes that serve them take no more together. Of several sessions' limits the
/// tightest counts: only so does each of them hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors, 1.5 is one and a half.
    pub cpu: Option<f64>,
    /// Directories below the user's home, and how many bytes each may hold.
    pub disk: Vec<(PathBuf, u64)>,
}

impl Bounds {
    /// Adds what another session asks for.
    pub fn and(mut self, other: Self) -> Self {
        self.memory = self.memory.into_iter().chain(other.memory).min();
        self.cpu = self.cpu.into_iter().chain(other.cpu).reduce(f64::min);
        self.disk.extend(other.disk);
        self
    }

    /// Memory and processors under the operator's limits, which stay the highest.
    pub(super) fn within(&self, limits: &ProcessLimits) -> (u64, Option<f64>) {
        let memory = self.memory.map_or(limits.memory.0, |bytes| bytes.min(limits.memory.0));
        (memory, self.cpu.into_iter().chain(limits.cpu).reduce(f64::min))
    }

    /// Has the directories measured beside the first one, which is the home. What is measured already goes on.
    pub(super) fn measure(&self, disks: &mut Vec<Disk>) {
        let wanted = |disk: &Disk| self.disk.iter().any(|(path, limit)| disk.is(path, *limit));
        let mut at = 0;
        disks.retain(|disk| {
            at += 1;
            at == 1 || wanted(disk)
        });
        for (path, limit) in &self.disk {
            if !disks[1..].iter().any(|disk| disk.is(path, *limit)) {
                disks.push(Disk::part(path.clone(), *limit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetway_config::ByteSize;

    #[test]
    fn the_tightest_counts_and_the_operators_is_the_highest() {
        let of = |memory, cpu| Bounds { memory, cpu, disk: Vec::new() };
        let both = of(Some(3), None).and(of(None, Some(2.0))).and(of(Some(5), Some(0.5)));
        assert_eq!(both, of(Some(3), Some(0.5)));
        let limits = ProcessLimits { memory: ByteSize(4), cpu: Some(1.0), ..ProcessLimits::default() };
        assert_eq!(both.within(&limits), (3, Some(0.5)));
        assert_eq!(of(Some(9), Some(9.0)).within(&limits), (4, Some(1.0)));
        assert_eq!(of(None, None).within(&ProcessLimits { cpu: None, ..limits }), (4, None));
    }

    #[test]
    fn what_is_measured_already_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut disks = vec![Disk::new(dir.path().to_owned(), 100)];
        let bounds = |disk: &[(&str, u64)]| Bounds {
            disk: disk.iter().map(|(name, limit)| (path(name), *limit)).collect(),
            ..Bounds::default()
        };
        bounds(&[("a", 1), ("b", 2)]).measure(&mut disks);
        // Counted once: what comes on top is noticed from here on.
        disks[2].is_beyond();
        bounds(&[("b", 2), ("c", 3)]).measure(&mut disks);
        assert!(disks.len() == 3 && disks[1].is(&path("b"), 2) && disks[2].is(&path("c"), 3));
        assert!(!disks[1].is_first() && disks[2].is_first());
        Bounds::default().measure(&mut disks);
        assert!(disks.len() == 1 && disks[0].is(dir.path(), 100));
    }
}
