//! The SDK port: framed JSON-RPC over TCP, as `copilot --headless` speaks it.

mod conn;

use std::{io, sync::Arc};

use tokio::net::TcpListener;
use tracing::warn;

use jetway_config::listen::Port;

use crate::{
    accept::{self, Accepted},
    app::Core,
    net::workers::Workers,
    stack,
};

/// Accepts connections until they are to be closed, or other gateways are to take them. While draining they are told
/// so, and nothing more.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, workers: Arc<Workers>) -> io::Result<()> {
    let stack = stack::stack();
    while let Some(Accepted { stream, peer, counted }) = accept::next(&core, &listener).await {
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
    Ok(())
}
