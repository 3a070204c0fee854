//! What the stub saw: turns, who holds which session, and frames that were no frames.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    MAX_ENTRIES,
    audit::{Audit, Findings},
};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `<process id>/<index of the server in its process>`.
    pub server: String,
    /// The connection that caused it, counted from 1 in each process; 0 when none did.
    pub connection: u64,
    /// Empty for [`Event::Crash`] and [`Event::Malformed`].
    pub session: String,
    /// The turn, counted from 1 in each process; 0 for what is no turn's.
    pub turn: u64,
    /// The last `nonce:…` of the turn's prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A server loaded the session.
    Open,
    /// It closed the session.
    Close,
    /// `session.create` for a session that has a history, which is thereby out of reach.
    Recreated,
    /// A prompt came while a turn of its session ran here.
    Queued,
    /// A turn began, before any of its events went out.
    Begin,
    /// It ended, before its `session.idle` or `session.error` went out.
    End,
    /// It was ended by `session.abort`.
    Abort,
    /// It ended with its session or its server.
    Lost,
    /// The server went down with everything it held.
    Crash,
    /// Bytes that are no message, and why.
    Malformed(String),
}

/// A shared, append-only record of any number of servers. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    frames: AtomicU64,
    turns: AtomicU64,
    connections: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Entry>,
    audit: Audit,
    file: Option<File>,
}

impl Ledger {
    /// A ledger in memory only, of the last [`MAX_ENTRIES`] lines; what was found wrong is kept longer.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// A ledger that also appends every line to the file at `path`, which several processes may share.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let ledger = Self::default();
        ledger.lock().file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        Ok(ledger)
    }

    /// The lines of a file, in the order in which they were written; see [`Audit::of`].
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let text = std::fs::read_to_string(path)?;
        text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
    }

    /// The lines in memory, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// What is wrong with the lines so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        self.lock().audit.findings().clone()
    }

    /// Frames received, well-formed ones only.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.0.frames.load(Ordering::Relaxed)
    }

    pub(super) fn count_frames(&self, n: u64) {
        self.0.frames.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn next_connection(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Writes a line that is no turn's.
    pub(super) fn note(&self, server: &str, connection: u64, session: &str, event: Event) {
        let (server, session) = (server.to_owned(), session.to_owned());
        self.write(Entry { at_ms: now_ms(), server, connection, session, turn: 0, nonce: None, event });
    }

    /// Begins a turn, which ends with the returned guard.
    pub(super) fn begin(
        &self,
        server: &str,
        connection: u64,
        session: &str,
        nonce: Option<String>,
    ) -> OpenTurn {
        let turn = self.0.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let (server, session) = (server.to_owned(), session.to_owned());
        let entry = Entry { at_ms: now_ms(), server, connection, session, turn, nonce, event: Event::Begin };
        self.write(entry.clone());
        OpenTurn { ledger: self.clone(), entry: Some(entry) }
    }

    fn write(&self, entry: Entry) {
        let mut inner = self.lock();
        inner.audit.see(&entry);
        if let Some(file) = &mut inner.file {
            let mut line = serde_json::to_string(&entry).expect("an entry has only plain fields");
            line.push('\n');
            // One write per line: with O_APPEND, lines of several processes stay whole and in order.
            if let Err(error) = file.write_all(line.as_bytes()) {
                eprintln!("stub CLI: ledger file: {error}");
                inner.file = None;
            }
        }
        if inner.entries.len() == MAX_ENTRIES {
            inner.entries.pop_front();
        }
        inner.entries.push_back(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn under way. Dropping it unended means that it was lost.
#[derive(Debug)]
pub(super) struct OpenTurn {
    ledger: Ledger,
    entry: Option<Entry>,
}

impl OpenTurn {
    pub(super) fn close(mut self, event: Event) {
        self.write(event);
    }

    fn write(&mut self, event: Event) {
        if let Some(entry) = self.entry.take() {
            self.ledger.write(Entry { at_ms: now_ms(), event, ..entry });
        }
    }
}

impl Drop for OpenTurn {
    fn drop(&mut self) {
        self.write(Event::Lost);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
