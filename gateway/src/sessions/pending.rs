//! What a client asked a CLI server, and what is to happen when the reply comes.

use std::{borrow::Cow, sync::Arc};

use tokio::sync::oneshot;

use jetway_config::{SessionId, UserId};
use jetway_wire::{
    Id, Value,
    catalogue::{self, Method},
    envelope::Request,
};

use super::{
    client::Client,
    idle, lease,
    leg::Leg,
    registry::Session,
    revival::{self, Route},
    scribe::Claimed,
    tools::Offer,
    turn::{Outcome, TurnId},
};
use crate::{
    admission::Has,
    directory::{Entry, Place},
    stack::Wish,
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
    Attach(Box<Attach>),
    /// Sessions were to be listed; these are the caller's.
    List {
        entries: Vec<Entry>,
        /// Only those that the CLI server lists.
        filtered: bool,
    },
    /// The CLI was to choose the session's id: that of a cloud session.
    Learn(Box<Learn>),
    /// The session was to be left.
    Detach(Arc<Session>),
    /// The session was to be closed, whoever has it attached.
    Close(Arc<Session>),
    /// The sessions were to be removed.
    Delete(Vec<Arc<Session>>),
    /// A turn was to begin.
    Turn {
        session: Arc<Session>,
        turn: TurnId,
    },
}

/// A session that is to be made in the cloud, which names it.
pub(crate) struct Learn {
    /// What it is to be, beyond what the cloud makes of it.
    pub(crate) wish: Wish,
    /// What was asked.
    pub(crate) request: Arc<Request>,
}

impl Learn {
    /// It has that id.
    fn told(mut self, id: &SessionId, leg: &Arc<Leg>, client: &Client) {
        let session = client.found(id, leg, Some(&self.wish));
        if let Some(busy) = self.wish.busy {
            session.set_busy(busy);
        }
        let request = Arc::make_mut(&mut self.request);
        request.insert("sessionId", format!("\"{id}\"").as_bytes());
        let params = request.params().map_or(&b"{}"[..], Value::text);
        leg.route(Route::new(session, params));
    }
}

/// A session that is to be attached.
pub(crate) struct Attach {
    pub(crate) session: Arc<Session>,
    /// Its route on this leg is new.
    pub(crate) routed: bool,
    /// Its name was claimed for this.
    pub(crate) claimed: Option<Claimed>,
    /// It was noted to live on this leg's server ahead.
    pub(crate) moved: Option<Moved>,
    /// What to ask if the CLI server has nothing of it to resume.
    pub(crate) instead: Option<Arc<Request>>,
    /// What to ask if others have names of its tools.
    pub(crate) offer: Option<Box<Offer>>,
    /// The right to go on with what waits in it, where one is needed.
    pub(crate) lease: Option<jetway_lockd::Turn>,
}

/// Where a session was before it was moved, and the epoch of the move.
pub(crate) struct Moved {
    pub(crate) from: Place,
    pub(crate) epoch: u64,
}

impl Then {
    /// The session that it is about.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Then::Attach(attach) => Some(&attach.session),
            Then::Detach(session) | Then::Close(session) | Then::Turn { session, .. } => Some(session),
            Then::Delete(sessions) => sessions.first(),
            Then::Nothing | Then::Learn(_) | Then::List { .. } => None,
        }
    }
}

impl Then {
    /// The session that was to be made.
    pub(crate) fn unmade(&self) -> Option<&Session> {
        match self {
            Then::Attach(attach) if attach.claimed.is_some() => Some(&attach.session),
            _ => None,
        }
    }

    /// The turn that was to begin.
    pub(crate) fn turn(&self) -> Option<TurnId> {
        match self {
            Then::Turn { turn, .. } => Some(*turn),
            _ => None,
        }
    }

    /// The request succeeded.
    pub(crate) fn done(self, result: Value<'_>, leg: &Arc<Leg>, client: &Arc<Client>) {
        // `detach` and `delete` may say no inside of a success.
        let agreed = || result.get("success").and_then(Value::as_bool) != Some(false);
        match self {
            Then::Nothing | Then::List { .. } => {}
            Then::Turn { session, turn } => {
                leg.server().served_turn();
                if session.resumes() {
                    client.core().scribe.runs(&session.key);
                }
                if session.turn_taken(turn, message(result).as_deref()) {
                    lease::ask_until_done(client.core(), session, leg);
                }
            }
            Then::Attach(attach) => {
                if let Some(moved) = attach.moved {
                    attach.session.moved(leg.place(), moved.epoch);
                }
                attach.session.made();
                if let Some(route) = leg.route_to(attach.session.key.id.as_str()) {
                    if attach.offer.is_some_and(|offer| offer.was_cut()) {
                        route.withhold(true);
                    }
                    if route.continues() {
                        lease::look_for_turn(client.core(), attach.session.clone(), leg, attach.lease);
                    }
                }
                if let Some(claimed) = attach.claimed {
                    claimed.made();
                }
                idle::wake_others_later(client, attach.session);
            }
            Then::Learn(learn) => {
                let id = result.get("sessionId").and_then(Value::as_str);
                if let Some(id) = id.and_then(|id| id.parse::<SessionId>().ok()) {
                    learn.told(&id, leg, client);
                }
            }
            Then::Detach(session) if agreed() => leg.unroute(&session.key.id, Outcome::Aborted),
            Then::Close(session) => {
                leg.unroute(&session.key.id, Outcome::Aborted);
                session.closed();
            }
            Then::Delete(sessions) if agreed() => {
                // Of many, those that went are told of by what they took.
                let freed = result.get("freedBytes");
                let gone =
                    |s: &Arc<Session>| freed.is_none_or(|freed| freed.get(s.key.id.as_str()).is_some());
                for session in sessions.into_iter().filter(gone) {
                    leg.unroute(&session.key.id, Outcome::Aborted);
                    session.closed();
                    client.forget(&session);
                }
            }
            Then::Detach(_) | Then::Delete(_) => {}
        }
    }

