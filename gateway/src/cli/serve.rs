//! `jetway serve`: wires the parts together, then drains under a deadline.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use jetway_config::{Config, LogFormat, Sources};
use jetway_gateway::{App, metrics};

use super::{EX_CONFIG, EX_UNAVAILABLE, File};

pub(crate) fn serve(file: File) -> ExitCode {
    let sources = file.sources();
    let config = match jetway_gateway::load(&sources) {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{errors}");
            return EX_CONFIG.into();
        }
    };
    start_logging(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the runtime");
            return EX_UNAVAILABLE.into();
        }
    };
    runtime.block_on(run(config, sources))
}

async fn run(config: Config, sources: Sources) -> ExitCode {
    let Signals { mut term, mut int, mut hup } = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "cannot listen for signals");
            return EX_UNAVAILABLE.into();
        }
    };
    let app = match App::start(config, metrics::install()).await {
        Ok(app) => app,
        Err(error) => {
            error!("{error}");
            return EX_UNAVAILABLE.into();
        }
    };
    let reload = app.watch(sources);
    announce(&app);
    let name = loop {
        tokio::select! {
            name = either(&mut term, &mut int) => break name,
            _ = hup.recv() => reload.now(),
        }
    };
    info!(signal = name, "stopping; a second signal hurries");
    app.drain(async {
        either(&mut term, &mut int).await;
    })
    .await;
    ExitCode::SUCCESS
}

/// What an operator may send.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

async fn either(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// One line per listener on standard output, for people and for scripts that chose port 0.
fn announce(app: &App) {
    let addresses = app.addresses();
    let mut out = std::io::stdout().lock();
    for (name, address) in [("sdk", addresses.sdk), ("http", addresses.http), ("admin", addresses.admin)] {
        if let Some(address) = address {
            // Nobody has to read it.
            let _ = writeln!(out, "{name} listening on {address}");
        }
    }
    let _ = out.flush();
}

fn start_logging(config: &Config) {
    let human = match config.log.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let filter = EnvFilter::new(config.log.level.as_str());
    let registry = tracing_subscriber::registry().with(filter);
    if human {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).init();
    }
}
