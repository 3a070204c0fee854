//! `jetway`: wires the parts together, then drains under a deadline.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use jetway_config::{ApiKey, Config, LogFormat, Sources, TenantId};
use jetway_gateway::{App, metrics};

/// `sysexits.h`: the configuration is wrong.
const EX_CONFIG: u8 = 78;
/// `sysexits.h`: something that is needed cannot be had.
const EX_UNAVAILABLE: u8 = 69;

/// A headless, multi-tenant gateway and load balancer for GitHub Copilot CLI servers.
///
/// Point any official Copilot SDK at the SDK port (127.0.0.1:4321) instead of at a CLI server. Jetway knows
/// who is calling and gives each user a CLI server: a process of the user's own, or one of a fleet.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Every key of the file can be overridden by the environment: \
    JETWAY__POOL__MODE=fleet sets pool.mode.\nStart with `jetway check` to see all of them with their defaults."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Args)]
struct File {
    /// Configuration file (TOML). Without one: the embedded defaults, for this machine only.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (what happens without a command).
    Serve,
    /// Validate the configuration and print what is in effect, secrets redacted. Exits 78 if it is wrong.
    Check {
        /// Print JSON: the configuration, or {"errors": […]}.
        #[arg(long)]
        json: bool,
    },
    /// API keys.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a new API key once, and the [[auth.keys]] entry (its hash only) for the configuration file.
    New {
        /// The tenant that the key belongs to.
        #[arg(long, value_name = "T")]
        tenant: TenantId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(cli.file),
        Command::Check { json } => check(cli.file, json),
        Command::Key { command: KeyCommand::New { tenant, json } } => new_key(tenant, json),
    }
}

fn load(file: &File) -> Result<Config, jetway_config::ConfigErrors> {
    Config::load(&Sources::system(file.config.as_deref()))
}

fn serve(file: File) -> ExitCode {
    let config = match load(&file) {
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
    runtime.block_on(run(config))
}

async fn run(config: Config) -> ExitCode {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
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
    announce(&app);
    let name = either(&mut term, &mut int).await;
    info!(signal = name, "stopping; a second signal hurries");
    app.drain(async {
        either(&mut term, &mut int).await;
    })
    .await;
    ExitCode::SUCCESS
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
    for (name, address) in [("sdk", addresses.sdk), ("admin", addresses.admin)] {
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

fn check(file: File, json: bool) -> ExitCode {
    match (load(&file), json) {
        (Ok(config), false) => print!("{}", config.to_toml_redacted()),
        (Ok(config), true) => match config.to_toml_redacted().parse::<toml::Table>() {
            Ok(table) => println!("{}", serde_json::json!(table)),
            Err(error) => {
                eprintln!("{error}");
                return EX_CONFIG.into();
            }
        },
        (Err(errors), json) => {
            if json {
                let list: Vec<_> = errors.iter().map(ToString::to_string).collect();
                println!("{}", serde_json::json!({ "errors": list }));
            } else {
                eprint!("{errors}");
            }
            return EX_CONFIG.into();
        }
    }
    ExitCode::SUCCESS
}

fn new_key(tenant: TenantId, json: bool) -> ExitCode {
    let key = ApiKey::generate();
    let entry = key.entry(tenant);
    if json {
        let entry = serde_json::json!({
            "key": key.expose(),
            "entry": { "id": entry.id, "tenant": entry.tenant, "sha256": entry.sha256.to_hex() },
        });
        println!("{entry}");
    } else {
        println!("{}", key.expose());
        eprintln!("\nKeep it: it is shown this once. For the configuration file:\n");
        eprintln!("{}", entry.to_toml());
        eprintln!("SDKs present it as connection token, `<key>:<user>` to act for a user.");
    }
    ExitCode::SUCCESS
}