    /// It failed, or was never sent: what was done ahead of it is undone.
    pub(crate) fn undo(self, leg: &Leg, client: &Client) {
        match self {
            Then::Attach(attach) => {
                if attach.routed {
                    leg.unroute(&attach.session.key.id, Outcome::Refused);
                }
                if let Some(moved) = attach.moved {
                    client.core().scribe.back(&attach.session.key, moved.epoch, moved.from);
                }
            }
            Then::Turn { session, turn } => session.turn_refused(turn),
            Then::Nothing
            | Then::Learn(_)
            | Then::List { .. }
            | Then::Detach(_)
            | Then::Close(_)
            | Then::Delete(_) => {}
        }
    }

    /// What to ask in place of a request that failed with `error`, if anything.
    pub(crate) fn instead(&mut self, error: Value<'_>) -> Option<Arc<Request>> {
        match self {
            Then::Attach(attach) if revival::is_not_found(error.text()) => attach.instead.take(),
            Then::Attach(attach) => attach.offer.as_mut()?.cut(error),
            _ => None,
        }
    }
}

/// The id of the message as which a prompt was taken; of several the last.
fn message(result: Value<'_>) -> Option<Cow<'_, str>> {
    let one = result.get("messageId");
    one.or_else(|| result.get("messageIds")?.elements().last())?.as_str()
}

/// A request that a CLI server has not answered yet.
pub(crate) struct Waiting {
    pub(crate) origin: Origin,
    pub(crate) then: Then,
    /// What is to become of the answer before the client sees it.
    pub(crate) answer: &'static catalogue::Answer,
    /// What it takes to ask once more.
    pub(crate) sent: Option<Box<Sent>>,
}

/// A request about a session, kept for when its CLI server turns out to have forgotten that.
pub(crate) struct Sent {
    /// For whom the client asks, where it stands for several.
    pub(crate) user: Option<UserId>,
    pub(crate) method: &'static Method,
    pub(crate) request: Arc<Request>,
    /// Its size on the account of the caller.
    pub(crate) held: Option<Arc<Has>>,
    pub(crate) session: Arc<Session>,
    /// How often that had been attached by then.
    pub(crate) attached: u64,
}

/// Room for requests that an idle leg keeps: most have one at a time.
const KEPT: usize = 1;

/// The requests of one leg that have no reply yet, by their id on that leg.
#[derive(Default)]
pub(crate) struct Pending {
    last: i64,
    /// In no order; nearly always a handful, so that a search beats an index.
    open: Vec<(i64, Waiting)>,
    /// Once the leg is gone nothing more may wait on it.
    closed: bool,
    /// Sessions that were detached here unseen: what is about them must not be sent before they are attached again.
    resting: Vec<SessionId>,
}

impl Pending {
    /// Notes a request and returns its id on the leg; gives it back when the leg is gone.
    pub(crate) fn insert(&mut self, waiting: Waiting) -> Result<Id, Waiting> {
        if self.closed {
            return Err(waiting);
        }
        self.last += 1;
        if self.open.capacity() == 0 {
            self.open.reserve_exact(KEPT);
        }
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

    /// Whether a reply is to tell a session's id.
    pub(crate) fn learns(&self) -> bool {
        self.open.iter().any(|(_, w)| matches!(w.then, Then::Learn(_)))
    }

    /// Whether [`Pending::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whoever asked is gone: the replies are for nobody.
    pub(crate) fn orphan(&mut self) {
        for (_, waiting) in &mut self.open {
            waiting.origin = Origin::Jetway(oneshot::channel().0);
        }
    }

    /// A session was detached unseen.
    pub(crate) fn rest(&mut self, session: &SessionId) {
        self.resting.push(session.clone());
    }

    /// It is to be attached again.
    pub(crate) fn wake(&mut self, session: &SessionId) {
        self.resting.retain(|id| id != session);
    }

    /// Whether it is detached unseen.
    pub(crate) fn rests(&self, session: &SessionId) -> bool {
        self.resting.contains(session)
    }

    /// Takes all that wait; later requests are given back.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.closed = true;
        std::mem::take(&mut self.open).into_iter().map(|(_, waiting)| waiting)
    }
}
