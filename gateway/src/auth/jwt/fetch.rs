//! Fetching a small document, within bounds.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName},
};

/// The longest document, in bytes: a hundred keys of 4096 bits.
const LONGEST: usize = 256 << 10;
/// How long it may take: shorter than a stranger's handshake, who waits for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(4);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("not a URL that can be fetched")]
    Url,
    #[error("not within {TIMEOUT:?}")]
    Timeout,
    #[error("connecting: {0}")]
    Connect(std::io::Error),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is cut off or longer than {LONGEST} bytes")]
    Body,
}

/// Fetches what is at `url`. Follows no redirects: the operator named the place.
pub(super) async fn get(url: &str) -> Result<Bytes, FetchError> {
    timeout(TIMEOUT, fetch(url)).await.map_err(|_| FetchError::Timeout)?
}

async fn fetch(url: &str) -> Result<Bytes, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
    let host = uri.host().ok_or(FetchError::Url)?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((bare, port)).await.map_err(FetchError::Connect)?;
    if !secure {
        return ask(stream, &uri).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Url)?;
    let tls = TlsConnector::from(Arc::new(trust()));
    ask(tls.connect(name, stream).await.map_err(FetchError::Tls)?, &uri).await
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map_or("", |a| a.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(|body| body.to_bytes()).map_err(|_| FetchError::Body)
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    // The connection is driven here, so that it ends with the answer.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// The machine's own authorities (`SSL_CERT_FILE` names others).
fn trust() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
