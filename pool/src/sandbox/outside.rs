//! What sandboxes have of the world outside, as the pool sees it: whoever runs the pool decides.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use jetway_config::Identity;
use tokio::net::TcpListener;

/// Serves one sandbox's way out. Dropping it ends that.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The world outside.
pub trait Outside: Send + Sync {
    /// Serves those who come through `listener`, processes of `who`, as a proxy of HTTP.
    fn serve(self: Arc<Self>, who: Identity, listener: TcpListener) -> Serving;

    /// Hosts that processes reach without the proxy, as `NO_PROXY` lists them: such as are inside.
    fn no_proxy(&self) -> &'static str;

    /// Directories beside their home that processes of `who` may read and write.
    fn directories(&self, who: &Identity) -> Vec<PathBuf>;
}
