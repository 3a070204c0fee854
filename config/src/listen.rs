//! Where Jetway listens.

use crate::{
    error::Problem,
    reader::Section,
    setting::{Text, choice, quoted},
};
use std::{net::SocketAddr, path::PathBuf};

choice! {
    /// One of Jetway's three ports.
    Port {
        /// JSON-RPC for SDKs.
        Sdk = "sdk",
        /// REST, SSE, WebSocket and the console.
        Http = "http",
        /// Metrics, health and operations.
        Admin = "admin",
    }
}

impl Port {
    /// All of them.
    pub const ALL: [Port; 3] = [Port::Sdk, Port::Http, Port::Admin];

    fn key(self) -> String {
        format!("listen.{}", self.as_str())
    }
}

/// The listeners, `[listen]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// JSON-RPC for SDKs; `None` is off. Port 0 lets the system choose, here and below.
    pub sdk: Option<SocketAddr>,
    /// REST, SSE, WebSocket and the console; `None` is off.
    pub http: Option<SocketAddr>,
    /// Metrics, health and operations; `None` is off.
    pub admin: Option<SocketAddr>,
    /// `tls = { cert, key, ports }`.
    pub tls: Option<Tls>,
}

/// TLS for listeners. The files are PEM, read (and read again when they change) by the listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The ports that have TLS; all unless given.
    pub ports: Vec<Port>,
}

impl Listen {
    /// The address of `port`, unless it is off.
    pub fn address(&self, port: Port) -> Option<SocketAddr> {
        match port {
            Port::Sdk => self.sdk,
            Port::Http => self.http,
            Port::Admin => self.admin,
        }
    }

    /// The TLS of `port`, if it has it.
    pub fn tls(&self, port: Port) -> Option<&Tls> {
        self.tls.as_ref().filter(|tls| tls.ports.contains(&port))
    }

    /// The first listener that other machines can reach.
    pub(crate) fn off_loopback(&self) -> Option<(Port, SocketAddr)> {
        let listening = Port::ALL.into_iter().filter_map(|port| Some((port, self.address(port)?)));
        listening.into_iter().find(|(_, address)| !address.ip().to_canonical().is_loopback())
    }

    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let local = |port| Address(Some(SocketAddr::from(([127, 0, 0, 1], port))));
        let listen = Self {
            sdk: s.get("sdk", local(4321)).0,
            http: s.get("http", local(8080)).0,
            admin: s.get("admin", local(9090)).0,
            tls: s.optional_section("tls", Tls::read).flatten(),
        };
        listen.check(s);
        listen
    }

    fn check(&self, s: &Section<'_>) {
        s.relate(&["sdk", "http"], self.sdk.is_some() || self.http.is_some(), || {
            Problem::new(
                "is off, and so is listen.http: there is nothing to serve",
                "give one of them an address",
            )
        });
        for (i, one) in Port::ALL.into_iter().enumerate() {
            for other in &Port::ALL[..i] {
                let (Some(a), Some(b)) = (self.address(one), self.address(*other)) else { continue };
                s.relate(&[one.as_str(), other.as_str()], !clash(a, b), || {
                    Problem::new(format!("{a} is taken by {}", other.key()), "give each its own port")
                });
            }
        }
    }
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    same_ip && a.port() == b.port() && a.port() != 0
}

impl Tls {
    fn read(s: &mut Section<'_>) -> Option<Self> {
        let (cert, key): (Option<PathBuf>, Option<PathBuf>) = (s.required("cert"), s.required("key"));
        for path in [&cert, &key].into_iter().flatten() {
            // Whether they are of use the listeners say; here they are looked at to notice when they change.
            let _ = s.sources().read(path);
        }
        let ports = s.list_or("ports", Port::ALL.to_vec());
        Some(Self { cert: cert?, key: key?, ports })
    }
}

struct Address(Option<SocketAddr>);

impl Text for Address {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        self.0.map_or_else(|| "off".to_owned(), |address| address.to_string())
    }

    const WHAT: &'static str = "an address";
    const REMEDY: &'static str = r#"write "ip:port", such as "127.0.0.1:8080", or "off""#;
}
