//! Which machine a URL names, and what kind of address a machine has.
//!
//! One spelling only: what readers could take for different machines (an IPv4 address in hex, octal or short form,
//! user and password, backslashes, percent signs, letters beyond ASCII, a zone) is no URL here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A machine and a port that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name in lower case without a dot at its end, or an address.
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Target {
    /// The machine of a URL of http or https.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        // Some readers end the authority at a backslash, some drop tabs and line ends, wherever they stand.
        if url.len() > 2048 || !url.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return None;
        }
        Self::of_authority(&rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())], port)
    }

    /// The machine of a bare host, with a port or without, or of a URL.
    pub(crate) fn of_host(text: &str) -> Option<Self> {
        if text.contains("://") { Self::of_url(text) } else { Self::of_authority(text, 443) }
    }

    fn of_authority(authority: &str, default: u16) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (v6, port) = rest.split_once(']')?;
                // Without a zone: it would be another machine for another reader.
                (Host::Ip(v6.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                (parse_host(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => default,
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok()?
            }
            _ => return None,
        };
        (port > 0).then_some(Self { host, port })
    }
}

fn parse_host(host: &str) -> Option<Host> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letters);
    if host.len() > 253 || !name.split('.').all(label) {
        return None;
    }
    // What ends in a number is an address to resolvers and URL readers, in whatever spelling.
    let last = name.rsplit('.').next()?;
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    match number {
        true => host.parse::<Ipv4Addr>().ok().map(|v4| Host::Ip(v4.into())),
        false => Some(Host::Name(name.to_ascii_lowercase())),
    }
}

/// What kind of address a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anywhere on the internet.
    Public,
    Loopback,
    /// RFC 1918, unique local and site-local.
    Private,
    LinkLocal,
    /// Where clouds tell a machine its own secrets.
    Metadata,
    /// Carrier-grade NAT, where overlays and some clouds live as well.
    SharedSpace,
    Multicast,
    Unspecified,
    /// Reserved, for documentation, for tunnels that may end anywhere.
    Reserved,
}

impl Kind {
    /// For messages and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Public => "public",
            Kind::Loopback => "loopback",
            Kind::Private => "private",
            Kind::LinkLocal => "link-local",
            Kind::Metadata => "metadata",
            Kind::SharedSpace => "carrier-grade NAT",
            Kind::Multicast => "multicast",
            Kind::Unspecified => "unspecified",
            Kind::Reserved => "reserved",
        }
    }

    /// The kind of a name, where the name alone tells.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let last = name.rsplit('.').next().unwrap_or_default();
        match name {
            _ if last == "localhost" => Some(Kind::Loopback),
            "localhost.localdomain" | "ip6-localhost" | "ip6-loopback" => Some(Kind::Loopback),
            "metadata" | "metadata.google.internal" | "instance-data" | "instance-data.ec2.internal" => {
                Some(Kind::Metadata)
            }
            _ => None,
        }
    }

    /// The kind of an address. One that stands for an IPv4 address is of that address's kind.
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => of_v4(v4),
                None => of_v6(v6),
            },
        }
    }
}

/// Machines that answer with secrets, at addresses that are otherwise like any other: AWS (also for containers),
/// Google, Azure and others; Alibaba; Azure's wire server; Oracle.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// AWS, for instances and for containers; Google.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn of_v4(ip: Ipv4Addr) -> Kind {
    let [a, b, c, _] = ip.octets();
    match (a, b) {
        _ if METADATA_V4.contains(&ip) => Kind::Metadata,
        // All of it reaches this machine on Linux.
        (0, _) => Kind::Unspecified,
        (127, _) => Kind::Loopback,
        (169, 254) => Kind::LinkLocal,
        (100, 64..=127) => Kind::SharedSpace,
        (224..=239, _) => Kind::Multicast,
        (240..=255, _) | (198, 18..=19) => Kind::Reserved,
        // Protocol assignments; the 6to4 relay.
        (192, 0) if c == 0 => Kind::Reserved,
        (192, 88) if c == 99 => Kind::Reserved,
        _ if ip.is_private() => Kind::Private,
        _ if ip.is_documentation() => Kind::Reserved,
        _ => Kind::Public,
    }
}

