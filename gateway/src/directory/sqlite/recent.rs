//! Entries that were read a moment ago: a session is often asked for many times in a row.
//!
//! A change makes its entry forgotten before whoever made it hears that it is done, and what was read before a change
//! is not learned after it: within this gateway an answer is never older than the last change that somebody knows of.
//! A gateway that takes this one's place changes the same file for a while; hence the bound on time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::directory::entry::{Entry, Key, Status};

/// How long an entry is taken for what the file says.
const FRESH: Duration = Duration::from_secs(1);
/// How many are kept.
const MOST: usize = 4096;
/// The longest note of an entry that is kept.
const NOTE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, (Entry, Instant), ahash::RandomState>,
    changes: u64,
}

/// How things stood before something was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(u64);

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        let inner = self.lock();
        let (entry, since) = inner.entries.get(key)?;
        (since.elapsed() < FRESH).then(|| entry.clone())
    }

    pub(super) fn before(&self) -> Before {
        Before(self.lock().changes)
    }

    /// Keeps what was read since then, unless something was changed meanwhile. Records are not kept: a session that is
    /// shared may come before one's own record.
    pub(super) fn learn(&self, before: Before, entry: &Entry) {
        let long = entry.note.as_ref().is_some_and(|note| note.len() > NOTE);
        let mut inner = self.lock();
        if inner.changes != before.0 || entry.status == Status::Terminated || long {
            return;
        }
        if inner.entries.len() >= MOST {
            inner.entries.clear();
        }
        inner.entries.insert(entry.key.clone(), (entry.clone(), Instant::now()));
    }

    /// These were changed.
    pub(super) fn forget(&self, keys: &[Key]) {
        let mut inner = self.lock();
        inner.changes += 1;
        for key in keys {
            inner.entries.remove(key);
        }
    }

    /// Some were changed.
    pub(super) fn forget_all(&self) {
        let mut inner = self.lock();
        inner.changes += 1;
        inner.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{New, Place, UnixMs};
    use jetway_config::Identity;

    fn entry(id: &str) -> Entry {
        let owner = Identity { tenant: "acme".parse().unwrap(), user: "ada".parse().unwrap() };
        let place = Place { server: "one".into(), group: None, exclusive: true };
        let key = Key { owner, id: id.parse().unwrap() };
        Entry::new(key, &New { place, ephemeral: false, most: 1 }, UnixMs(1))
    }

    #[test]
    fn what_was_read_before_a_change_is_not_learned_after_it() {
        let (recent, entry) = (Recent::default(), entry("a"));
        let before = recent.before();
        recent.forget(std::slice::from_ref(&entry.key));
        recent.learn(before, &entry);
        assert_eq!(recent.get(&entry.key), None);
        recent.learn(recent.before(), &entry);
        assert_eq!(recent.get(&entry.key).as_ref(), Some(&entry));
        recent.forget(std::slice::from_ref(&entry.key));
        assert_eq!(recent.get(&entry.key), None);
    }

    #[test]
    fn it_is_bounded_and_keeps_no_records() {
        let recent = Recent::default();
        for n in 0..=MOST {
            recent.learn(recent.before(), &entry(&n.to_string()));
        }
        assert_eq!(recent.lock().entries.len(), 1);
        let mut record = entry("record");
        record.status = Status::Terminated;
        recent.learn(recent.before(), &record);
        let mut talkative = entry("talkative");
        talkative.note = Some("x".repeat(NOTE + 1).into());
        recent.learn(recent.before(), &talkative);
        assert_eq!((recent.get(&record.key), recent.get(&talkative.key)), (None, None));
    }
}
