//! What a store of leases is asked and what it answers. [`Table`](crate::table::Table) says what each
//! command does; the stores differ in where the table is.

mod memory;

pub use memory::MemoryStore;

use crate::{fence::Fence, key::Key, redis::RedisStore};
use jetway_config::UserId;
use std::{fmt, sync::Arc, time::Duration};

/// A process that takes leases, for as long as it runs: a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub u64);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One attempt at a lease, and then the lease itself: never used twice, so that holding it is proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// Whose.
    pub node: Node,
    /// Which of the node's.
    pub seq: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.seq)
    }
}

/// Asks for a lease: takes it, takes up an offer, gets in line, or looks how far the line has moved.
/// Sent as often as one likes; a ticket is in line or holds once.
#[derive(Debug, Clone)]
pub struct Enter {
    /// What is wanted.
    pub key: Key,
    /// Who asks.
    pub ticket: Ticket,
    /// On whose behalf, for others to see.
    pub who: UserId,
    /// The lease's fence must be above this.
    pub floor: Fence,
    /// How many may be in line, this one included; 0 does not wait.
    pub max_waiters: usize,
}

/// Where in line a ticket stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// How many are in line before it.
    pub ahead: usize,
    /// For whom the lease is held; nobody while a store that lost its memory grants nothing.
    pub holder: Option<UserId>,
    /// How long from now the lease ends at the latest, if it is not renewed.
    pub left: Duration,
}

/// The answer to [`Enter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The lease is the ticket's.
    Held {
        /// Its number.
        fence: Fence,
        /// Whether others are in line already.
        wanted: bool,
    },
    /// It is not; the ticket is in line.
    Waiting(Place),
    /// Neither is it nor is there room in line.
    Full(Place),
    /// The store has lost its memory and must be told the highest fence known.
    Unseeded,
}

/// Gives a lease back, takes back an offer's acceptance, or leaves the line: whichever applies.
#[derive(Debug, Clone)]
pub struct Leave {
    /// What was wanted.
    pub key: Key,
    /// By whom.
    pub ticket: Ticket,
    /// As in [`Enter`].
    pub who: UserId,
}

/// Keeps a lease for another time to live.
#[derive(Debug, Clone)]
pub struct Renew {
    /// What is held.
    pub key: Key,
    /// By whom.
    pub ticket: Ticket,
    /// On whose behalf by now.
    pub who: UserId,
    /// The lease's number, for a store that has lost the lease.
    pub fence: Fence,
}

/// The answer to [`Renew`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Still the ticket's.
    Kept {
        /// Whether others are in line.
        wanted: bool,
    },
    /// It is not the ticket's any more.
    Gone,
}

/// What a store tells the process of a ticket unasked. It may get lost: whatever it brings about also
/// comes about, later, without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Whom it is for.
    pub ticket: Ticket,
    /// What it says.
    pub what: What,
}

/// What a [`Notice`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The lease is free and the ticket first in line: enter again, soon.
    Offered,
    /// The ticket is next after one that has been offered the lease: enter again in this time, in case
    /// that one is dead.
    Next(Duration),
    /// Somebody waits for the lease that the ticket holds.
    Wanted,
}

/// What a process hears from its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// For one of its tickets.
    Notice(Notice),
    /// The connection was gone and is back: notices have been missed, leases may be.
    Back,
}

/// Called with what a store has to say; must not block.
pub type Ear = Arc<dyn Fn(Heard) + Send + Sync>;

/// Why a store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No connection.
    #[error("cannot connect to Redis: {0}")]
    Connect(Arc<redis::RedisError>),
    /// The last attempt to connect failed a moment ago.
    #[error("not connected to Redis")]
    Down,
    /// The connection or the server failed in mid-command: it may have been carried out.
    #[error("Redis did not carry out {command}: {source}")]
    Command {
        /// Which command.
        command: &'static str,
        /// What went wrong.
        source: Arc<redis::RedisError>,
    },
    /// An answer of another shape than the scripts give.
    #[error("Redis answered {command} with something else")]
    Nonsense {
        /// Which command.
        command: &'static str,
    },
    /// Redis may drop a lease or the fences to make room.
    #[error(
        "Redis evicts keys when memory is short (maxmemory-policy {0:?}): set maxmemory-policy noeviction"
    )]
    Evicts(String),
}

/// Where leases are kept.
#[derive(Clone)]
pub(crate) enum Store {
    Memory(MemoryStore),
    Redis(RedisStore),
}

impl Store {
    pub(crate) async fn enter(&self, enter: &Enter) -> Result<Answer, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.enter(enter)),
            Self::Redis(store) => store.enter(enter).await,
        }
    }

    pub(crate) async fn leave(&self, leave: &Leave) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => {
                store.leave(leave);
                Ok(())
            }
            Self::Redis(store) => store.leave(leave).await,
        }
    }

    /// One outcome per lease, in their order; none where the store did not answer.
    pub(crate) async fn renew(&self, leases: &[Renew]) -> Vec<Option<Renewed>> {
        match self {
            Self::Memory(store) => leases.iter().map(|lease| Some(store.renew(lease))).collect(),
            Self::Redis(store) => store.renew(leases).await,
        }
    }
}
