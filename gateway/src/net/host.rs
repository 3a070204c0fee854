//! By which name a request came. Pages of other sites reach loopback too: by a name of theirs that resolves to this
//! machine. What they cannot have is an address of this machine, or `localhost`, as their own.

use std::net::IpAddr;

/// Whether a `Host` names this machine by an address, or as `localhost`.
pub(crate) fn is_local(host: &str) -> bool {
    // An address of version 6 has colons of its own, inside of brackets.
    let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}
