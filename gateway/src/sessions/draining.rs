//! Leaving CLI servers that are drained or lost: their clients stay, and go on elsewhere with their next call.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, StreamExt as _};
use tokio::time::interval;
use tracing::info;

use jetway_pool::ServerId;

use super::{
    idle::{self, Reason},
    resting,
};
use crate::app::Core;

/// How often it is looked whether something that uses a drained server has become quiet.
const LOOK: Duration = Duration::from_millis(200);

/// How many sessions are detached at once: each waits for an answer of the server that is left.
const AT_ONCE: usize = 16;

/// Leaves what is drained or down, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        for server in core.pool.down() {
            give_up(&core, &server);
        }
        for server in core.pool.draining() {
            if closing.run_until_cancelled(leave(&core, &server)).await.is_none() {
                return;
            }
        }
    }
}

/// Ends the legs to a server that is down: one that hangs would keep them for ever.
fn give_up(core: &Core, server: &ServerId) {
    for client in core.clients.all() {
        let legs = client.legs_to(server);
        legs.iter().filter(|leg| leg.server().gone().is_some()).for_each(|leg| leg.give_up());
    }
}

/// Takes what is quiet off a server.
async fn leave(core: &Core, server: &ServerId) {
    if core.pool.has_successor(server) {
        let moving = core.registry.on(server);
        let rest = async |session| _ = resting::rest(core, server, &session, Reason::Drain).await;
        stream::iter(moving).for_each_concurrent(AT_ONCE, rest).await;
    }
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
