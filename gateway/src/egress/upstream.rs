//! The operator's own proxy, by which public addresses are reached where nothing else leads out.

use std::{fmt, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::policy::address::{Host, Target};

/// The longest answer to `CONNECT`, in bytes: a status line and a few headers.
const LONGEST: usize = 8 << 10;

/// A proxy of HTTP that makes tunnels.
#[derive(Debug)]
pub(super) struct Upstream {
    at: Target,
}

impl Upstream {
    /// The proxy at a URL of http; `None` if it names no machine.
    pub(super) fn at(url: &str) -> Option<Self> {
        Target::of_url(url).map(|at| Self { at })
    }

    /// A connection to `target`, by name if it has one: what address that is, the proxy decides.
    pub(super) async fn connect(&self, target: &Target) -> io::Result<TcpStream> {
        let mut stream = match &self.at.host {
            Host::Ip(ip) => TcpStream::connect((*ip, self.at.port)).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), self.at.port)).await?,
        };
        let to = Shown(target);
        stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
        let mut head = Vec::new();
        // One at a time: what follows the head is the other side's already.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            head.push(stream.read_u8().await?);
        }
        let status = head.split(|byte| *byte == b' ').nth(1);
        match status {
            Some(status) if status.len() == 3 && status.starts_with(b"2") => Ok(stream),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// As a request for a tunnel names it.
struct Shown<'a>(&'a Target);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port;
        match &self.0.host {
            Host::Name(name) => write!(f, "{name}:{port}"),
            Host::Ip(ip) if ip.is_ipv6() => write!(f, "[{ip}]:{port}"),
            Host::Ip(ip) => write!(f, "{ip}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a proxy that gives this answer is asked, and what comes of it.
    async fn asked(answer: &'static str, target: &str) -> (String, io::Result<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::at(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let serving = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1000];
            let length = client.read(&mut head).await.unwrap();
            client.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head[..length].to_vec()).unwrap()
        });
        let connected = upstream.connect(&Target::of_host(target).unwrap()).await;
        let read = match connected {
            Ok(mut stream) => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.map(|_| rest)
            }
            Err(error) => Err(error),
        };
        (serving.await.unwrap(), read)
    }

    #[tokio::test]
    async fn tunnels_are_asked_for_by_name() {
        let answer = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n220 hello";
        let (head, read) = asked(answer, "model.test:443").await;
        assert_eq!(head, "CONNECT model.test:443 HTTP/1.1\r\nHost: model.test:443\r\n\r\n");
        // A server may speak first.
        assert_eq!(read.unwrap(), "220 hello");
        let (head, _) = asked(answer, "[2001:db8::1]:443").await;
        assert!(head.starts_with("CONNECT [2001:db8::1]:443 "), "{head}");
    }

    #[tokio::test]
    async fn what_is_no_tunnel_is_an_error() {
        let refused = io::ErrorKind::ConnectionRefused;
        for (answer, kind) in [
            ("HTTP/1.1 407 Who are you\r\n\r\n", refused),
            ("HTTP/1.1 20 OK\r\n\r\n", refused),
            ("SSH-2.0-x\r\n\r\n", refused),
            ("HTTP/1.1 200 OK\r\n", io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(asked(answer, "model.test:443").await.1.unwrap_err().kind(), kind, "{answer}");
        }
    }
}
