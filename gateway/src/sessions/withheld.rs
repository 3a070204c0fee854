//! When a shared session is at rest, as one of its people sees it.
//!
//! An SDK's `sendAndWait` ends with the first idle after its call. The CLI goes idle once, after all the prompts that
//! wait in it; those that wait in Jetway it knows nothing of, and goes idle before each. So whoever has a prompt that
//! waits its turn, or is on its way, does not hear of an idle before: to them the session has more to do.

use std::sync::Arc;

use jetway_wire::{Value, frame::Frame};

use super::{client::Client, leg::Leg, registry::Session};

/// Whether an idle that `frame` tells of is the client's to hear; only of a shared session's are the `params` read.
pub(crate) fn is_for<'a>(
    client: &Client,
    leg: &Leg,
    session: &str,
    frame: Frame<'_>,
    params: impl FnOnce() -> Option<Value<'a>>,
) -> bool {
    let Some(route) = leg.route_to(session).filter(|route| route.session.is_shared()) else { return true };
    if client.waiting.is_about(&route.session) {
        route.hold_idle(frame.raw);
        return false;
    }
    // What an abort drops does not begin any more.
    let aborted = || params()?.get("event")?.get("data")?.get("aborted")?.as_bool();
    let hears = aborted() == Some(true) || !route.session.awaits(leg.id());
    if hears {
        drop(route.held_idle());
    }
    hears
}

/// A prompt waits no longer, and has not begun: what its client has not heard is told, unless another waits.
pub(crate) fn told_late(client: &Client, session: &Arc<Session>) {
    if client.waiting.is_about(session) {
        return;
    }
    let route = client.leg_with(session).and_then(|leg| leg.route_to(session.key.id.as_str()));
    if let Some(idle) = route.and_then(|route| route.held_idle()) {
        let _ = client.send(&idle);
    }
}
