//! TLS before the listeners: what goes through it, who does not get through, and another certificate under way.

mod common;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{PATIENCE, client::Client, start_from, stub, until};
use jetway_config::{Config, Sources};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName},
    },
};

/// A certificate for `localhost`, written into the directory.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("tls.key"), signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("tls.crt"), cert.pem()).unwrap();
    cert.der().clone()
}

/// What clients without TLS put before it, as stunnel: it trusts those certificates.
struct Tunnel {
    address: SocketAddr,
    trusted: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl Tunnel {
    async fn open(to: SocketAddr, trusted: CertificateDer<'static>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let trusted = Arc::new(Mutex::new(vec![trusted]));
        let trusts = trusted.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let roots = trusts.lock().unwrap().clone();
                tokio::spawn(async move {
                    let far = TcpStream::connect(to).await.unwrap();
                    let name = ServerName::try_from("localhost").unwrap();
                    if let Ok(mut tls) = connector(roots).connect(name, far).await {
                        let _ = copy_bidirectional(&mut near, &mut tls).await;
                    }
                });
            }
        });
        Self { address, trusted }
    }

    fn trust(&self, certificate: CertificateDer<'static>) {
        *self.trusted.lock().unwrap() = vec![certificate];
    }

    /// Whether somebody who trusts only that certificate gets through.
    async fn passes(&self) -> bool {
        let mut client = Client::dial(self.address).await;
        let id = client.request("connect", json!({ "token": "ada" })).await;
        client.read_until(PATIENCE, |seen| seen.iter().any(|m| m["id"] == id)).await
    }
}

fn connector(roots: Vec<CertificateDer<'static>>) -> TlsConnector {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(store).with_no_client_auth()))
}

/// A gateway whose certificate is in the directory.
async fn gateway(dir: &Path, servers: &[SocketAddr], more: &str) -> (common::Gateway, Sources) {
    let at = dir.display();
    let tls = format!("listen.tls = {{ cert = \"{at}/tls.crt\", key = \"{at}/tls.key\" }}");
    let toml = common::fleet(servers, more);
    let toml = toml.replacen("http = \"off\"", "http = \"127.0.0.1:0\"", 1);
    // `listen` is one inline table there.
    let toml = toml.replacen(" }\n", &format!(", {} }}\n", tls.trim_start_matches("listen.")), 1);
    std::fs::write(dir.join("jetway.toml"), toml).unwrap();
    let sources = Sources::system(Some(&dir.join("jetway.toml")));
    (start_from(&sources).await, sources)
}

#[tokio::test]
async fn whole_turns_go_through() {
    let (dir, stub) = (tempfile::tempdir().unwrap(), stub(1));
    let cert = certificate(dir.path());
    let (gateway, _) = gateway(dir.path(), stub.addrs(), "limits.handshake_timeout = \"2s\"").await;
    let tunnel = Tunnel::open(gateway.sdk, cert.clone()).await;
    let mut client = Client::hello(tunnel.address, "ada").await;
    let session = client.create("s").await;
    client.turn(&session, "hello").await;
    // More than any buffer on the way holds, each way.
    let long = "x".repeat(2 << 20);
    let echoed = client.call("ping", json!({ "message": long })).await.unwrap();
    assert!(echoed.to_string().contains(&long), "{} bytes came back", echoed.to_string().len());

    // Neither somebody without TLS nor somebody who stops in the middle holds anything for long.
    let mut plain = Client::dial(gateway.sdk).await;
    plain.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "connect", "params": {} })).await;
    let mut silent = TcpStream::connect(gateway.sdk).await.unwrap();
    silent.write_all(&[22, 3, 1]).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.stream.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(!rest.windows(7).any(|w| w == b"Content"), "no answer in the clear");
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("it is closed");

    // The other ports likewise.
    for (address, path) in [(gateway.admin, "/readyz"), (gateway.http.unwrap(), "/api/v1/sessions")] {
        let mut page = String::new();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = connector(vec![cert.clone()]).connect(name, stream).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let _ = tls.read_to_string(&mut page).await;
        assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
    }

    // A drain closes it, in its time.
    gateway.app.drain(std::future::ready(())).await;
    assert!(client.closes(PATIENCE).await);
}

#[tokio::test]
async fn another_certificate_is_for_new_connections() {
    let (dir, stub) = (tempfile::tempdir().unwrap(), stub(1));
    let first = certificate(dir.path());
    let (gateway, sources) = gateway(dir.path(), stub.addrs(), "").await;
    // It has read them: what it is given is what they held.
    Config::load(&sources).unwrap();
    let _reload = gateway.app.watch(sources);
    let tunnel = Tunnel::open(gateway.sdk, first.clone()).await;
    let mut stands = Client::hello(tunnel.address, "bob").await;

    // Half of a pair is no pair: nothing changes until its key is there as well.
    let next = tempfile::tempdir().unwrap();
    let second = certificate(next.path());
    std::fs::copy(next.path().join("tls.crt"), dir.path().join("tls.crt")).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(tunnel.passes().await, "the old certificate is in use");
    std::fs::copy(next.path().join("tls.key"), dir.path().join("tls.key")).unwrap();

    tunnel.trust(second);
    let deadline = std::time::Instant::now() + PATIENCE * 2;
    while !tunnel.passes().await {
        assert!(std::time::Instant::now() < deadline, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tunnel.trust(first);
    assert!(!tunnel.passes().await, "the old one is used no more");
    stands.call("ping", json!({})).await.unwrap();
    until("it stands", || !stands.closed).await;
}

#[tokio::test]
async fn a_certificate_that_is_none_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path());
    let at = dir.path().display();
    let load = |cert: &str, key: &str| {
        format!(
            "listen = {{ sdk = '127.0.0.1:0', http = 'off', admin = 'off', tls = {{ cert = '{at}/{cert}', key = '{at}/{key}' }} }}"
        )
    };
    std::fs::write(dir.path().join("empty"), "").unwrap();
    let other = tempfile::tempdir().unwrap();
    certificate(other.path());
    std::fs::copy(other.path().join("tls.key"), dir.path().join("other.key")).unwrap();
    for (cert, key, says) in [
        ("missing", "tls.key", "listen.tls.cert"),
        ("empty", "tls.key", "listen.tls.cert"),
        ("tls.crt", "missing", "listen.tls.key"),
        ("tls.crt", "empty", "listen.tls.key"),
        ("tls.crt", "other.key", "listen.tls.key"),
    ] {
        let path = dir.path().join("jetway.toml");
        std::fs::write(&path, load(cert, key)).unwrap();
        let out = common::program::command()
            .args(["serve", "--config"])
            .arg(&path)
            .current_dir(&dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(69), "{cert} {key}: {said}");
        assert!(said.contains(says) && !said.contains("PRIVATE"), "{cert} {key}: {said}");
    }
}
