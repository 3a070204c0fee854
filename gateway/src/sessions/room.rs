//! How many sessions are live, on each CLI server and of each tenant.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jetway_config::TenantId;
use jetway_pool::ServerId;

/// Sessions that are attached, and room that is kept for more.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    servers: HashMap<ServerId, usize>,
    tenants: HashMap<TenantId, usize>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) on_server: usize,
    pub(crate) of_tenant: usize,
}

/// Where there is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    Server,
    Tenant,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn more(&self, server: &ServerId, tenant: &TenantId) {
        self.lock().more(server, tenant);
    }

    pub(super) fn less(&self, server: &ServerId, tenant: &TenantId) {
        let mut counts = self.lock();
        less(&mut counts.servers, server);
        less(&mut counts.tenants, tenant);
    }

    pub(super) fn moved(&self, from: &ServerId, to: &ServerId) {
        let mut counts = self.lock();
        less(&mut counts.servers, from);
        more(&mut counts.servers, to);
    }

    /// Room for one more, while there are fewer than `most`.
    pub(super) fn reserve(
        self: &Arc<Self>,
        server: &ServerId,
        tenant: &TenantId,
        most: Most,
    ) -> Result<Room, Crowded> {
        let mut counts = self.lock();
        // First what its own tenant can make room in.
        if counts.tenants.get(tenant).is_some_and(|n| *n >= most.of_tenant) {
            return Err(Crowded::Tenant);
        }
        if counts.servers.get(server).is_some_and(|n| *n >= most.on_server) {
            return Err(Crowded::Server);
        }
        counts.more(server, tenant);
        Ok(Room { server: server.clone(), tenant: tenant.clone(), live: self.clone() })
    }
}

impl Counts {
    fn more(&mut self, server: &ServerId, tenant: &TenantId) {
        more(&mut self.servers, server);
        more(&mut self.tenants, tenant);
    }
}

fn more<K: Clone + Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    // Nearly always it is there: then its name is not copied.
    match counts.get_mut(key) {
        Some(n) => *n += 1,
        None => drop(counts.insert(key.clone(), 1)),
    }
}

fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

/// Room for a session on a server, until it is attached there and counts itself.
#[derive(Debug)]
pub(crate) struct Room {
    server: ServerId,
    tenant: TenantId,
    live: Arc<Live>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.live.less(&self.server, &self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let live = Arc::new(Live::default());
        let [a, b] = ["a", "b"].map(ServerId::new);
        let [acme, other]: [TenantId; 2] = ["acme", "other"].map(|name| name.parse().unwrap());
        let most = Most { on_server: 2, of_tenant: 3 };
        let crowded = |server, tenant| live.reserve(server, tenant, most).err();
        live.more(&a, &acme);
        let room = live.reserve(&a, &acme, most).unwrap();
        assert_eq!((crowded(&a, &other), crowded(&b, &acme)), (Some(Crowded::Server), None));
        live.moved(&a, &b);
        let third = live.reserve(&a, &acme, most).unwrap();
        assert_eq!((crowded(&b, &acme), crowded(&b, &other)), (Some(Crowded::Tenant), None));
        drop((room, third));
        live.less(&b, &acme);
        let counts = live.lock();
        assert!(counts.servers.is_empty() && counts.tenants.is_empty(), "what is gone leaves nothing");
    }
}
