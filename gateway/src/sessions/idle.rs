//! Letting go of CLI processes that nobody uses: their clients stay, and bring them back with their next call.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{debug, info};

use super::{client::Client, registry::Session, revival};
use crate::{app::Core, metrics};
use jetway_config::{Identity, TenantId};

/// How often idle users are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The longest that a new connection waits for an old one to be seen to have ended.
const PARTING: Duration = Duration::from_millis(250);

/// How often somebody who does nothing is looked for while others wait for a process.
const PAUSE: Duration = Duration::from_millis(50);

/// Every connected client, by user.
#[derive(Default)]
pub(crate) struct Clients {
    by_user: Mutex<HashMap<Identity, Vec<Weak<Client>>>>,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Vec<Weak<Client>>>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, client: &Arc<Client>) {
        self.lock().entry(client.who().clone()).or_default().push(Arc::downgrade(client));
    }

    pub(crate) fn remove(&self, client: &Client) {
        let mut users = self.lock();
        if let Some(clients) = users.get_mut(client.who()) {
            clients.retain(|c| !std::ptr::eq(c.as_ptr(), client));
            if clients.is_empty() {
                users.remove(client.who());
            }
        }
    }

    /// Those of one user.
    pub(crate) fn of(&self, who: &Identity) -> Vec<Arc<Client>> {
        self.lock().get(who).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Waits until those of the user's clients whose sockets have ended are seen to have left.
    ///
    /// An application that drops its connection and makes a new one expects the CLI to hear of both in that
    /// order; here two threads see to them.
    pub(crate) async fn see_off(&self, who: &Identity) {
        let deadline = Instant::now() + PARTING;
        for client in self.of(who).into_iter().filter(|c| c.has_hung_up()) {
            while !client.is_gone() && Instant::now() < deadline {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// The users, of one tenant or of all, that hold a CLI process and use it for nothing, least recently used first.
    fn idle(&self, tenant: Option<&TenantId>) -> Vec<(Instant, Identity)> {
        let users = self.lock();
        let mut idle: Vec<_> = users
            .iter()
            .filter(|(who, _)| tenant.is_none_or(|tenant| who.tenant == *tenant))
            .filter_map(|(who, clients)| {
                let clients: Vec<_> = clients.iter().filter_map(Weak::upgrade).collect();
                let holds = clients.iter().any(|c| c.has_legs());
                let used = clients.iter().map(|c| c.used()).max()?;
                (holds && clients.iter().all(|c| c.is_quiet())).then(|| (used, who.clone()))
            })
            .collect();
        idle.sort_by_key(|(used, _)| *used);
        idle
    }
}

/// Why a user's CLI process is let go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason {
    /// Nobody used it for `pool.process.idle_timeout`.
    Idle,
    /// Another user needs its place, or memory is short.
    Pressure,
    /// Another session needs its place on the CLI server.
    Room,
    /// The CLI server is drained.
    Drain,
    /// The CLI server has let go of it by itself.
    Forgotten,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Idle => "idle",
            Reason::Pressure => "pressure",
            Reason::Room => "room",
            Reason::Drain => "drain",
            Reason::Forgotten => "forgotten",
        }
    }
}

/// Lets go of what nobody has used for long, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let allowed = core.config.pool.process.idle_timeout;
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        for (used, who) in core.clients.idle(None) {
            if now - used < allowed {
                break;
            }
            let_go(&core, &who, Reason::Idle);
        }
        let excess = core.pool.memory().map_or(0, |m| m.excess());
        for _ in 0..excess {
            if !make_room(&core, None) {
                break;
            }
        }
        // Tenants that may have fewer since the configuration was loaded again.
        for (tenant, excess) in core.pool.trim(|tenant| core.processes_of(tenant)) {
            for _ in 0..excess {
                if !make_room(&core, Some(&tenant)) {
                    break;
                }
            }
        }
    }
}

/// Has processes rest while others wait for theirs, until connections are to be closed: those of a tenant that has all
/// it may have, else anybody's.
pub(crate) async fn give_way(core: Arc<Core>) {
    let Some(mut short) = core.pool.short() else { return };
    let closing = core.drain.closing().clone();
    let giving = async {
        loop {
            let wanted = short.borrow_and_update().clone();
            for tenant in &wanted {
                make_room(&core, tenant.as_ref());
            }
            // Nobody may be quiet yet. One that is let go of is free within a moment, and then it is told what else is
            // wanted.
            let outcome = match wanted.is_empty() {
                true => short.changed().await,
                false => timeout(PAUSE, short.changed()).await.unwrap_or(Ok(())),
            };
            if outcome.is_err() {
                return;
            }
        }
    };
    closing.run_until_cancelled(giving).await;
}

/// Lets go of the least recently used CLI process that does nothing, of one tenant's or of all. Returns whether there
/// was one.
fn make_room(core: &Core, tenant: Option<&TenantId>) -> bool {
    core.clients.idle(tenant).iter().any(|(_, who)| let_go(core, who, Reason::Pressure))
}

/// Closes the legs of a user's clients, if all are still quiet; the pool then stops the process in its turn.
pub(crate) fn let_go(core: &Core, who: &Identity, reason: Reason) -> bool {
    let clients = core.clients.of(who);
    // Between the look and now a call may have come. A client that is busy keeps its legs, and so the process.
    let gone = clients.iter().filter(|c| c.let_go()).count();
    if gone > 0 {
        metrics::let_go(reason.as_str());
        info!(tenant = %who.tenant, user = %who.user, reason = reason.as_str(), clients = gone, "sessions put to rest");
    }
    gone > 0
}

/// A session was attached by one client: the others that had it attached have it again as well, soon.
pub(crate) fn wake_others_later(by: &Arc<Client>, session: Arc<Session>) {
    if has_sleepers(by, &session) {
        let by = by.clone();
        by.tracker().clone().spawn(async move { wake_others(&by, &session).await });
    }
}

/// Whether other clients would bring a session back with their next use of it.
pub(crate) fn has_sleepers(by: &Arc<Client>, session: &Session) -> bool {
    sleepers(by, session).next().is_some()
}

/// The other clients that would bring a session back with their next use of it.
fn sleepers<'a>(by: &'a Arc<Client>, session: &'a Session) -> impl Iterator<Item = Arc<Client>> + use<'a> {
    let clients = session.people().into_iter().flat_map(|who| by.core().clients.of(&who));
    clients.filter(|client| !Arc::ptr_eq(client, by) && client.dormant(&session.key.id).is_some())
}

/// A session was brought back by one client: the others that had it attached have it again as well, before that one
/// goes on with it.
pub(crate) async fn wake_others(by: &Arc<Client>, session: &Session) {
    let id = &session.key.id;
    let wake = async |client| {
        // Boxed: each wakes those that are left.
        if let Err(refusal) = Box::pin(revival::revive(&client, id)).await {
            debug!(session = %id, ?refusal, "a session stays dormant");
        }
    };
    join_all(sleepers(by, session).map(wake)).await;
}
