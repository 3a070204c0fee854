//! What a user's files take. There is no quota that works everywhere, so they are counted when there is a reason to.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

/// A file takes at least this, however small: its entry, and its share of what file systems keep of it.
const LEAST: u64 = 1 << 10;
/// What a CLI itself may write in a home that is full already.
const SLACK: u64 = 1 << 20;
/// Files are counted when the file system has lost this part of the limit since the last time,
const PART: u64 = 16;
/// and after this time at the latest, since what others freed may hide it: a walk through a home is some milliseconds.
const AT_LATEST: Duration = Duration::from_secs(30);
/// The same of a part of a home that has a limit of its own, which is smaller and which few have;
const SOON: Duration = Duration::from_secs(5);
/// or after so many times of what the last count took, if that is longer: then it takes at most 2 % of a processor.
const REST: u32 = 50;

/// One home, watched while its processes run.
#[derive(Debug)]
pub(super) struct Disk {
    home: PathBuf,
    limit: u64,
    /// What there was at the first count: who starts above the limit may still make room.
    first: Option<u64>,
    counted: Instant,
    /// Bytes free then.
    free: u64,
    /// After which time it is counted at the latest.
    at_latest: Duration,
    /// It is a part of a home.
    part: bool,
}

impl Disk {
    pub(super) fn new(home: PathBuf, limit: u64) -> Self {
        let free = free(&home);
        Self { home, limit, first: None, counted: Instant::now(), free, at_latest: AT_LATEST, part: false }
    }

    /// A part of a home that has a limit of its own.
    pub(super) fn part(dir: PathBuf, limit: u64) -> Self {
        Self { at_latest: SOON, part: true, ..Self::new(dir, limit) }
    }

    /// Whether it is that directory, with that limit.
    pub(super) fn is(&self, path: &Path, limit: u64) -> bool {
        self.home == path && self.limit == limit
    }

    /// Whether it is worth counting now.
    pub(super) fn is_due(&self) -> bool {
        let lost = self.free.saturating_sub(free(&self.home));
        self.first.is_none() || lost > self.limit / PART || self.counted.elapsed() > self.at_latest
    }

    /// Counts; whether the home is beyond its limit. Reads directories: not for the event loop.
    pub(super) fn is_beyond(&mut self) -> bool {
        self.free = free(&self.home);
        self.counted = Instant::now();
        let size = size(&self.home);
        if self.part {
            self.at_latest = SOON.max(self.counted.elapsed() * REST).min(AT_LATEST);
        }
        let first = *self.first.get_or_insert(size);
        size > self.limit && size > first.saturating_add(SLACK)
    }
}

/// Bytes that unprivileged users may still write; 0 if that cannot be learnt.
fn free(path: &Path) -> u64 {
    statvfs(path).map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}

/// Bytes on disk below `dir`. What vanishes meanwhile does not count; links are not followed.
pub(crate) fn size(dir: &Path) -> u64 {
    let mut total = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                dirs.push(entry.path());
            }
            // A file of many names counts once for each: that is rare, and never too little.
            total = total.saturating_add((meta.blocks() * 512).max(LEAST));
        }
    }
    total
}

#[cfg(test)]
impl Disk {
    pub(super) fn is_first(&self) -> bool {
        self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_beyond_the_limit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![1; bytes]).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        write("a/full", 3 << 20);
        let mut disk = Disk::new(dir.path().to_owned(), 2 << 20);
        assert!(disk.is_due());
        // Full from the start: only what comes on top counts.
        assert!(!disk.is_beyond());
        assert!(!disk.is_due() || free(dir.path()) < disk.free);
        write("more", 2 << 20);
        assert!(disk.is_beyond());
        fs::remove_file(dir.path().join("more")).unwrap();
        assert!(!disk.is_beyond());
    }

    #[test]
    fn small_files_count_too() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..100 {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        assert!(size(dir.path()) >= 100 * LEAST);
    }
}
