//! Where a client's frames go: to its socket, or to a part of Jetway that is a client like any other.

use std::{
    io,
    sync::{Arc, Weak},
};

use crate::net::writer::{Backlog, Writer};

/// A client's way out.
pub(crate) enum Outlet {
    /// A connection of somebody's application.
    Socket(Arc<Writer>),
    /// A part of Jetway, which has its [`Client`](super::client::Client); so the way back is weak.
    Inside(Weak<dyn Inbox>),
}

/// Takes frames inside Jetway. What is kept of them has a bound of its own that asks nobody to wait: the CLI
/// server never stands still for somebody who reads a copy.
pub(crate) trait Inbox: Send + Sync {
    /// Takes whole frames, in the order in which they came.
    fn deliver(&self, frames: &[u8]);
}

impl Outlet {
    /// Sends whole frames.
    pub(crate) fn send(&self, frames: &[u8]) -> Backlog {
        match self {
            Outlet::Socket(writer) => writer.send(frames),
            Outlet::Inside(inbox) => {
                if let Some(inbox) = inbox.upgrade() {
                    inbox.deliver(frames);
                }
                Backlog::None
            }
        }
    }

    /// Waits until all that was sent is taken.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        match self {
            Outlet::Socket(writer) => writer.drained().await,
            Outlet::Inside(_) => Ok(()),
        }
    }

    /// Closes it, whatever still waits. A part of Jetway ends by itself.
    pub(crate) fn give_up(&self) {
        if let Outlet::Socket(writer) = self {
            writer.give_up();
        }
    }

    /// Whether the other end is gone and everything before that was read.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Outlet::Socket(writer) => writer.has_ended(),
            Outlet::Inside(inbox) => inbox.strong_count() == 0,
        }
    }
}
