//! Sockets: reading without a buffer while idle, writing whole frames within a bound.

pub(crate) mod chunk;
pub(crate) mod host;
pub(crate) mod tls;
pub(crate) mod workers;
pub(crate) mod writer;

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long a connection is silent before the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Prepares an accepted or dialled socket: answers at once, and notices a peer that is gone.
pub(crate) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Best effort: a socket without these still works, only slower to answer or to be missed.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
}

/// Has the kernel close a connection whose peer takes nothing of what is sent for `patience`.
pub(crate) fn give_up_stalled(stream: &TcpStream, patience: Duration) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(patience));
}

/// Acknowledges at once what has come so far.
///
/// The npm SDK writes a frame's header and body separately and without `TCP_NODELAY`: Nagle holds the body
/// back until the header is acknowledged, and the kernel delays that by 40 ms. Linux forgets the setting, so
/// it is armed again whenever a read ends in the middle of a frame.
pub(crate) fn acknowledge_now(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_quickack(true);
}
