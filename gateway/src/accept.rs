//! Accepting connections, on either face, within their bound.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::{info, warn};

use crate::{app::Core, drain::Counted, net};

/// How long accepting pauses when the host has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that was accepted, and its place among them.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) counted: Counted,
}

/// The next connection; nothing once connections are to be closed, or other gateways are to take them.
pub(crate) async fn next(core: &Core, listener: &TcpListener) -> Option<Accepted> {
    loop {
        let (stream, peer) = match core.deaf().run_until_cancelled(listener.accept()).await? {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting connections");
                sleep(PAUSE).await;
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
        return Some(Accepted { stream, peer, counted });
    }
}
