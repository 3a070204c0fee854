//! What a session asks its people by events: permissions, tools of theirs, answers to questions.
//!
//! Any of them may answer, and the first answer counts. In a shared session they come to the one whose turn it is
//! first, and to the others when that one has not answered for [`FIRST`], or has: then just before what tells so.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use jetway_wire::{
    Envelope, Kind,
    event::{Peek, Turn},
    frame::Frame,
};

use super::{client::Client, leg::Leg, revival::Route};

/// How long the one whose turn it is has the first say: a program answers at once, and whoever must be asked in
/// person needs the others no sooner.
const FIRST: Duration = Duration::from_secs(3);

/// How many requests of a session are kept in mind until they are answered: more than a turn has open at once.
const MAX_OPEN: usize = 64;

/// A request that nobody has answered yet.
#[derive(Debug)]
pub(crate) struct Open {
    id: Box<str>,
    frame: Box<[u8]>,
    /// The client has not seen it.
    held: bool,
}

/// The requests of a session that are not answered, as one client sees them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    open: Vec<Open>,
    /// What was open when a turn was lost: answers to it are worth nothing.
    lapsed: Vec<Box<str>>,
}

impl Requests {
    fn open(&mut self, open: Open) {
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(open);
    }

    /// The request is answered; its frame, if the client has not seen it.
    fn answered(&mut self, id: &str) -> Option<Box<[u8]>> {
        let at = self.open.iter().position(|open| *open.id == *id)?;
        let open = self.open.remove(at);
        open.held.then_some(open.frame)
    }

    /// Lets the client see a request that it has not; its frame.
    fn release(&mut self, id: &str) -> Option<Box<[u8]>> {
        let open = self.open.iter_mut().find(|open| *open.id == *id && open.held)?;
        open.held = false;
        Some(open.frame.clone())
    }

    /// The turn in which they were asked is lost.
    pub(crate) fn lapse(&mut self) {
        self.lapsed = std::mem::take(&mut self.open).into_iter().map(|open| open.id).collect();
    }

    /// Whether it was asked in a turn that is lost.
    pub(crate) fn has_lapsed(&self, id: &str) -> bool {
        self.lapsed.iter().any(|lapsed| **lapsed == *id)
    }

    /// All of them, for a client that takes over, as if it had seen them.
    pub(crate) fn take_over(&mut self, out: &mut Vec<u8>) {
        for open in &mut self.open {
            open.held = false;
            out.extend_from_slice(&open.frame);
        }
    }
}

/// Deals with an event that asks, or tells that an answer was given.
pub(crate) fn on_event(
    leg: &Arc<Leg>,
    client: &Arc<Client>,
    event: Peek<'_>,
    frame: Frame<'_>,
    out: &mut Vec<u8>,
) {
    let Some((route, id)) = leg.route_to(event.session).zip(request_id(frame.body)) else {
        return out.extend_from_slice(frame.raw);
    };
    if event.turn == Turn::Answered {
        route.session.answered(&id);
        if let Some(unseen) = route.requests(|requests| requests.answered(&id)) {
            out.extend_from_slice(&unseen);
        }
        return out.extend_from_slice(frame.raw);
    }
    let session = &route.session;
    let own = session.turn_of().as_ref() == Some(&client.who().user) || session.runs_on(leg.id());
    let held = session.is_shared() && !own;
    session.asked(&id);
    let open = Open { id: id.clone(), frame: frame.raw.into(), held };
    route.requests(|requests| requests.open(open));
    if held {
        release_later(client, route, id);
    } else if !client.is_gone() {
        // One who takes over finds it among the open ones.
        out.extend_from_slice(frame.raw);
    }
}

fn release_later(client: &Arc<Client>, route: Route, id: Box<str>) {
    let (tracker, client) = (client.tracker().clone(), Arc::downgrade(client));
    tracker.spawn(async move {
        sleep(FIRST).await;
        // Whoever takes over from a client that is gone has seen them all.
        let Some(client) = client.upgrade().filter(|c| !c.is_gone()) else { return };
        if let Some(frame) = route.requests(|requests| requests.release(&id)) {
            let _ = client.send(&frame);
        }
    });
}

fn request_id(body: &[u8]) -> Option<Box<str>> {
    let Ok(Envelope { kind: Kind::Notification { params: Some(params), .. }, .. }) = Envelope::trusted(body)
    else {
        return None;
    };
    Some(params.get("event")?.get("data")?.get("requestId")?.as_str()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(id: &str, held: bool) -> Open {
        Open { id: id.into(), frame: id.as_bytes().into(), held }
    }

    #[test]
    fn each_is_seen_once() {
        let mut requests = Requests::default();
        requests.open(open("seen", false));
        requests.open(open("held", true));
        requests.open(open("late", true));
        assert_eq!(requests.answered("seen"), None);
        assert_eq!(requests.answered("held").as_deref(), Some(&b"held"[..]));
        assert_eq!(requests.release("late").as_deref(), Some(&b"late"[..]));
        assert_eq!(requests.release("late"), None);
        assert_eq!(requests.answered("late"), None);
        assert_eq!(requests.answered("never"), None);
    }

    #[test]
    fn what_was_open_lapses_with_its_turn() {
        let mut requests = Requests::default();
        requests.open(open("lost", true));
        requests.lapse();
        requests.open(open("new", false));
        assert!(requests.has_lapsed("lost") && !requests.has_lapsed("new"));
        assert_eq!(requests.release("lost"), None);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut requests = Requests::default();
        (0..=MAX_OPEN).for_each(|n| requests.open(open(&n.to_string(), true)));
        assert_eq!(requests.answered("0"), None);
        let mut out = Vec::new();
        requests.take_over(&mut out);
        assert!(out.starts_with(b"123") && out.ends_with(MAX_OPEN.to_string().as_bytes()));
    }
}
