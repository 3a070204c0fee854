//! Why a lease or a turn was not had.

use crate::store::{Place, StoreError};
use std::{io, sync::Arc, time::Duration};

/// Why there is no lease, or no turn.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// It is held, and one may or would not wait.
    #[error("busy: {} in line before", .0.ahead)]
    Busy(Place),
    /// The wait in line was too long.
    #[error("waited {after:?} in line, {} still before", place.ahead)]
    TimedOut {
        /// How long.
        after: Duration,
        /// How far it got.
        place: Place,
    },
    /// The store did not answer, until the wait was over.
    #[error("the lock store did not answer for {after:?}: {source}")]
    Store {
        /// How long it was asked.
        after: Duration,
        /// Its last failure.
        source: StoreError,
    },
    /// One answer took so long that waiting for it was given up.
    #[error("the lock store did not answer within {0:?}")]
    StoreTimedOut(Duration),
    /// The highest fence of the session could not be read from where it is kept.
    #[error("cannot read the session's fence: {0}")]
    Floor(Arc<io::Error>),
    /// Reading the highest fence took too long.
    #[error("reading the session's fence took longer than {0:?}")]
    FloorTimedOut(Duration),
    /// This process is shutting down.
    #[error("shutting down")]
    Closed,
}

impl AcquireError {
    /// As in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::TimedOut { .. } => "timeout",
            Self::Store { .. } | Self::StoreTimedOut(_) => "store",
            Self::Floor(_) | Self::FloorTimedOut(_) => "floor",
            Self::Closed => "closed",
        }
    }

    /// Where in line one stood, if one did.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Busy(place) | Self::TimedOut { place, .. } => Some(place),
            _ => None,
        }
    }
}
