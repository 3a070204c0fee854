//! What outlives a session's time in a server: its persisted events.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::MAX_HISTORY;

/// Where servers keep the history of sessions. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Store(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Memory(Arc<Mutex<HashMap<String, VecDeque<String>>>>),
    Dir(PathBuf),
}

impl Store {
    /// Gone with its last clone. Two servers given the same one share their state, as CLI servers on one volume do.
    #[must_use]
    pub fn memory() -> Self {
        Self(Kind::Memory(Arc::default()))
    }

    /// `<home>/session-state/<id>/events.jsonl`, as the CLI keeps it in `COPILOT_HOME`.
    #[must_use]
    pub fn dir(home: &Path) -> Self {
        Self(Kind::Dir(home.join("session-state")))
    }

    /// The session's persisted events; `None` for a session that never had one.
    pub(super) fn load(&self, id: &str) -> Option<VecDeque<String>> {
        match &self.0 {
            Kind::Memory(map) => lock(map).get(id).cloned(),
            Kind::Dir(dir) => {
                let text = fs::read_to_string(dir.join(id).join("events.jsonl")).ok()?;
                let skip = text.lines().count().saturating_sub(MAX_HISTORY);
                Some(text.lines().skip(skip).map(str::to_owned).collect())
            }
        }
    }

    pub(super) fn append(&self, id: &str, event: &str) {
        match &self.0 {
            Kind::Memory(map) => {
                let mut map = lock(map);
                let history = map.entry(id.to_owned()).or_default();
                if history.len() == MAX_HISTORY {
                    history.pop_front();
                }
                history.push_back(event.to_owned());
            }
            Kind::Dir(dir) => {
                if let Err(error) = append(&dir.join(id), event) {
                    eprintln!("stub CLI: {}: {error}", dir.join(id).display());
                }
            }
        }
    }

    /// Whether there was anything to remove.
    pub(super) fn remove(&self, id: &str) -> bool {
        match &self.0 {
            Kind::Memory(map) => lock(map).remove(id).is_some(),
            Kind::Dir(dir) => fs::remove_dir_all(dir.join(id)).is_ok(),
        }
    }

    /// Every session that has a history.
    pub(super) fn ids(&self) -> Vec<String> {
        match &self.0 {
            Kind::Memory(map) => lock(map).keys().cloned().collect(),
            Kind::Dir(dir) => {
                let entries = fs::read_dir(dir).into_iter().flatten().flatten();
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
        }
    }
}

fn append(dir: &Path, event: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("events.jsonl"))?;
    file.write_all(format!("{event}\n").as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
