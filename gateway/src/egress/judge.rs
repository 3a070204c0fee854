//! Which connections the processes of a user may have. Pure: names are resolved before.
//!
//! What is judged is the address that is then connected to: a name's owner cannot change it in between, and a
//! redirect is a request of its own.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use jetway_config::{Identity, stores::Redis};

use crate::auth::Rules;
use crate::policy::address::{Host, Kind, Target};

/// Machines on loopback that one user may have named; one more takes the oldest's place.
const MOST_NAMED: usize = 32;
/// Users of whom that is kept, likewise.
const MOST_USERS: usize = 10_000;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its name has no address.
    Unresolved,
    /// One of Jetway's own ports, or its Redis.
    Own,
    /// An address of that kind.
    Address(Kind),
}

impl Refused {
    /// For the process that asked.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Unresolved => "the name has no address",
            Self::Own | Self::Address(_) => "Jetway does not let this address through",
        }
    }

    /// One word, for metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Own => "own",
            Self::Address(kind) => kind.as_str(),
        }
    }
}

/// The rules, and what calls have named.
pub(super) struct Judge {
    rules: Arc<ArcSwap<Rules>>,
    /// Jetway's own ports.
    own: Vec<u16>,
    redis: (String, u16),
    named: Mutex<Named>,
}

impl Judge {
    pub(super) fn new(rules: Arc<ArcSwap<Rules>>, redis: &Redis, own: Vec<u16>) -> Self {
        let (host, port) = redis.url.machine();
        Self { rules, own, redis: (host.to_owned(), port), named: Mutex::default() }
    }

    /// What the operator says, as things stand.
    pub(super) fn live(&self) -> Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Notes that a call of `who`, which the policy accepted, names `target`. What is not on this machine needs no
    /// note.
    pub(super) fn accept(&self, who: &Identity, target: Target) {
        let local = match &target.host {
            Host::Ip(ip) => Kind::of_ip(*ip) == Kind::Loopback,
            Host::Name(name) => Kind::of_name(name) == Some(Kind::Loopback),
        };
        if self.live().auth.anonymous && local {
            self.named.lock().unwrap_or_else(PoisonError::into_inner).note(who, target);
        }
    }

    /// Whether `who` may have a connection to `ip`, an address of `target`.
    pub(super) fn allows(&self, who: &Identity, target: &Target, ip: IpAddr) -> Result<(), Refused> {
        let (ip, port) = (ip.to_canonical(), target.port);
        let name = match &target.host {
            Host::Name(name) => name.as_str(),
            Host::Ip(_) => "",
        };
        let kind = Kind::of_ip(ip);
        let here = kind == Kind::Loopback || is_this_machine(ip);
        let is_redis = (name == self.redis.0 || self.redis.0.parse() == Ok(ip)) && port == self.redis.1;
        // `localhost` in one place may be `127.0.0.1` in the other.
        if is_redis || here && (self.own.contains(&port) || port == self.redis.1) {
            return Err(Refused::Own);
        }
        let live = self.live();
        let rules = live.tenants.get(&who.tenant);
        let provider = rules.provider.as_ref().and_then(|p| Target::of_url(p.base_url.as_str()));
        let public = kind == Kind::Public && !here;
        if public || rules.policy.allows(name, ip, port) || provider.as_ref() == Some(target) {
            return Ok(());
        }
        let named = || self.named.lock().unwrap_or_else(PoisonError::into_inner).has(who, target);
        if kind == Kind::Loopback && live.auth.anonymous && named() {
            Ok(())
        } else {
            Err(Refused::Address(if here { Kind::Loopback } else { kind }))
        }
    }
}

impl Judge {
    /// Whether `target`, which has these addresses as far as is known here, is a public one for a proxy to connect to.
    /// What is near is not: the operator's rules let it through, or a call named it.
    ///
    /// The proxy looks the name up again. So all addresses must be allowed, whichever it takes; and of a name that is
    /// not known here only the proxy can say where it leads.
    pub(super) fn is_far(&self, who: &Identity, target: &Target, ips: &[IpAddr]) -> Result<bool, Refused> {
        if let (Host::Name(name), []) = (&target.host, ips) {
            if *name == self.redis.0 {
                return Err(Refused::Own);
            }
            return Kind::of_name(name).map_or(Ok(true), |kind| Err(Refused::Address(kind)));
        }
        let far = |ip: &IpAddr| Kind::of_ip(ip.to_canonical()) == Kind::Public && !is_this_machine(*ip);
        if !ips.iter().any(far) {
            return Ok(false);
        }
        ips.iter().try_for_each(|ip| self.allows(who, target, *ip)).map(|()| true)
    }
}

/// Whether packets to `ip` stay on this machine. Sends none.
fn is_this_machine(ip: IpAddr) -> bool {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // Towards an address of its own a machine takes the same one as source.
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == ip)
}

/// Machines on loopback, by the users whose calls named them.
#[derive(Debug, Default)]
struct Named {
    of: HashMap<Identity, VecDeque<Target>>,
    /// In the order in which they came.
    users: VecDeque<Identity>,
}

impl Named {
    fn note(&mut self, who: &Identity, target: Target) {
        if !self.of.contains_key(who) {
            if self.users.len() == MOST_USERS
                && let Some(oldest) = self.users.pop_front()
            {
                self.of.remove(&oldest);
            }
            self.users.push_back(who.clone());
        }
        let targets = self.of.entry(who.clone()).or_default();
        targets.retain(|known| *known != target);
        if targets.len() == MOST_NAMED {
            targets.pop_front();
        }
        targets.push_back(target);
    }

    fn has(&self, who: &Identity, target: &Target) -> bool {
        self.of.get(who).is_some_and(|targets| targets.contains(target))
    }
}

