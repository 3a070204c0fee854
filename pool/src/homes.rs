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
    /// Attachments per user and server: to their home, and to lost servers that were it before.
    held: HashMap<(Identity, usize), usize>,
    /// Of users with attachments there.
    homes: HashMap<Identity, usize>,
}

impl Homes {
    pub(crate) fn new<'a>(servers: impl IntoIterator<Item = (&'a str, u32)> + Clone) -> Self {
        let weights: Vec<_> = servers.clone().into_iter().map(|(_, weight)| weight).collect();
        let n = weights.len();
        let ring = Ring::new(servers);
        let (held, homes) = (HashMap::new(), HashMap::new());
        Self { ring, weights, loads: vec![0; n], users: vec![0; n], held, homes }
    }

    /// The server for one more attachment of `who`, counted; `None` when no server is `usable`.
    pub(crate) fn place(&mut self, who: &Identity, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let home = self.homes.get(who).copied();
        let server = match home.filter(|server| usable(*server)) {
            Some(home) => home,
            None => self.choose(who, usable)?,
        };
        if home != Some(server) {
            if let Some(lost) = home {
                self.users[lost] -= 1;
            }
            self.homes.insert(who.clone(), server);
            self.users[server] += 1;
        }
        *self.held.entry((who.clone(), server)).or_default() += 1;
        self.loads[server] += 1;
        Some(server)
    }

    /// The server for one more attachment of `who`, counted, that makes none of the `usable` ones their home:
    /// their home if it is usable, else where they would be at home among those.
    pub(crate) fn call_on(&mut self, who: &Identity, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let home = self.homes.get(who).copied().filter(|server| usable(*server));
        let server = match home {
            Some(home) => home,
            None => self.choose(who, usable)?,
        };
        self.visit(server);
        Some(server)
    }

    /// One more attachment to `server`, of nobody who is at home there.
    pub(crate) fn visit(&mut self, server: usize) {
        self.loads[server] += 1;
    }

    /// One attachment to `server` less.
    pub(crate) fn release(&mut self, server: usize, who: Option<&Identity>) {
        self.loads[server] = self.loads[server].saturating_sub(1);
        let Some(key) = who.map(|who| (who.clone(), server)) else { return };
        let Some(held) = self.held.get_mut(&key) else { return };
        *held -= 1;
        if *held == 0 {
            self.held.remove(&key);
            if self.homes.get(&key.0) == Some(&server) {
                self.homes.remove(&key.0);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVERS: usize = 4;

    fn user(n: usize) -> Identity {
        Identity { tenant: "acme".parse().unwrap(), user: format!("user-{n}").parse().unwrap() }
    }

    #[derive(Debug, Clone)]
    enum Event {
        Come(usize),
        Visit(usize),
        /// Somebody is sent to one of the servers that are up.
        CallOn(usize),
        /// One of the attachments ends.
        Go(prop::sample::Index),
        Flip(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (0..30_usize).prop_map(Event::Come),
            1 => (0..SERVERS).prop_map(Event::Visit),
            1 => (0..30_usize).prop_map(Event::CallOn),
            4 => any::<prop::sample::Index>().prop_map(Event::Go),
            1 => (0..SERVERS).prop_map(Event::Flip),
        ]
    }

    proptest! {
        // Each case builds a ring, which is slow without optimisation.
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a list of all attachments: counts agree, users with attachments to a server that is up stay,
        /// nobody is put on one that is down or above its bound.
        #[test]
        fn laws(events in prop::collection::vec(event(), 0..300)) {
            let names = ["a:1", "b:1", "c:1", "d:1"];
            let weights = [1, 1, 2, 3];
            let mut homes = Homes::new(names.into_iter().zip(weights));
            let mut up = [true; SERVERS];
            let mut all: Vec<(Option<usize>, usize)> = Vec::new();
            // Where each user was put last: that is home, while attached there.
            let mut put: HashMap<usize, usize> = HashMap::new();
            for event in events {
                match event {
                    Event::Come(n) => {
                        let home = put.get(&n).filter(|at| all.contains(&(Some(n), **at))).copied();
                        let before = (0..SERVERS).map(|s| homes.load(s).0).collect::<Vec<_>>();
                        let placed = homes.place(&user(n), |s| up[s]);
                        prop_assert_eq!(placed.is_some(), up.contains(&true));
                        let Some(at) = placed else { continue };
                        prop_assert!(up[at]);
                        if let Some(home) = home.filter(|home| up[*home]) {
                            prop_assert_eq!(at, home);
                        } else {
                            let usable = || (0..SERVERS).filter(|s| up[*s]);
                            let load = usable().map(|s| before[s]).sum();
                            let weight = usable().map(|s| u64::from(weights[s])).sum();
                            prop_assert!(before[at] < ring::bound(load, weights[at], weight));
                        }
                        put.insert(n, at);
                        all.push((Some(n), at));
                    }
                    Event::Visit(server) => {
                        homes.visit(server);
                        all.push((None, server));
                    }
                    Event::CallOn(n) => {
                        let home = put.get(&n).filter(|at| all.contains(&(Some(n), **at)) && up[**at]).copied();
                        let called = homes.call_on(&user(n), |s| up[s]);
                        prop_assert_eq!(called.is_some(), up.contains(&true));
                        let Some(at) = called else { continue };
                        prop_assert!(up[at] && home.is_none_or(|home| home == at));
                        all.push((None, at));
                    }
                    Event::Go(index) if !all.is_empty() => {
                        let (who, at) = all.swap_remove(index.index(all.len()));
                        homes.release(at, who.map(user).as_ref());
                    }
                    Event::Go(_) => {}
                    Event::Flip(server) => up[server] = !up[server],
                }
                for server in 0..SERVERS {
                    let load = all.iter().filter(|(_, at)| *at == server).count();
                    let at_home = put.iter().filter(|(n, at)| **at == server && all.contains(&(Some(**n), server)));
                    prop_assert_eq!(homes.load(server), (load as u64, at_home.count()));
                }
            }
        }
    }
}
