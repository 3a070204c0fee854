//! What a client asked a CLI server, and what is to happen when the reply comes.

use std::sync::Arc;

use tokio::sync::oneshot;

use jetway_config::SessionId;
use jetway_wire::{Id, Value, catalogue};

use super::{
    client::Client,
    leg::Leg,
    registry::Session,
    revival::Route,
    turn::{Outcome, TurnId},
};

/// A reply, for a caller inside Jetway: the result's or the error's JSON.
pub(crate) type Answer = Result<Box<[u8]>, Box<[u8]>>;

/// Who waits for a reply.
pub(crate) enum Origin {
    /// The client, under this id.
    Client(Id),
    /// A task of Jetway's own.
    Jetway(oneshot::Sender<Answer>),
}

/// What a reply changes.
pub(crate) enum Then {
    Nothing,
    /// A session was to be attached. What stands already is undone if it fails.
    Attach {
        session: Arc<Session>,
        /// Its route on this leg is new.
        routed: bool,
        /// Jetway did not know it before.
        claimed: bool,
    },
    /// The CLI was to choose the session's id.
    Learn,
    /// The session was to be left.
    Detach(Arc<Session>),
    /// The session was to be removed.
    Delete(Arc<Session>),
    /// A turn was to begin.
    Turn {
        session: Arc<Session>,
        turn: TurnId,
    },
}

impl Then {
    /// The session that it is about.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Then::Attach { session, .. }
            | Then::Detach(session)
            | Then::Delete(session)
            | Then::Turn { session, .. } => Some(session),
            Then::Nothing | Then::Learn => None,
        }
    }
}

impl Then {
    /// The turn that was to begin.
    pub(crate) fn turn(&self) -> Option<TurnId> {
        match self {
            Then::Turn { turn, .. } => Some(*turn),
            _ => None,
        }
    }

    /// The request succeeded.
    pub(crate) fn done(&self, result: Value<'_>, leg: &Leg, client: &Client) {
        // `detach` and `delete` may say no inside of a success.
        let agreed = || result.get("success").and_then(Value::as_bool) != Some(false);
        match self {
            Then::Nothing | Then::Turn { .. } => {}
            Then::Attach { session, .. } => session.moved(leg.server().id()),
            Then::Learn => {
                let id = result.get("sessionId").and_then(Value::as_str);
                let id = id.and_then(|id| id.parse::<SessionId>().ok());
                if let Some(session) = id.and_then(|id| client.claim(&id, leg)) {
                    leg.route(Route::new(session, b"{}"));
                }
            }
            Then::Detach(session) if agreed() => leg.unroute(&session.key.id, Outcome::Aborted),
            Then::Delete(session) if agreed() => {
                leg.unroute(&session.key.id, Outcome::Aborted);
                client.forget(session);
            }
            Then::Detach(_) | Then::Delete(_) => {}
        }
    }

    /// It failed, or was never sent: what was done ahead of it is undone.
    pub(crate) fn undo(&self, leg: &Leg, client: &Client) {
        match self {
            Then::Attach { session, routed, claimed } => {
                if *routed {
                    leg.unroute(&session.key.id, Outcome::Refused);
                }
                if *claimed {
                    client.forget(session);
                } else {
                    client.release(session, leg);
                }
            }
            Then::Turn { session, turn } => session.turn_refused(*turn),
            Then::Nothing | Then::Learn | Then::Detach(_) | Then::Delete(_) => {}
        }
    }
}

/// A request that a CLI server has not answered yet.
pub(crate) struct Waiting {
    pub(crate) origin: Origin,
    pub(crate) then: Then,
    /// What is to become of the answer before the client sees it.
    pub(crate) answer: &'static catalogue::Answer,
}

/// Room for requests that an idle leg keeps.
const KEPT: usize = 4;

/// The requests of one leg that have no reply yet, by their id on that leg.
#[derive(Default)]
pub(crate) struct Pending {
    last: i64,
    /// In no order; nearly always a handful, so that a search beats an index.
    open: Vec<(i64, Waiting)>,
    /// Once the leg is gone nothing more may wait on it.
    closed: bool,
}

impl Pending {
    /// Notes a request and returns its id on the leg; gives it back when the leg is gone.
    pub(crate) fn insert(&mut self, waiting: Waiting) -> Result<Id, Waiting> {
        if self.closed {
            return Err(waiting);
        }
        self.last += 1;
        self.open.push((self.last, waiting));
        Ok(Id::Number(self.last))
    }

    /// The request that a reply answers.
    pub(crate) fn remove(&mut self, id: &Id) -> Option<Waiting> {
        let Id::Number(id) = id else { return None };
        let at = self.open.iter().position(|(n, _)| n == id)?;
        let (_, waiting) = self.open.swap_remove(at);
        if self.open.is_empty() && self.open.capacity() > KEPT {
            self.open = Vec::new();
        }
        Some(waiting)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether a request of that id waits already.
    pub(crate) fn has(&self, id: &Id) -> bool {
        self.open.iter().any(|(_, w)| matches!(&w.origin, Origin::Client(other) if other == id))
    }

    /// Whether [`Pending::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes all that wait; later requests are given back.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.closed = true;
        std::mem::take(&mut self.open).into_iter().map(|(_, waiting)| waiting)
    }
}
