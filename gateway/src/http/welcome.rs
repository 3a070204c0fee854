//! Whoever reads a stream must be welcome for as long as it lasts, not only when it begins.

use std::{sync::Arc, time::SystemTime};

use tokio::time::sleep;
use tracing::warn;

use super::fault::{Fault, Kind};
use crate::{app::Core, audit::Event, auth::Caller, directory::Key};

/// Somebody who reads, and what.
pub(super) struct Welcome {
    core: Arc<Core>,
    caller: Caller,
    /// The session that is read; what is the caller's own, if there is none.
    session: Option<Key>,
}

impl Welcome {
    pub(super) fn new(core: &Arc<Core>, caller: Caller, session: Option<Key>) -> Self {
        Self { core: core.clone(), caller, session }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Waits until the reader may read no more, and says why. Cancelling it loses nothing.
    pub(super) async fn over(&self) -> Fault {
        let mut standing = self.core.standing();
        loop {
            // Before looking: what changes after the look wakes the wait.
            standing.borrow_and_update();
            if let Some(fault) = self.unwelcome() {
                return fault;
            }
            let token_ends = async {
                match self.caller.by.ends() {
                    Some(end) => sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = standing.changed() => if changed.is_err() {
                    // The gateway is gone, and its streams end by themselves.
                    std::future::pending::<()>().await;
                },
                () = token_ends => {}
            }
        }
    }

    fn unwelcome(&self) -> Option<Fault> {
        if !self.core.vouches_for(&self.caller) {
            let (who, by) = (&self.caller.who, &self.caller.by);
            warn!(tenant = %who.tenant, user = %who.user, %by, "stream revoked");
            self.core.audit.record(&Event::Revoked { caller: &self.caller });
            let why = "Nothing vouches for you any more; come back with a valid credential";
            return Some(Fault::new(Kind::Unauthenticated, why));
        }
        let key = self.session.as_ref()?;
        // What is not at hand has no events either; it is looked up when it has some.
        let session = self.core.registry.find(&key.owner, &key.id)?;
        session.role_of(&self.caller.who).is_none().then(Fault::no_session)
    }
}
