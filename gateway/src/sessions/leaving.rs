//! Leaving sessions that are shared with one no more.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::interval;
use tracing::info;

use super::{lease, registry::Session, tools, turn::Outcome};
use crate::app::Core;

/// How often it is looked whether somebody has left a session.
const LOOK: Duration = Duration::from_millis(200);

/// Puts out who has left, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        let left = core.registry.take_left();
        if !left.is_empty() {
            core.standing_changed();
        }
        for session in left {
            put_out(&core, &session);
            watch_turns(&core, session.clone());
            if session.is_shared() {
                let core = core.clone();
                core.tracker.clone().spawn(async move { tools::offer_all(&core, &session).await });
            }
        }
    }
}

/// Detaches those who take part no more.
fn put_out(core: &Core, session: &Session) {
    let strangers = core.clients.all().into_iter().filter(|c| session.role_of(c.who()).is_none());
    for (client, leg) in strangers.filter_map(|c| c.leg_with(session).map(|leg| (c, leg))) {
        info!(session = %session.key, user = %client.who().user, "shared no more");
        let params = json!({ "sessionId": session.key.id }).to_string();
        leg.tell("session.detach", params.as_bytes());
        leg.unroute(&session.key.id, Outcome::Aborted);
        client.awake(&session.key.id);
    }
}

/// The leg by which a turn began may be gone while the turn runs on, since others are attached: then the CLI server
/// is asked when it has ended.
fn watch_turns(core: &Arc<Core>, session: Arc<Session>) {
    let legs: Vec<_> = core.clients.all().into_iter().filter_map(|c| c.leg_with(&session)).collect();
    let Some(other) = legs.first() else { return };
    for id in session.turns_hang_on() {
        if !legs.iter().any(|leg| leg.id() == id) && !core.kept.has(id) {
            session.adopt_turns(id, other.id());
        }
    }
    if session.ask_about_turns() {
        lease::ask_until_done(core, session, other);
    }
}
