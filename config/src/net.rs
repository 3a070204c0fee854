//! Addresses of other machines: CLI servers, model providers, what callers may reach.

use crate::{
    error::Problem,
    setting::{Text, quoted},
};
use std::{fmt, net::IpAddr};

/// A machine, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A DNS name or an IP address, the latter without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl HostPort {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port =
            port.bytes().all(|b| b.is_ascii_digit()).then_some(port)?.parse().ok().filter(|p| *p > 0)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None if is_host_name(host) => host.to_ascii_lowercase(),
            None => return None,
        };
        Some(Self { host, port })
    }
}

/// With brackets around an IPv6 address, as a URL or `TcpStream::connect` takes it.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Text for HostPort {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        Self::parse(text).ok_or_else(|| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        self.to_string()
    }

    const WHAT: &'static str = "a host and port";
    const REMEDY: &'static str = r#"write them as "10.0.0.5:4321" or "cli-0.internal:4321""#;
}

/// A DNS name or an IPv4 address. What looks like an IPv4 address must be one: resolvers read `10.1` and
/// `0x7f.1` as addresses too.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    host.len() <= 253 && name.split('.').all(label) && (!numeric || host.parse::<IpAddr>().is_ok())
}

/// Addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `ip` lies in it. An IPv4 address mapped into IPv6 counts as the IPv4 address that it reaches.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && self.masked(ip) == self.address
    }

    fn masked(&self, ip: IpAddr) -> IpAddr {
        let prefix = u32::from(self.prefix);
        match ip {
            IpAddr::V4(v4) => {
                IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)).into())
            }
        }
    }
}

/// Where a caller's model provider or MCP server may be, beyond public addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRule {
    host: RuleHost,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RuleHost {
    Network(Network),
    /// Lower case, without the dot at the end.
    Name(String),
}

impl AddressRule {
    /// Whether the rule allows a connection to `ip` and `port` for a URL that names `host`. A rule with a
    /// name allows whatever address that name has: the operator vouches for its DNS.
    pub fn allows(&self, host: &str, ip: IpAddr, port: u16) -> bool {
        let host_allowed = match &self.host {
            RuleHost::Network(network) => network.contains(ip),
            RuleHost::Name(name) => host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(name),
        };
        host_allowed && self.port.is_none_or(|allowed| allowed == port)
    }