fn of_v6(ip: Ipv6Addr) -> Kind {
    match ip.segments() {
        _ if METADATA_V6.contains(&ip) => Kind::Metadata,
        _ if ip.is_unspecified() => Kind::Unspecified,
        _ if ip.is_loopback() => Kind::Loopback,
        _ if ip.is_multicast() => Kind::Multicast,
        _ if ip.is_unicast_link_local() => Kind::LinkLocal,
        _ if ip.is_unique_local() => Kind::Private,
        // Site-local; a NAT64 of someone's own.
        [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Kind::Private,
        // Teredo and other protocol assignments; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Reserved,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Reserved,
    }
}

/// The IPv4 address that a packet to `ip` would come to in the end.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        // Mapped; translated (RFC 2765); NAT64.
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0, 0, 0, 0, 0xffff, 0, a, b] => Some(v4(a, b)),
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(v4(a, b)),
        // 6to4.
        [0x2002, a, b, ..] => Some(v4(a, b)),
        // "Compatible", long gone; `::` and `::1` are what they are.
        [0, 0, 0, 0, 0, 0, a, b] if a > 0 || b > 1 => Some(v4(a, b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        let url = |text: &str| Target::of_url(text);
        let name = |text: &str, port| Some(Target { host: Host::Name(text.into()), port });
        let ip = |text: &str, port| Some(Target { host: Host::Ip(text.parse().unwrap()), port });
        assert_eq!(url("https://API.example.com/v1?x#y"), name("api.example.com", 443));
        assert_eq!(url("HTTP://example.com.:8080"), name("example.com", 8080));
        assert_eq!(url("https://xn--bcher-kva.example"), name("xn--bcher-kva.example", 443));
        assert_eq!(url("http://127.0.0.1"), ip("127.0.0.1", 80));
        assert_eq!(url("http://[::ffff:7f00:1]:9/"), ip("::ffff:127.0.0.1", 9));
        for odd in [
            "http://2130706433",
            "http://0x7f000001",
            "http://0x7f.1",
            "http://127.1",
            "http://0177.0.0.1",
            "http://127.0.0.1.",
            "http://0",
            "http://127.0.0.0x1",
            "http://127.0.0.01",
            "http://0x",
            "http://1.2.3.4.5",
            "http://user@10.0.0.1",
            "http://example.com@10.0.0.1",
            "http://a:b@c",
            "http://example.com\\@10.0.0.1",
            "http://[fe80::1%25eth0]",
            "http://[fe80::1%eth0]",
            "http://[::1",
            "http://::1",
            "http://[127.0.0.1]",
            "http://１２７.0.0.1",
            "http://ⓛocalhost",
            "http://127。0。0。1",
            "http://%31%32%37.0.0.1",
            "http://exa mple.com",
            "http://a\tb",
            "http://a\r\nHost: b",
            "http:///x",
            "http:example.com",
            "//example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "gopher://a",
            "javascript:1",
            "unix:///run/x",
            "",
            "example.com",
            "http://",
            "http://.",
            "http://a..b",
            "http://a:0",
            "http://a:65536",
            "http://a:",
            "http://a:8x",
            "http://a:+8",
        ] {
            assert_eq!(url(odd), None, "{odd:?}");
        }
        assert_eq!(Target::of_host("github.com"), name("github.com", 443));
        assert_eq!(Target::of_host("10.0.0.1:80"), ip("10.0.0.1", 80));
        assert_eq!(Target::of_host("https://ghe.example"), name("ghe.example", 443));
        assert_eq!(Target::of_host("a/b"), None);
    }

    #[test]
    fn addresses_have_kinds() {
        use Kind::*;
        for (kind, addresses) in [
            (
                Public,
                "1.1.1.1 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.167.0.1 198.17.0.1 2606:4700::1 64:ff9b::101:101 2002:101:101::1 ::ffff:8.8.8.8",
            ),
            (
                Loopback,
                "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 ::ffff:0:127.0.0.1 ::127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1::",
            ),
            (
                Private,
                "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 fc00::1 fd12::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:c0a8:1::",
            ),
            (LinkLocal, "169.254.0.1 fe80::1 febf::1 ::ffff:169.254.1.1"),
            (
                Metadata,
                "169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 ::ffff:169.254.169.254 fd00:ec2::254 fd20:ce::254 64:ff9b::a9fe:a9fe",
            ),
            (SharedSpace, "100.64.0.1 100.127.255.255"),
            (Multicast, "224.0.0.1 239.255.255.255 ff02::1"),
            (Unspecified, "0.0.0.0 0.1.2.3 ::"),
            (
                Reserved,
                "240.0.0.1 255.255.255.255 198.18.0.1 192.0.0.1 192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 2001::1 2001:db8::1 100::1 4000::1 3fff::1",
            ),
        ] {
            for ip in addresses.split(' ') {
                assert_eq!(Kind::of_ip(ip.parse().unwrap()), kind, "{ip}");
            }
        }
        assert_eq!(Kind::of_name("localhost"), Some(Loopback));
        assert_eq!(Kind::of_name("a.localhost"), Some(Loopback));
        assert_eq!(Kind::of_name("metadata.google.internal"), Some(Metadata));
        assert_eq!(Kind::of_name("localhost.example"), None);
    }
}
