//! The admin port: metrics, health, what the gateway is doing, and its operation.

mod guard;
mod locks;
mod servers;
mod status;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::interval,
};
use tracing::warn;

use jetway_config::listen::Port;

use crate::app::Core;

/// How often histograms' samples are folded into their buckets, scraped or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until connections are to be closed.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    metrics: PrometheusHandle,
) -> io::Result<()> {
    let closing = core.drain.closing().clone();
    let door = core.clone();
    let upkeep = metrics.clone();
    let stop = closing.clone();
    core.tracker.spawn(async move {
        let mut ticks = interval(UPKEEP);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            upkeep.run_upkeep();
        }
    });
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .merge(operations(core.clone()))
        .with_state((core, metrics));
    let listener = Door { core: door, tcp: listener };
    axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned()).await
}

/// The port, with its TLS if it has it.
struct Door {
    core: Arc<Core>,
    tcp: TcpListener,
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            // It waits by itself when there are no descriptors left.
            let (stream, peer) = axum::serve::Listener::accept(&mut self.tcp).await;
            let Core { tls, tracker, .. } = &*self.core;
            match tls.terminate(Port::Admin, stream, &self.core.live().limits, tracker) {
                Ok(stream) => return (stream, peer),
                Err(error) => warn!(%error, "preparing TLS"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// What is for operators only.
fn operations(core: Arc<Core>) -> Router<(Arc<Core>, PrometheusHandle)> {
    Router::new()
        .route("/admin/v1/status", get(status::get))
        .route("/admin/v1/servers/{*id}", get(servers::get))
        .route("/admin/v1/drain/{*id}", post(servers::drain))
        .route("/admin/v1/undrain/{*id}", post(servers::undrain))
        .route_layer(middleware::from_fn_with_state(core, guard::guard))
}

type Shared = State<(Arc<Core>, PrometheusHandle)>;

/// Whether new work is welcome. Draining, or without a CLI server, it is not.
async fn ready(State((core, _)): Shared) -> Response {
    let draining = core.drain.is_draining();
    let pool = core.pool.ready();
    // Of a fleet, one server is enough; the reasons then tell what is wrong with the others.
    let ready = pool.ready && !draining;
    let reasons: Vec<_> = draining.then(|| "draining".to_owned()).into_iter().chain(pool.reasons).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "reasons": reasons }))).into_response()
}

async fn render(State((core, metrics)): Shared) -> impl IntoResponse {
    status::measure(&core);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}
