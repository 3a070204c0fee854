//! The plainest hop there is: every connection copied both ways, on two worker threads.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::net::{TcpListener, TcpStream};

/// Copies between whoever connects to `listen` and one of `to`, in turn, for ever.
///
/// # Errors
/// When it cannot listen.
pub fn run(listen: SocketAddr, to: Vec<SocketAddr>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(listen).await?;
        let next = AtomicUsize::new(0);
        loop {
            let Ok((mut client, _)) = listener.accept().await else { continue };
            let server = to[next.fetch_add(1, Ordering::Relaxed) % to.len()];
            tokio::spawn(async move {
                client.set_nodelay(true)?;
                let mut server = TcpStream::connect(server).await?;
                server.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    })
}
