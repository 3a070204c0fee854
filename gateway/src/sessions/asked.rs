//! What CLI servers asked a client, and where its answers go back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use jetway_wire::Id;

use super::{leg::Leg, registry::Session};

/// Requests of CLI servers that a client has not answered yet.
///
/// Every server numbers its requests from 1, so a client with two servers would see two requests of one id:
/// each gets a number of the client's own.
#[derive(Default)]
pub(crate) struct Asked {
    last: i64,
    open: BTreeMap<i64, Question>,
}

/// One request of a CLI server.
pub(crate) struct Question {
    pub(crate) leg: Arc<Leg>,
    /// The server's own id for it.
    pub(crate) id: Id,
    /// The session that it is about.
    pub(crate) session: Option<Arc<Session>>,
    /// The whole message, for a client that takes over.
    pub(crate) body: Box<[u8]>,
}

impl Asked {
    /// Notes a request and returns the id under which the client is to see it.
    pub(crate) fn ask(&mut self, question: Question) -> Id {
        self.last += 1;
        self.open.insert(self.last, question);
        Id::Number(self.last)
    }

    /// The request that the client answers, if there is one.
    pub(crate) fn answered(&mut self, id: &Id) -> Option<Question> {
        match id {
            Id::Number(n) => self.open.remove(n),
            Id::Text(_) => None,
        }
    }

    /// How many of that leg wait.
    pub(crate) fn of(&self, leg: &Arc<Leg>) -> usize {
        self.open.values().filter(|q| Arc::ptr_eq(&q.leg, leg)).count()
    }

    /// Takes what that leg asked.
    pub(crate) fn take_of(&mut self, leg: &Arc<Leg>) -> Vec<Question> {
        self.open.extract_if(.., |_, q| Arc::ptr_eq(&q.leg, leg)).map(|(_, q)| q).collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Drops what was asked in a session's turn that is lost.
    pub(crate) fn lapse(&mut self, session: &Session) {
        self.open.retain(|_, q| !q.session.as_ref().is_some_and(|s| std::ptr::eq(&**s, session)));
    }

    /// Drops what a leg that is gone asked: nobody waits for those answers any more.
    pub(crate) fn forget(&mut self, leg: &Arc<Leg>) {
        self.open.retain(|_, q| !Arc::ptr_eq(&q.leg, leg));
    }
}