#[cfg(test)]
mod tests {
    use jetway_config::{Config, Sources};
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;

    fn judge(toml: &str) -> Judge {
        let (fixed, live) = Config::load(&Sources::fixed(toml, &[])).unwrap().split();
        let rules = Rules::new(live, None, &TaskTracker::new(), &CancellationToken::new()).unwrap();
        Judge::new(Arc::new(ArcSwap::from_pointee(rules)), &fixed.redis, vec![4321, 9090])
    }

    fn who(name: &str) -> Identity {
        Identity { tenant: "local".parse().unwrap(), user: name.parse().unwrap() }
    }

    fn allows(judge: &Judge, user: &str, url: &str, ip: &str) -> Result<(), Refused> {
        judge.allows(&who(user), &Target::of_url(url).unwrap(), ip.parse().unwrap())
    }

    const NOT_LOCAL: &str = "auth.keys = [{ id = 'a', tenant = 'local', sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad' }]\n";

    #[test]
    fn public_addresses_are_open_and_others_are_not() {
        let judge = judge(NOT_LOCAL);
        assert_eq!(allows(&judge, "ada", "https://x.test/", "93.184.216.34"), Ok(()));
        for ip in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1", "0.0.0.0"]
        {
            // Whatever the name: it is the address that counts.
            let refused = allows(&judge, "ada", "https://x.test/", ip);
            assert!(matches!(refused, Err(Refused::Address(_))), "{ip}: {refused:?}");
        }
        let named = Target::of_url("http://127.0.0.1:8000").unwrap();
        judge.accept(&who("ada"), named);
        assert!(allows(&judge, "ada", "http://127.0.0.1:8000", "127.0.0.1").is_err());
    }

    #[test]
    fn loopback_is_for_what_a_users_own_calls_named() {
        let judge = judge("");
        judge.accept(&who("ada"), Target::of_url("http://127.0.0.1:8000/v1").unwrap());
        judge.accept(&who("ada"), Target::of_url("http://localhost:9090").unwrap());
        judge.accept(&who("ada"), Target::of_url("http://127.0.0.1:6379").unwrap());
        judge.accept(&who("ada"), Target::of_url("http://rebound.test:8000").unwrap());
        assert_eq!(allows(&judge, "ada", "http://127.0.0.1:8000/other", "127.0.0.1"), Ok(()));
        for (user, url) in [("bob", "http://127.0.0.1:8000"), ("ada", "http://127.0.0.1:8001")] {
            assert!(allows(&judge, user, url, "127.0.0.1").is_err(), "{user} {url}");
        }
        // Not the name that was public when it was judged, nor Jetway's own, whoever named them.
        assert!(allows(&judge, "ada", "http://rebound.test:8000", "127.0.0.1").is_err());
        for own in ["http://localhost:9090", "http://127.0.0.1:6379", "http://127.0.0.1:4321"] {
            assert_eq!(allows(&judge, "ada", own, "127.0.0.1"), Err(Refused::Own), "{own}");
        }
    }

    #[test]
    fn the_operator_opens_what_is_private_but_not_jetways_own() {
        let rules = "tenants.local.policy.allow_addresses = ['10.0.0.0/8:443', '127.0.0.0/8']\n\
                     redis.url = 'redis://:pw@10.0.0.9:443'";
        let judge = judge(&format!("{NOT_LOCAL}{rules}"));
        assert_eq!(allows(&judge, "ada", "https://x.test", "10.1.1.1"), Ok(()));
        assert_eq!(allows(&judge, "ada", "http://x.test", "10.1.1.1"), Err(Refused::Address(Kind::Private)));
        assert_eq!(allows(&judge, "ada", "https://x.test", "10.0.0.9"), Err(Refused::Own));
        assert_eq!(allows(&judge, "ada", "http://x.test:9090", "127.0.0.1"), Err(Refused::Own));
        assert_eq!(allows(&judge, "ada", "http://x.test:8000", "127.0.0.1"), Ok(()));
    }

    #[test]
    fn a_proxy_gets_what_is_public_by_every_address_that_is_known() {
        let judge = judge(&format!("{NOT_LOCAL}tenants.local.policy.allow_addresses = ['10.0.0.0/8']"));
        let far = |url: &str, ips: &[&str]| {
            let ips: Vec<_> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            judge.is_far(&who("ada"), &Target::of_url(url).unwrap(), &ips)
        };
        assert_eq!(far("https://x.test", &["93.184.216.34"]), Ok(true));
        assert_eq!(far("https://x.test", &[]), Ok(true));
        // The operator's own network is nearer than the proxy, and a name in both is let through there only.
        assert_eq!(far("https://x.test", &["10.0.0.1"]), Ok(false));
        assert_eq!(far("https://x.test", &["127.0.0.1"]), Ok(false));
        let mixed = far("https://x.test", &["93.184.216.34", "169.254.169.254"]);
        assert!(matches!(mixed, Err(Refused::Address(_))), "{mixed:?}");
        for name in ["metadata.google.internal", "x.localhost"] {
            assert!(far(&format!("http://{name}"), &[]).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut named = Named::default();
        let target = |port| Target { host: Host::Ip(Ipv4Addr::LOCALHOST.into()), port };
        for port in 1..=100 {
            named.note(&who("ada"), target(port));
        }
        assert_eq!(named.of[&who("ada")].len(), MOST_NAMED);
        assert!(named.has(&who("ada"), &target(100)) && !named.has(&who("ada"), &target(1)));
        for user in 0..MOST_USERS {
            named.note(&who(&user.to_string()), target(1));
        }
        assert_eq!((named.of.len(), named.users.len()), (MOST_USERS, MOST_USERS));
        assert!(!named.has(&who("ada"), &target(100)));
    }
}
