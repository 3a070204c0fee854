//! The SDK port: framed JSON-RPC over TCP, as `copilot --headless` speaks it.

mod conn;

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tracing::{info, warn};

use jetway_config::listen::Port;

use crate::{
    app::Core,
    net::{self, workers::Workers},
    stack,
};

/// How long accepting pauses when the host has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until they are to be closed, or other gateways are to take them. While draining they are told
/// so, and nothing more.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, workers: Arc<Workers>) -> io::Result<()> {
    let deaf = core.deaf().clone();
    let stack = stack::stack();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = deaf.cancelled() => return Ok(()),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting on the SDK port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let limit = core.live().limits.max_connections;
        let Some(counted) = core.connections.one_more_up_to(limit) else {
            // A closed socket is all the answer there is memory for.
            info!(%peer, limit, "connection refused: too many");
            continue;
        };
        net::prepare(&stream);
        let (core, stack) = (core.clone(), stack.clone());
        let tracker = core.tracker.clone();
        let served = workers.serve(&tracker, stream, async move |stream| {
            let inner = core.tls.terminate(Port::Sdk, stream, &core.live().limits, &core.tracker);
            match inner {
                Ok(stream) => conn::serve(core, stack, stream, peer).await,
                Err(error) => warn!(%error, "preparing TLS"),
            }
            drop(counted);
        });
        if let Err(error) = served {
            warn!(%error, "handing a connection to its thread");
        }
    }
}
