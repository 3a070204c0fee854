//! Which user is on which server of the fleet, and how loaded each is. Pure.
//!
//! A user without attachments belongs where the ring says. A user with some stays where they are, whatever
//! happens to other servers; only the loss of their own server moves them.

use std::collections::HashMap;

use jetway_config::Identity;

use crate::ring::{self, Ring};

pub(crate) struct Homes {
    ring: Ring,
    weights: Vec<u32>,
    /// Attachments per server.
    loads: Vec<u64>,
    /// Users at home per server.
    users: Vec<usize>,
    homes: HashMap<Identity, Home>,
}

struct Home {
    server: usize,
    attachments: usize,
}

impl Homes {
    pub(crate) fn new<'a>(servers: impl IntoIterator<Item = (&'a str, u32)> + Clone) -> Self {
        let weights: Vec<_> = servers.clone().into_iter().map(|(_, weight)| weight).collect();
        let n = weights.len();
        let ring = Ring::new(servers);
        Self { ring, weights, loads: vec![0; n], users: vec![0; n], homes: HashMap::new() }
    }

    /// The server for one more attachment of `who`, counted; `None` when no server is `usable`.
    pub(crate) fn place(&mut self, who: &Identity, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let stays = self.homes.get(who).map(|home| home.server).filter(|server| usable(*server));
        let server = match stays {
            Some(server) => server,
            None => self.choose(who, usable)?,
        };
        let home = self.homes.entry(who.clone()).or_insert(Home { server, attachments: 0 });
        if home.attachments == 0 || home.server != server {
            if home.attachments > 0 {
                // The old server is lost; what is still attached there ends without being missed here.
                self.users[home.server] -= 1;
            }
            *home = Home { server, attachments: 0 };
            self.users[server] += 1;
        }
        home.attachments += 1;
        self.loads[server] += 1;
        Some(server)
    }

    /// One more attachment to `server`, of nobody who is at home there.
    pub(crate) fn visit(&mut self, server: usize) {
        self.loads[server] += 1;
    }

    /// One attachment to `server` less.
    pub(crate) fn release(&mut self, server: usize, who: Option<&Identity>) {
        self.loads[server] = self.loads[server].saturating_sub(1);
        let Some((who, home)) = who.and_then(|who| Some((who, self.homes.get_mut(who)?))) else { return };
        if home.server == server {
            home.attachments -= 1;
            if home.attachments == 0 {
                self.homes.remove(who);
                self.users[server] -= 1;
            }
        }
    }

    /// Attachments to `server`, and users at home there.
    pub(crate) fn load(&self, server: usize) -> (u64, usize) {
        (self.loads[server], self.users[server])
    }

    fn choose(&self, who: &Identity, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut load, mut weight) = (0, 0);
        for server in (0..self.weights.len()).filter(|server| usable(*server)) {
            load += self.loads[server];
            weight += u64::from(self.weights[server]);
        }
        let position = ring::digest([who.tenant.as_str(), who.user.as_str()]);
        self.ring.place(position, |server| {
            usable(server) && self.loads[server] < ring::bound(load, self.weights[server], weight)
        })
    }
}
