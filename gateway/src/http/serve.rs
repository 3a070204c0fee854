//! Accepting HTTP connections, HTTP/1.1 and HTTP/2, within bounds.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{self, HeaderValue},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use jetway_config::listen::Port;

use super::{caller::Peer, patient::Patient, view::FORWARDED_PROTO};
use crate::{
    accept::{self, Accepted},
    app::Core,
    metrics, net,
};

const LISTENER: &str = "http";
/// Requests that one HTTP/2 connection may have open: browsers and gateways expect a hundred.
const MAX_STREAMS: u32 = 128;
/// Streams that a peer may reset before they were looked at; more is an attack (CVE-2023-44487).
const MAX_RESETS: usize = 32;
/// All headers of a request, in bytes; credentials are bounded to half of it.
const MAX_HEAD: usize = 16 << 10;
/// How many headers a request may have.
const MAX_HEADERS: usize = 64;
/// How often a silent HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Accepts connections until they are to be closed, or other gateways are to take them.
pub(super) async fn accept(core: Arc<Core>, listener: TcpListener, router: Router) -> io::Result<()> {
    let builder = Arc::new(builder(core.live().limits.partial_frame_timeout));
    while let Some(Accepted { stream, peer, counted }) = accept::next(&core, &listener).await {
        net::give_up_stalled(&stream, core.live().limits.stalled_write_timeout);
        let stream = match core.tls.terminate(Port::Http, stream, &core.live().limits, &core.tracker) {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "preparing TLS");
                continue;
            }
        };
        let (core, builder, router) = (core.clone(), builder.clone(), router.clone());
        core.tracker.clone().spawn(async move {
            metrics::connected(LISTENER);
            let end = match serve(&core, &builder, stream, peer, router).await {
                Ok(()) => "closed",
                Err(error) => {
                    debug!(%peer, %error, "HTTP connection ended");
                    "io_error"
                }
            };
            metrics::disconnected(LISTENER, end);
            drop(counted);
        });
    }
    Ok(())
}

fn builder(head: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .half_close(false)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    builder
}

/// Serves a connection to its end. When connections are to be closed, answers under way are finished first.
async fn serve(
    core: &Core,
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let patience = core.live().limits.handshake_timeout;
    let io = TokioIo::new(Patient::new(stream, patience));
    let secure = core.config.listen.tls(Port::Http).is_some();
    let known = router.map_request(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(Peer(peer));
        if secure {
            request.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        }
        request
    });
    let connection = builder.serve_connection_with_upgrades(io, TowerToHyperService::new(known));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = core.deaf().cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
