//! What the model endpoint was asked, and how each request ended.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::MAX_ENTRIES;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The request, unique in this ledger: joins `began` to its end.
    pub call: u64,
    /// The last `nonce:…` of the prompt.
    pub nonce: Option<String>,
    /// What happened.
    pub event: Event,
    /// The model asked for.
    pub model: String,
    /// The first 12 hexadecimal digits of the API key's SHA-256.
    pub api_key_sha256_prefix: Option<String>,
    /// Messages in the conversation, of every role.
    pub messages: usize,
    /// Which request of its turn: 0, then one more after each message of tool calls.
    pub round: usize,
}

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It was read.
    Began,
    /// Its answer, possibly an error, was handed over whole.
    Ended,
    /// The client went away before that, or the script cut the answer.
    Aborted,
}

/// A shared, append-only record. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    file: Option<File>,
    announce: bool,
}

impl Ledger {
    /// A ledger in memory only, of the last [`MAX_ENTRIES`] lines.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A ledger that also appends every line to the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let ledger = Self::default();
        ledger.lock().file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        Ok(ledger)
    }

    /// The same ledger, which from now on also writes each line to standard error.
    #[must_use]
    pub fn announced(self) -> Self {
        self.lock().announce = true;
        self
    }

    /// The lines in memory, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// Opens a request: writes `entry`, and its end when the returned guard is ended or dropped.
    pub(super) fn open(&self, entry: Entry) -> Call {
        self.write(entry.clone());
        Call { ledger: self.clone(), entry: Some(entry) }
    }

    fn write(&self, entry: Entry) {
        let mut inner = self.lock();
        let mut line = serde_json::to_string(&entry).expect("an entry has only plain fields");
        line.push('\n');
        if inner.announce {
            eprint!("{line}");
        }
        // One write per line, so that a reader of the file never sees half of one.
        if let Some(Err(error)) = inner.file.as_mut().map(|file| file.write_all(line.as_bytes())) {
            eprintln!("scripted model: ledger file: {error}");
            inner.file = None;
        }
        if inner.entries.len() == MAX_ENTRIES {
            inner.entries.pop_front();
        }
        inner.entries.push_back(entry);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way. Dropping it unended means that its client went away.
#[derive(Debug)]
pub(super) struct Call {
    ledger: Ledger,
    entry: Option<Entry>,
}

impl Call {
    /// The answer was handed over whole.
    pub(super) fn ended(mut self) {
        self.close(Event::Ended);
    }

    fn close(&mut self, event: Event) {
        if let Some(entry) = self.entry.take() {
            self.ledger.write(Entry { at_ms: now_ms(), event, ..entry });
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.close(Event::Aborted);
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
