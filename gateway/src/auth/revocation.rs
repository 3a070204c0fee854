//! Closing connections whose caller nothing vouches for any more.

use std::{sync::Arc, time::Duration};

use tokio::time::interval;
use tracing::warn;

use crate::{app::Core, audit::Event, sessions::client::Client};

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

/// Closes the connections of callers that would not be let in any more. Running turns end as when a client leaves.
pub(crate) fn sweep(core: &Core) {
    let rules = core.live();
    let revoked = |client: &&Arc<Client>| !rules.vouch_for(client.caller());
    for client in core.clients.all().iter().filter(revoked) {
        let who = client.who();
        warn!(tenant = %who.tenant, user = %who.user, by = %client.caller().by, "connection revoked");
        core.audit.record(&Event::Revoked { caller: client.caller() });
        client.revoke();
    }
}
