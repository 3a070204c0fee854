//! Turns whose client has vanished. They run on for a while, on the leg that they began on, because the CLI stops
//! a session that nobody is attached to. A client that comes back in time takes the leg over, with what it missed:
//! on another leg the CLI would refuse the tools that it brings, since this one has them still.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::info;

use jetway_config::Identity;

use super::{
    client::Client,
    leg::Leg,
    registry::Session,
    turn::{LegId, Outcome},
};
use crate::app::Core;

/// How often it is looked whether a turn has ended.
const LOOK: Duration = Duration::from_millis(50);

/// The most that is kept of what a vanished client misses, in bytes: some thousand deltas. What is persisted
/// beyond is in the session's history.
pub(crate) const MISSED_BYTES: usize = 1 << 20;

/// The legs of vanished clients, by user.
#[derive(Default)]
pub(crate) struct Kept {
    by_user: Mutex<HashMap<Identity, Vec<Arc<Leg>>>>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Vec<Arc<Leg>>>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a leg while its turns run.
    pub(crate) fn keep(&self, client: &Arc<Client>, leg: Arc<Leg>) {
        leg.orphan();
        self.lock().entry(client.who().clone()).or_default().push(leg.clone());
        client.tracker().spawn(tend(client.core().clone(), client.clone(), leg));
    }

    /// The leg on which that user has the session, for a client that goes on with it.
    pub(crate) fn take(&self, who: &Identity, session: &Session) -> Option<Arc<Leg>> {
        let mut users = self.lock();
        let legs = users.get_mut(who)?;
        let at = legs.iter().position(|leg| leg.has(session) && !leg.is_closed())?;
        let leg = legs.swap_remove(at);
        if legs.is_empty() {
            users.remove(who);
        }
        Some(leg)
    }

    /// Whether a leg is kept.
    pub(crate) fn has(&self, id: LegId) -> bool {
        self.lock().values().flatten().any(|leg| leg.id() == id)
    }

    /// The legs that have that session.
    pub(crate) fn legs_with(&self, session: &Session) -> Vec<Arc<Leg>> {
        self.lock().values().flatten().filter(|leg| leg.has(session)).cloned().collect()
    }

    /// Gives up a leg that nobody has taken. Returns whether it was still here.
    fn drop(&self, who: &Identity, leg: &Arc<Leg>) -> bool {
        let mut users = self.lock();
        let Some(legs) = users.get_mut(who) else { return false };
        let before = legs.len();
        legs.retain(|l| !Arc::ptr_eq(l, leg));
        let was = legs.len() < before;
        if legs.is_empty() {
            users.remove(who);
        }
        was
    }
}

/// Looks after a leg until its turns have ended, their time is over, or a client has taken it.
async fn tend(core: Arc<Core>, client: Arc<Client>, leg: Arc<Leg>) {
    let who = client.who();
    info!(tenant = %who.tenant, user = %who.user, backend = %leg.server().id(), "a turn runs on without its client");
    let deadline = Instant::now() + core.config.pool.keep_turns;
    let closing = core.drain.closing();
    let mut outcome = Outcome::Completed;
    while leg.runs_turns() {
        if leg.was_inherited() {
            return;
        }
        if Instant::now() >= deadline || closing.is_cancelled() {
            outcome = Outcome::Aborted;
            break;
        }
        sleep(LOOK).await;
    }
    if !core.kept.drop(who, &leg) {
        // Lost with its server, or taken a moment ago.
        return;
    }
    if outcome == Outcome::Aborted {
        for session in leg.running() {
            let params = json!({ "sessionId": session.key.id }).to_string();
            leg.tell("session.abort", params.as_bytes());
        }
        let _ = leg.drained().await;
    }
    let (_, routes) = leg.close();
    routes.iter().for_each(|route| route.session.detach(outcome));
}
