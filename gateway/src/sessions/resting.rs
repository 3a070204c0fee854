//! Detaching a session that does nothing, unseen: its clients bring it back with their next use of it.

use std::sync::Arc;

use serde_json::json;
use tracing::{debug, info};

use jetway_config::TenantId;
use jetway_pool::ServerId;

use super::{
    client::Client,
    idle::Reason,
    leg::Leg,
    registry::Session,
    revival,
    room::{Crowded, Most, Room},
};
use crate::{
    app::Core,
    metrics,
    stack::{Limit, RETRY_AFTER, Refusal},
};

/// Room for one more session of a tenant on a server: if need be, the least recently used one there that does nothing
/// makes it, or of the tenant's, wherever it is.
pub(crate) async fn make_room(core: &Core, server: &ServerId, tenant: &TenantId) -> Result<Room, Refusal> {
    loop {
        let most = Most {
            on_server: core.config.pool.max_active_sessions,
            of_tenant: core.live().tenants.get(tenant).max_active_sessions,
        };
        let (mut sessions, limit) = match core.registry.reserve(server, tenant, most) {
            Ok(room) => return Ok(room),
            Err(Crowded::Server) => (core.registry.on(server), Limit::ActiveSessions),
            Err(Crowded::Tenant) => (core.registry.of_tenant(tenant), Limit::TenantSessions),
        };
        // Each is looked at once: they are used meanwhile.
        sessions.sort_by_cached_key(|s| s.used());
        let mut made = false;
        for session in sessions {
            made = rest(core, &session.server(), &session, Reason::Room).await;
            if made {
                break;
            }
        }
        if !made {
            return Err(Refusal::Overloaded(limit, RETRY_AFTER));
        }
    }
}

/// Detaches a session from a server for all who have it attached here, if it does nothing. Returns whether it did.
///
/// A session does something while a turn runs or waits to run, while a question, a permission or a tool is waited
/// for, and while any of its clients waits for that server.
pub(crate) async fn rest(core: &Core, server: &ServerId, session: &Arc<Session>, why: Reason) -> bool {
    // Until it is detached nobody attaches it. Whoever does so just now needs it.
    let Ok(_placing) = session.placing().try_lock_owned() else { return false };
    let holders = holders(core, server, session);
    if holders.is_empty() || !holders.iter().all(|(client, leg)| client.may_rest(leg, session)) {
        return false;
    }
    // Between the look and now a call may have come.
    let mut resting = Vec::new();
    for (client, leg) in &holders {
        if !client.rest(leg, session) {
            break;
        }
        resting.push((client, leg));
    }
    let params = json!({ "sessionId": session.key.id }).to_string();
    for (_, leg) in &resting {
        // A leg that is lost is detached as well.
        let _ = leg.call("session.detach", params.as_bytes()).await;
    }
    if resting.len() < holders.len() {
        // Some go on with it: the others are to hear of that.
        resting.into_iter().for_each(|(client, _)| wake(client.clone(), session));
        return false;
    }
    metrics::let_go(why.as_str());
    info!(session = %session.key.id, backend = %server, reason = why.as_str(), "session put to rest");
    true
}

/// The clients that have a session attached on that server, and the legs on which they have.
pub(super) fn holders(
    core: &Core,
    server: &ServerId,
    session: &Arc<Session>,
) -> Vec<(Arc<Client>, Arc<Leg>)> {
    let clients = session.people().into_iter().flat_map(|who| core.clients.of(&who));
    let of = |client: Arc<Client>| {
        let legs = client.legs_to(server);
        let leg = legs.into_iter().find(|leg| leg.has(session))?;
        Some((client, leg))
    };
    clients.filter_map(of).collect()
}

fn wake(client: Arc<Client>, session: &Arc<Session>) {
    let id = session.key.id.clone();
    client.tracker().clone().spawn(async move {
        if let Err(refusal) = revival::revive(&client, &id).await {
            debug!(session = %id, ?refusal, "a session stays dormant");
        }
    });
}
