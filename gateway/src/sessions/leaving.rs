//! Leaving CLI servers that are drained: their clients stay, and go on elsewhere with their next call.

use std::{sync::Arc, time::Duration};

use tokio::time::interval;
use tracing::info;

use jetway_pool::ServerId;

use super::idle::{self, Reason};
use crate::app::Core;

/// How often it is looked whether something that uses a drained server has become quiet.
const LOOK: Duration = Duration::from_millis(200);

/// Leaves what is drained, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        for server in core.pool.draining() {
            leave(&core, &server);
        }
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
