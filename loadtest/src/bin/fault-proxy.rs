//! The fault proxy as a program; see `jetway_loadtest::faults` for what it does and the commands it takes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;
use jetway_loadtest::faults::{self, FaultProxy};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A TCP proxy that goes wrong on request.
#[derive(Parser)]
struct Args {
    /// Where clients connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to forward to, host:port.
    #[arg(long)]
    to: String,
    /// Where commands are taken, one per line; loopback only.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let args = Args::parse();
    if !args.control.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "--control must be a loopback address"));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let control = TcpListener::bind(args.control).await?;
    let proxy = Arc::new(FaultProxy::serve(TcpListener::bind(args.listen).await?, args.to)?);
    println!("fault proxy listening on {}", proxy.addr());
    println!("fault proxy control on {}", control.local_addr()?);
    tokio::select! {
        () = faults::serve_control(control, proxy) => Ok(()),
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
