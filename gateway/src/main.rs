//! `jetway`: its command line.

mod cli;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use cli::{
    File, check, key,
    operate::{self, Operator},
    serve,
};
use jetway_config::TenantId;
use jetway_pool::sandbox::{self, Own, Reach};

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
    /// What Jetway runs inside a sandbox, before the CLI.
    #[command(name = sandbox::INIT_COMMAND, hide = true)]
    SandboxInit {
        #[command(flatten)]
        walled: Walled,
    },
    /// What Jetway runs where there are no sandboxes: it becomes the CLI, held to rules.
    #[command(name = sandbox::RESTRICT_COMMAND, hide = true)]
    SandboxRestrict {
        /// The user's own directory.
        #[arg(long)]
        home: PathBuf,
        /// What else may be read and run.
        #[arg(long)]
        read: Vec<PathBuf>,
        /// What else may be written.
        #[arg(long)]
        write: Vec<PathBuf>,
        #[command(flatten)]
        walled: Walled,
    },
    /// API keys.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Show what a running gateway is doing: its CLI servers, users and sessions.
    Status {
        #[command(flatten)]
        operator: Operator,
        /// How many servers, users and sessions to show of each; the totals count all.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Take a CLI server out of use: nobody new is placed there, and its sessions move between turns.
    Drain {
        /// Its name, as `jetway status` shows it.
        backend: String,
        #[command(flatten)]
        operator: Operator,
        /// Return when nothing uses it any more.
        #[arg(long)]
        wait: bool,
        /// The longest to wait, in seconds.
        #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = 600)]
        timeout: u64,
    },
    /// Take a drained CLI server into use again.
    Undrain {
        /// Its name, as `jetway status` shows it.
        backend: String,
        #[command(flatten)]
        operator: Operator,
    },
}

/// What is to be started with walls around it.
#[derive(Debug, clap::Args)]
struct Walled {
    /// Processes that there may be.
    processes: u64,
    /// Bytes that a file may have.
    file: u64,
    /// The CLI and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Walled {
    fn own(&self) -> Own {
        Own { processes: self.processes, file: self.file }
    }
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
    let Cli { command, file } = Cli::parse();
    match command.unwrap_or(Command::Serve) {
        Command::Serve => serve::serve(file),
        Command::Check { json } => check::check(file, json),
        Command::SandboxInit { walled } => sandbox::init(walled.own(), walled.command),
        Command::SandboxRestrict { home, read, write, walled } => {
            sandbox::restrict(walled.own(), &Reach { home, read, write }, walled.command)
        }
        Command::Key { command: KeyCommand::New { tenant, json } } => key::new_key(tenant, json),
        Command::Status { operator, limit } => operate::status(&file, &operator, limit),
        Command::Drain { backend, operator, wait, timeout } => {
            operate::drain(&file, &operator, &backend, wait.then_some(timeout))
        }
        Command::Undrain { backend, operator } => operate::undrain(&file, &operator, &backend),
    }
}
