//! TLS before a listener.
//!
//! A task of its own holds the TLS connection and passes bytes on through a pair of sockets, whose other end is served
//! like an accepted socket. So whoever serves it need not know, and connections without TLS cost what they did. One
//! with TLS costs the cipher, a copy through the kernel each way, three descriptors in place of one, and some 60 KiB.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
    server::TlsStream,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use jetway_config::{
    Limits,
    listen::{self, Listen, Port},
};

use crate::metrics;

/// How long a client may take to acknowledge the end.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes passed on at a time: a TLS record.
const RECORD: usize = 16 * 1024;

/// The listeners' certificate, if they have one.
#[derive(Debug)]
pub(crate) struct Tls(Option<On>);

#[derive(Debug)]
struct On {
    files: listen::Tls,
    config: ArcSwap<ServerConfig>,
    /// The chain in use, to tell whether another one is new.
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

/// A certificate and its key, read and found to belong together.
pub(crate) struct Certificate {
    config: ServerConfig,
    chain: Vec<CertificateDer<'static>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If they cannot be read, are not PEM, or do not belong together.
    pub(crate) fn load(listen: &Listen) -> Result<Self, String> {
        let Some(files) = listen.tls.clone() else { return Ok(Self(None)) };
        let Certificate { config, chain } = read(&files)?;
        let config = ArcSwap::from_pointee(config);
        Ok(Self(Some(On { files, config, chain: Mutex::new(chain) })))
    }

    /// Reads the files again. Returns the certificate, if it is another one.
    pub(crate) fn load_again(&self) -> Result<Option<Certificate>, String> {
        let Some(on) = &self.0 else { return Ok(None) };
        let read = read(&on.files)?;
        let known = on.chain.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(read).filter(|read| read.chain != *known))
    }

    /// Uses it for connections to come.
    pub(crate) fn put_into_effect(&self, certificate: Certificate) {
        if let Some(on) = &self.0 {
            on.config.store(Arc::new(certificate.config));
            *on.chain.lock().unwrap_or_else(PoisonError::into_inner) = certificate.chain;
        }
    }

    /// The stream to serve in the place of an accepted one: itself, unless the port has TLS.
    pub(crate) fn terminate(
        &self,
        port: Port,
        stream: TcpStream,
        limits: &Limits,
        tracker: &TaskTracker,
    ) -> io::Result<TcpStream> {
        let Some(on) = self.0.as_ref().filter(|on| on.files.ports.contains(&port)) else { return Ok(stream) };
        let (near, far) = UnixStream::pair()?;
        let acceptor = TlsAcceptor::from(on.config.load_full());
        let (handshake, stall) = (limits.handshake_timeout, limits.stalled_write_timeout);
        tracker.spawn(async move {
            let outcome = match timeout(handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    metrics::tls_handshake(port.as_str(), "ok");
                    return splice(stream, near, stall).await;
                }
                Ok(Err(error)) => {
                    debug!(port = port.as_str(), %error, "TLS handshake");
                    "failed"
                }
                Err(_) => "timeout",
            };
            metrics::tls_handshake(port.as_str(), outcome);
        });
        // A socket is a socket to whoever reads and writes it; what only TCP has fails, and nobody depends on it.
        TcpStream::from_std(OwnedFd::from(far.into_std()?).into())
    }
}

/// Passes bytes on, each way until its end, until whoever serves the connection is done.
async fn splice(stream: TlsStream<TcpStream>, near: UnixStream, stall: Duration) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut from_server, mut to_server) = near.into_split();
    let inward = async {
        // Its errors are the client's end; the other way tells how it goes on.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        std::future::pending::<()>().await;
    };
    let outward = async {
        let mut buf = vec![0; RECORD];
        loop {
            let n = from_server.read(&mut buf).await?;
            if n == 0 {
                return Ok(());
            }
            let written = async {
                to_client.write_all(&buf[..n]).await?;
                to_client.flush().await
            };
            timeout(stall, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = outward => ended,
        () = inward => Ok(()),
    };
    if ended.is_ok() {
        let _ = timeout(LINGER, to_client.shutdown()).await;
    }
}

fn read(files: &listen::Tls) -> Result<Certificate, String> {
    let of = |key: &str, path: &Path, why: &dyn std::fmt::Display| {
        format!("listen.tls.{key} = {:?}: {why}", path.display().to_string())
    };
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| of("cert", &files.cert, &e))?;
    if chain.is_empty() {
        return Err(of("cert", &files.cert, &"the file holds no certificate in PEM"));
    }
    // Without what the parser says: it may repeat a part of the key.
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|_| of("key", &files.key, &"the file cannot be read, or holds no private key in PEM"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(|e| of("cert", &files.cert, &format!("with listen.tls.key: {e}")))?;
    Ok(Certificate { config, chain })
}
