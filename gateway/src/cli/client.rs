//! A gateway's admin port, as its operator's commands see it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use jetway_config::{Config, SecretString, listen::Port};

/// How long one question may take: the gateway looks at everything it has, on a busy host.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer: some hundred bytes a row.
const LONGEST: usize = 32 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "listen.admin is \"off\" in the configuration: the gateway cannot be operated; or name it with --admin"
    )]
    Off,
    #[error("listen.admin has no fixed port; name the gateway with --admin http://host:port")]
    NoPort,
    #[error("--admin {0}: write http://host:port")]
    BadUrl(String),
    #[error(
        "the admin port has TLS, which this command does not speak; leave \"admin\" out of listen.tls.ports"
    )]
    Tls,
    #[error("no gateway answers at {address}: {cause}; is `jetway serve` running, with this configuration?")]
    Unreachable { address: String, cause: String },
    #[error("the gateway at {address} refused: {why}")]
    Refused { address: String, status: u16, why: String },
}

/// Where a gateway's admin port is, and how to be let in.
pub(super) struct Gateway {
    /// `host:port`.
    address: String,
    token: Option<SecretString>,
}

impl Gateway {
    /// The one at `url`, else the one that the configuration describes.
    pub(super) fn find(config: &Config, url: Option<&str>) -> Result<Self, ClientError> {
        let address = match url {
            Some(url) => parse(url).ok_or_else(|| ClientError::BadUrl(url.to_owned()))?,
            None if config.listen.tls(Port::Admin).is_some() => return Err(ClientError::Tls),
            None => reachable(config.listen.admin.ok_or(ClientError::Off)?)?,
        };
        Ok(Self { address, token: config.admin.token.clone() })
    }

    /// Asks, and returns the JSON that came.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Value, ClientError> {
        let unreachable = |cause: String| ClientError::Unreachable { address: self.address.clone(), cause };
        let answer = tokio::time::timeout(PATIENCE, self.exchange(method, path)).await;
        let (status, body) = match answer {
            Ok(answer) => answer.map_err(|e| unreachable(e.to_string()))?,
            Err(_) => return Err(unreachable(format!("no answer within {PATIENCE:?}"))),
        };
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        match value {
            Some(value) if (200..300).contains(&status) => Ok(value),
            value => {
                let why = value.as_ref().and_then(|v| v["error"].as_str()).unwrap_or("no answer of a Jetway");
                Err(ClientError::Refused { address: self.address.clone(), status, why: why.to_owned() })
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST).collect().await?.to_bytes();
        connection.abort();
        Ok((status, body))
    }
}

/// `host:port` of a URL, whose path does not matter.
fn parse(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest.split('/').next()?;
    let (host, port) = address.rsplit_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    (!host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|p| p > 0))
        .then(|| address.to_owned())
}

/// Where this machine reaches a listener of its own.
fn reachable(listener: SocketAddr) -> Result<String, ClientError> {
    if listener.port() == 0 {
        return Err(ClientError::NoPort);
    }
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listener.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (url, address) in [
            ("http://127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("http://gw-1.internal:9090/", Some("gw-1.internal:9090")),
            ("[::1]:9090", Some("[::1]:9090")),
            ("127.0.0.1", None),
            ("https://gw:9090", None),
            ("http://:9090", None),
            ("http://gw:0", None),
            ("http://user@gw:9090", None),
            ("http://g w:9090", None),
            ("", None),
        ] {
            assert_eq!(parse(url).as_deref(), address, "{url}");
        }
    }
}
