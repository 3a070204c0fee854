//! Closing connections whose caller nothing vouches for any more.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::interval;
use tracing::warn;

use jetway_config::limits::JWT_OVERTIME;

use super::Standing;
use crate::{app::Core, audit::Event};

/// How often connections are looked over, beside every change of the rules: a connection may begin just then.
const LOOK: Duration = Duration::from_secs(5);

/// Looks connections over from time to time, until they are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        sweep(&core);
    }
}

/// Closes the connections of callers that would not be let in any more. Running turns end as when a client leaves;
/// but a token's expiry, which is nobody's decision of the moment, waits for them.
pub(crate) fn sweep(core: &Core) {
    let (rules, now) = (core.live(), SystemTime::now());
    for client in core.clients.all() {
        let over = match rules.standing(client.caller(), now) {
            Standing::Good => false,
            Standing::Expired(since) => client.is_quiet() || now >= since + JWT_OVERTIME,
            Standing::Revoked => true,
        };
        if over {
            let who = client.who();
            warn!(tenant = %who.tenant, user = %who.user, by = %client.caller().by, "connection revoked");
            core.audit.record(&Event::Revoked { caller: client.caller() });
            client.revoke();
        }
    }
}
