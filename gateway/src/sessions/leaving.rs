//! Leaving sessions that are shared with one no more, and CLI servers that are drained: their clients stay, and go on
//! elsewhere with their next call.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::interval;
use tracing::info;

use jetway_pool::ServerId;

use super::{
    idle::{self, Reason},
    lease,
    registry::Session,
    turn::Outcome,
};
use crate::app::Core;

/// How often it is looked whether somebody has left a session, or what uses a drained server has become quiet.
const LOOK: Duration = Duration::from_millis(200);

/// Leaves what is drained, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        for session in core.registry.take_left() {
            put_out(&core, &session);
            watch_turn(&core, session);
        }
        for server in core.pool.draining() {
            leave(&core, &server);
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

/// The leg by which a shared session's turn began may be gone while the turn runs on, since others are attached:
/// then the CLI server is asked when it has ended.
fn watch_turn(core: &Arc<Core>, session: Arc<Session>) {
    let Some(id) = session.turn_hangs_on() else { return };
    let legs: Vec<_> = core.clients.all().into_iter().filter_map(|c| c.leg_with(&session)).collect();
    if legs.iter().any(|leg| leg.id() == id) || core.kept.has(id) {
        return;
    }
    if let Some(leg) = legs.first() {
        lease::ask_until_done(core, session, leg);
    }
}

/// Closes what is quiet of the legs to a server.
fn leave(core: &Core, server: &ServerId) {
    for client in core.clients.all() {
        let legs = client.legs_to(server);
        if legs.is_empty() {
            continue;
        }
        if core.exclusive() {
            idle::let_go(core, client.who(), Reason::Drain);
        } else if legs.iter().filter(|leg| client.leave_if_unused(leg)).count() > 0 {
            info!(tenant = %client.who().tenant, user = %client.who().user, %server, "left a drained CLI server");
        }
    }
}
