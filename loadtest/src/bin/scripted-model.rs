//! The scripted model endpoint as a program; see `jetway_loadtest::model` for what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use jetway_loadtest::model::{self, Ledger};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// An OpenAI-compatible model provider that does what the prompt says.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Append the ledger to this file, as JSON lines.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Write each line of the ledger to standard error too.
    #[arg(long)]
    announce: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let ledger = args.ledger.as_deref().map_or_else(|| Ok(Ledger::in_memory()), Ledger::to_file)?;
    let ledger = if args.announce { ledger.announced() } else { ledger };
    let mut terminate = signal(SignalKind::terminate())?;
    let handle = model::serve(TcpListener::bind(args.listen).await?, ledger)?;
    println!("scripted model listening on {}", handle.base_url());
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
