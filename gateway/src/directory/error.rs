//! What can go wrong, operation by operation.

use std::{path::PathBuf, sync::Arc};

/// The directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its directory cannot be made or is not ours.
    #[error("directory.path {}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is of a later Jetway.
    #[error("directory.path {}: its version is {found}, and this Jetway knows {known}", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The last that is known here.
        known: u32,
    },
    /// What Redis holds is a later Jetway's.
    #[error(
        "redis.url: the version of the session directory there is {found}, and this Jetway knows {known}"
    )]
    NewerRedis {
        /// Its version.
        found: u32,
        /// The last that is known here.
        known: u32,
    },
    /// Redis may forget entries at will.
    #[error("redis.url: maxmemory-policy is {0:?}, so Redis may evict sessions: set it to \"noeviction\"")]
    Evicts(String),
    /// The store did not answer as it should.
    #[error("the session directory: {0}")]
    Store(#[from] StoreError),
}

/// The store did not answer as it should. A change that was asked for may have been made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Too many wait, or it does not answer.
    #[error("does not answer in time")]
    Busy,
    /// It has been closed.
    #[error("is closed")]
    Closed,
    /// SQLite says so.
    #[error("SQLite: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// Redis says so.
    #[error("Redis: {0}")]
    Redis(Arc<redis::RedisError>),
    /// What is stored is no entry: another program, or a damaged file.
    #[error("holds an entry whose {0} makes no sense")]
    Corrupt(&'static str),
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(e))
    }
}

impl From<redis::RedisError> for StoreError {
    fn from(e: redis::RedisError) -> Self {
        if e.is_timeout() { Self::Busy } else { Self::Redis(Arc::new(e)) }
    }
}

/// An id cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    /// On that CLI server, or in the state that it shares, it is another's.
    #[error("the id is another's there")]
    Taken,
    /// The owner has as many sessions as it may.
    #[error("the owner has too many sessions")]
    Full,
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A session cannot be moved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MoveError {
    /// It was moved meanwhile.
    #[error("the session was moved meanwhile (epoch {epoch})")]
    Stale {
        /// Its epoch.
        epoch: u64,
    },
    /// At that place the id is another's.
    #[error("the id is another's there")]
    Taken,
    /// There is no such session (any more).
    #[error("there is no such session")]
    NotFound,
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entry cannot be changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// There is no such session (any more).
    #[error("there is no such session")]
    NotFound,
    /// It would have more than [`MAX_MEMBERS`](super::MAX_MEMBERS), or a longer note than
    /// [`NOTE_BYTES`](super::NOTE_BYTES).
    #[error("the session would have too many members or too long a note")]
    Full,
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A fence cannot be recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FenceError {
    /// A later holder was there.
    #[error("a later turn was there (fence {highest})")]
    Superseded {
        /// The highest seen.
        highest: u64,
    },
    /// There is no such session (any more).
    #[error("there is no such session")]
    NotFound,
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A page cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListError {
    /// The cursor is not one that a page of the same sort and order gave.
    #[error("the cursor is not of this list")]
    BadCursor,
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
}