    /// `10.0.0.0/8`, `10.0.0.5`, `10.0.0.0/8:443`, `fd00::/8`, `[fd00::/8]:443`, `ollama:11434`, `ollama`.
    fn parse(text: &str) -> Option<Self> {
        if let Some(network) = parse_network(text) {
            return Some(Self { host: RuleHost::Network(network), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
                (host, Some(port).filter(|p| *p > 0).map(Some)?)
            }
            None => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // Without brackets, the end of an IPv6 address would be read as a port.
        let network = parse_network(bare.unwrap_or(host)).filter(|n| n.address.is_ipv6() == bare.is_some());
        let host = match network {
            Some(network) => RuleHost::Network(network),
            None if bare.is_none() && is_host_name(host) && host.parse::<IpAddr>().is_err() => {
                RuleHost::Name(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
            }
            None => return None,
        };
        Some(Self { host, port })
    }
}

/// An address, or an address and the length of its prefix.
fn parse_network(text: &str) -> Option<Network> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) if prefix.bytes().all(|b| b.is_ascii_digit()) => prefix.parse().ok()?,
        Some(_) => return None,
        None => longest,
    };
    (prefix <= longest).then_some(Network { address, prefix })
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.host {
            RuleHost::Name(name) => name.clone(),
            RuleHost::Network(Network { address, prefix }) => format!("{address}/{prefix}"),
        };
        match self.port {
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

impl Text for AddressRule {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let rule = Self::parse(text).ok_or_else(|| Self::problem(&quoted(text)))?;
        if let RuleHost::Network(network) = &rule.host {
            let address = network.masked(network.address);
            if address != network.address {
                let meant = Self { host: RuleHost::Network(Network { address, ..*network }), ..rule };
                let what = format!("{} has bits set beyond its prefix", quoted(text));
                return Err(Problem::new(what, format!(r#"write "{meant}""#)));
            }
        }
        Ok(rule)
    }

    fn text(&self) -> String {
        self.to_string()
    }

    const WHAT: &'static str = "an address rule";
    const REMEDY: &'static str = r#"write a network, an address or a name, with a port or without, such as "10.0.0.0/8" or "ollama.internal:11434""#;
}

/// `http://` or `https://`, without user, password or fragment. Never shown in a problem: it is where a
/// key is pasted by mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `https:` or stays on this machine.
    pub(crate) fn is_confidential(&self) -> bool {
        let Some(rest) = self.0.strip_prefix("http://") else { return true };
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let host = HostPort::parse(authority).map_or_else(|| authority.to_owned(), |at| at.host);
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    pub(crate) fn has_query(&self) -> bool {
        self.0.contains('?')
    }
}

impl Text for HttpUrl {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let valid = |rest: &str| {
            let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
            let with_port = if authority.ends_with(']') || !authority.contains(':') {
                format!("{authority}:443")
            } else {
                authority.to_owned()
            };
            let printable = rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'"'));
            printable && HostPort::parse(&with_port).is_some()
        };
        match rest.is_some_and(valid) {
            true => Ok(Self(text.to_owned())),
            false => Err(Self::problem("")),
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    fn problem(_: &str) -> Problem {
        Problem::new(format!("the value is not {}", Self::WHAT), Self::REMEDY)
    }

    const WHAT: &'static str = "a URL of http or https without user and password";
    const REMEDY: &'static str = r#"write one such as "https://models.example.com/v1""#;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> AddressRule {
        AddressRule::parse_text(text).unwrap_or_else(|e| panic!("{text}: {}", e.what))
    }

    fn allows(text: &str, host: &str, ip: &str, port: u16) -> bool {
        rule(text).allows(host, ip.parse().unwrap(), port)
    }

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in [
            ("10.0.0.5:4321", "10.0.0.5", 4321),
            ("CLI-0.internal:1", "cli-0.internal", 1),
            ("[::1]:9", "::1", 9),
        ] {
            let parsed = HostPort::parse_text(text).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), text.to_lowercase());
        }
        for text in [
            "", ":1", "a", "a:", "a:0", "a:65536", "a:+1", "::1:9", "[a]:1", "a b:1", "-a:1", "a..b:1",
            "10.1:1",
        ] {
            assert!(HostPort::parse_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules_match_what_they_say() {
        assert!(allows("10.0.0.0/8", "x", "10.255.0.1", 1));
        assert!(!allows("10.0.0.0/8", "x", "11.0.0.1", 1));
        assert!(allows("10.0.0.0/8", "x", "::ffff:10.0.0.1", 1));
        assert!(allows("0.0.0.0/0", "x", "1.2.3.4", 1) && !allows("0.0.0.0/0", "x", "::1", 1));
        assert!(allows("127.0.0.1:11434", "x", "127.0.0.1", 11434));
        assert!(!allows("127.0.0.1:11434", "x", "127.0.0.1", 80));
        assert!(allows("fd00::/8", "x", "fd12::1", 1) && allows("[fd00::/8]:443", "x", "fd12::1", 443));
        assert!(!allows("[fd00::/8]:443", "x", "fd12::1", 80) && !allows("::1", "x", "::2", 1));
        assert!(allows("ollama.internal:11434", "Ollama.Internal.", "10.0.0.1", 11434));
        assert!(!allows("ollama.internal", "evil-ollama.internal", "10.0.0.1", 1));
    }

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in ["10.0.0.0/8", "10.0.0.0/8:443", "fd00::/8", "[fd00::/8]:443", "ollama:11434", "ollama"] {
            assert_eq!(rule(text).to_string(), text);
        }
        let bad = [
            "",
            "10.0.0.5/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0",
            "fd00::/129",
            "[ollama]:1",
            "a/8",
            "a:0",
            "[10.0.0.1]:1",
        ];
        for text in bad {
            assert!(AddressRule::parse_text(text).is_err(), "{text}");
        }
        assert_eq!(
            AddressRule::parse_text("10.0.0.5/8:443").unwrap_err().remedy,
            r#"write "10.0.0.0/8:443""#
        );
    }

    #[test]
    fn urls() {
        for url in ["https://a.b/v1", "http://127.0.0.1:8080", "https://[::1]:1/x?y=z", "https://a"] {
            assert_eq!(HttpUrl::parse_text(url).unwrap().as_str(), url);
        }
        for url in [
            "",
            "a.b",
            "ftp://a",
            "https://",
            "https://u:p@a",
            "https://a b",
            "https://a#b",
            "https://a:0",
            "https://a:x",
        ] {
            assert!(HttpUrl::parse_text(url).is_err(), "{url}");
        }
        let confidential = |url| HttpUrl::parse_text(url).unwrap().is_confidential();
        assert!(
            confidential("https://a")
                && confidential("http://localhost/x")
                && confidential("http://[::1]:8080/x")
        );
        assert!(
            !confidential("http://a")
                && !confidential("http://10.0.0.1:80")
                && !confidential("http://localhost.evil")
        );
    }
}
