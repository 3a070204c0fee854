//! The stub CLI as a program; see `jetway_loadtest::stub` for what it does.
//!
//! It takes the flags that Jetway gives a CLI it starts, and so can stand in for one.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use jetway_loadtest::stub::{Ledger, Options, Store, Stub};
use tokio::signal::unix::{SignalKind, signal};

/// A Copilot CLI server without a model, which does what the prompt says.
#[derive(Parser)]
struct Args {
    /// How many servers, each on a port of its own.
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// Where the servers listen; port 0 takes free ones, another is the first of consecutive ones.
    #[arg(long, conflicts_with_all = ["host", "port"])]
    listen: Option<SocketAddr>,
    /// The environment variable that holds the connection token; unset or empty, none is wanted.
    #[arg(long, default_value = "COPILOT_CONNECTION_TOKEN")]
    token_env: String,
    /// Append the ledger to this file, as JSON lines.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Keep sessions in memory, even with COPILOT_HOME set.
    #[arg(long)]
    forget: bool,
    /// Stay, with the other servers, when one crashes.
    #[arg(long)]
    survive: bool,
    /// Leave out session.lifecycle: with n connections, opening a session on each sends n² of them.
    #[arg(long)]
    no_lifecycle: bool,
    /// Milliseconds that the agent of a cloud session takes to come; it never does unless they are given.
    #[arg(long)]
    cloud: Option<u64>,
    /// As the CLI: the address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// As the CLI: the port to listen on.
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[command(flatten)]
    ignored: Ignored,
}

/// What the CLI understands and the stub does without.
#[derive(clap::Args)]
struct Ignored {
    #[arg(long, hide = true)]
    headless: bool,
    #[arg(long, hide = true)]
    no_auto_update: bool,
    #[arg(long, hide = true)]
    no_auto_login: bool,
    #[arg(long, hide = true)]
    log_level: Option<String>,
    #[arg(long, hide = true)]
    log_dir: Option<String>,
    #[arg(long, hide = true)]
    auth_token_env: Option<String>,
    #[arg(long, hide = true)]
    session_idle_timeout: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stub-cli: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> std::io::Result<()> {
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .into_iter()
        .map(signal)
        .collect::<Result<Vec<_>, _>>()?;
    let home = env::var_os("COPILOT_HOME").filter(|_| !args.forget);
    let stub = Stub::start(Options {
        servers: args.servers,
        listen: args.listen.unwrap_or(SocketAddr::new(args.host, args.port)),
        token: env::var(&args.token_env).ok().filter(|token| !token.is_empty()),
        store: home.map(|home| Store::dir(home.as_ref())),
        ledger: args.ledger.as_deref().map_or_else(|| Ok(Ledger::in_memory()), Ledger::to_file)?,
        announce: !args.no_lifecycle,
        terminal: false,
        record: false,
        cloud: args.cloud.map(Duration::from_millis),
        exit_on_crash: !args.survive,
    })?;
    for addr in stub.addrs() {
        println!("CLI server listening on port {}", addr.port());
    }
    let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(waits).await;
    Ok(())
}
