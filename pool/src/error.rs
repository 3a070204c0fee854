//! Why there is no server to be had, and why one is no more. No message holds a secret.

use std::{path::PathBuf, time::Duration};

use crate::{drain::DrainReason, server::ServerId};

/// Why a pool cannot begin its work.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No CLI to start.
    #[error(transparent)]
    Command(#[from] CommandNotFound),
    /// The state directory cannot be made or opened.
    #[error("pool.process.state_dir {}: {cause}", path.display())]
    StateDir {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Two gateways on one state directory would run two CLIs on one user's state, and fork its sessions.
    #[error("pool.process.state_dir {}: another Jetway is using it; give each its own", path.display())]
    StateDirInUse {
        /// Where.
        path: PathBuf,
    },
    /// No walls, or weaker ones than the configuration asks for.
    #[error("pool.process.sandbox: {why}; or, at users' risk, write sandbox = \"none\" without sandbox_min")]
    Sandbox {
        /// What is missing on this host, and how to get it.
        why: String,
    },
    /// Users' processes cannot have accounts of their own.
    #[error("pool.process.uids: {why}")]
    Accounts {
        /// What is in the way.
        why: String,
    },
    /// The thread that starts processes could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// No CLI was found.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no Copilot CLI found (looked for {}); run `make demo`, or `npm install @github/copilot-sdk` here, or name \
     one in pool.process.command", looked_for.join(", ")
)]
pub struct CommandNotFound {
    /// Every place that was looked at.
    pub looked_for: Vec<String>,
}

/// Why there is no server to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    /// A CLI process was started and did not come up. The cause is for operators: it may quote the CLI.
    #[error("the CLI did not start ({attempts} tries in {after:.1?}): {cause}")]
    Launch {
        /// What it died of, last.
        cause: String,
        /// How often it was tried.
        attempts: u32,
        /// How long that took.
        after: Duration,
    },
    /// A CLI process was started and did not become ready in time.
    #[error("the CLI was not ready after {after:.1?}, waiting {phase}")]
    StartTimeout {
        /// What it was waited for.
        phase: Phase,
        /// How long.
        after: Duration,
    },
    /// The user's CLI keeps dying; it is left alone for a while.
    #[error("the CLI ended {failures} times in a row; the next try is in {retry_after:.1?}")]
    CrashLoop {
        /// How often in a row.
        failures: u32,
        /// When to come back.
        retry_after: Duration,
    },
    /// No server of the fleet is up.
    #[error("none of the {configured} CLI servers is up")]
    NoServer {
        /// How many there are.
        configured: usize,
        /// When one may be tried again.
        retry_after: Duration,
    },
    /// As many processes as there may be, and all of them in use.
    #[error("all of {limit} CLI processes {whose} are in use")]
    Full {
        /// Which bound that is.
        whose: Whose,
        /// How many.
        limit: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// Not a server of this pool, or a process that is not running: `home` of its user starts it.
    #[error("CLI server {0} is not running")]
    NotRunning(ServerId),
    /// A server that should be there did not answer.
    #[error("CLI server {server} cannot be reached ({after:.1?}): {cause}")]
    Unreachable {
        /// Which.
        server: ServerId,
        /// Why.
        cause: String,
        /// How long it was tried.
        after: Duration,
    },
    /// The pool is closing.
    #[error("shutting down")]
    ShuttingDown,
}

impl PoolError {
    /// After how long another try is worth it, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CrashLoop { retry_after, .. }
            | Self::NoServer { retry_after, .. }
            | Self::Full { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}

/// Whose processes a bound counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All of this host, `pool.process.max_processes` or fewer for want of memory.
    Host,
    /// Those of one tenant.
    Tenant,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host => "of this host",
            Self::Tenant => "of the tenant",
        })
    }
}

/// What the start of a process was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its turn to be started.
    Line,
    /// A place among `max_processes`: the process that gave it up had not ended.
    Room,
    /// The line that tells the port.
    Announcement,
    /// Its answers to `connect` and `ping`.
    Probe,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Line => "for others to be started first",
            Self::Room => "for another process to end",
            Self::Announcement => "for it to tell its port",
            Self::Probe => "for it to answer `connect` and `ping`",
        })
    }
}

/// Why a server is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// Its process ended by itself.
    #[error("the CLI process ended by itself ({status})")]
    Exited {
        /// "exit status: 1", "signal: 9 (SIGKILL)".
        status: String,
    },
    /// Jetway stopped its process.
    #[error("the CLI process was stopped ({0})")]
    Stopped(StopReason),
    /// Its circuit opened.
    #[error("the CLI server is down: {cause}")]
    Down {
        /// What failed last.
        cause: String,
    },
}

/// What a user's processes took too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// `pool.process.limits.memory`.
    Memory,
    /// `pool.process.limits.processes`.
    Processes,
    /// `pool.process.limits.disk`.
    Disk,
}

/// Why Jetway stopped a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Nothing used it for `idle_timeout`.
    Idle,
    /// Least recently used, and another user needed the place.
    Evicted,
    /// It was drained.
    Drained(DrainReason),
    /// It and what it started took more than they may.
    Exceeded(Limit),
    /// It left every ping unanswered for minutes.
    Silent,
    /// Jetway is going down.
    Shutdown,
}

impl StopReason {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Drained(DrainReason::Operator) => "drained",
            Self::Drained(DrainReason::Recycle) => "recycled",
            Self::Exceeded(Limit::Memory) => "memory_limit",
            Self::Exceeded(Limit::Processes) => "process_limit",
            Self::Exceeded(Limit::Disk) => "disk_limit",
            Self::Silent => "silent",
            Self::Shutdown => "shutdown",
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
