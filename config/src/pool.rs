//! CLI servers: spawned ones, a fleet, their health and recycling.

use crate::{
    error::Problem,
    net::{HostPort, HttpUrl},
    reader::Section,
    recycle::Recycle,
    sandbox::{Level, ProcessLimits, Sandbox, Uids},
    secret::{self, SecretString},
    setting::{Setting, Text, choice, shown},
    tenants::HostPath,
    units::MemoryBudget,
};
use std::{path::PathBuf, time::Duration};
use toml::Value;

choice! {
    /// Where a user's sessions live.
    PoolMode {
        /// In a CLI process of the user's own.
        PerUser = "per-user",
        /// On a fleet of CLI servers that run already.
        Fleet = "fleet",
    }
}

/// Networks come back within it, and applications restart.
const KEEP_TURNS: Duration = Duration::from_secs(300);

/// `[pool]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Where a user's sessions live.
    pub mode: PoolMode,
    /// Live sessions per CLI server; the least recently used idle one makes room.
    pub max_active_sessions: usize,
    /// How long a turn runs on whose client has vanished; 0 ends it at once, as a CLI server by itself does.
    pub keep_turns: Duration,
    /// How CLI processes are started and kept, in per-user mode.
    pub process: Process,
    /// The CLI servers that run already; not empty in fleet mode.
    pub fleet: Vec<Backend>,
    /// When a CLI server is replaced by a fresh one.
    pub recycle: Recycle,
    /// How CLI servers are watched.
    pub health: Health,
}

impl Pool {
    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let pool = Self {
            mode: s.get("mode", PoolMode::PerUser),
            max_active_sessions: s.get_in("max_active_sessions", 50, 1..=100_000),
            keep_turns: s.get_in("keep_turns", KEEP_TURNS, Duration::ZERO..=Duration::from_secs(86_400)),
            process: s.section("process", Process::read),
            fleet: s.sections("fleet", Backend::read).into_iter().flatten().collect(),
            recycle: s.section("recycle", Recycle::read),
            health: s.section("health", Health::read),
        };
        s.unavailable(
            "kubernetes",
            "run CLI servers with [pool.process], or list running ones as [[pool.fleet]]",
        );
        pool.check(s);
        pool
    }

    fn check(&self, s: &Section<'_>) {
        let served = self.mode != PoolMode::Fleet || !self.fleet.is_empty();
        s.relate(&["fleet", "mode"], served, || {
            Problem::new(
                "is empty, and pool.mode is \"fleet\"",
                "add a [[pool.fleet]] entry for each CLI server",
            )
        });
        for (i, backend) in self.fleet.iter().enumerate() {
            let first = self.fleet[..i].iter().position(|other| other.address == backend.address);
            s.relate(&["fleet"], first.is_none(), || {
                Problem::new(format!("{} is listed twice", backend.address), "remove one of the entries")
            });
        }
    }
}

/// `[pool.process]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// What is started.
    pub command: Command,
    /// Users' state is kept in `<state_dir>/<tenant>/<user>`; relative to the working directory.
    pub state_dir: PathBuf,
    /// Processes on this host; the least recently used idle one makes room, its state kept.
    pub max_processes: usize,
    /// Memory for all spawned CLIs together.
    pub memory_budget: MemoryBudget,
    /// How long a process without work is left running.
    pub idle_timeout: Duration,
    /// From one `ping` of a process to the next, and how long each waits for its answer. One that leaves
    /// `pool.health.failures` of them in a row unanswered is replaced.
    pub ping_interval: Duration,
    /// What users' processes are walled in with.
    pub sandbox: Sandbox,
    /// Jetway does not start with less.
    pub sandbox_min: Level,
    /// What sandboxed processes may read beyond the system's own programs and libraries.
    pub sandbox_paths: Vec<HostPath>,
    /// Accounts for users' processes, one for each user; `None` is Jetway's own for all. For root only.
    pub uids: Option<Uids>,
    /// The operator's own proxy, by which sandboxed processes reach public addresses; `None` is directly.
    pub upstream_proxy: Option<HttpUrl>,
    /// What one user's processes may use.
    pub limits: ProcessLimits,
    /// How long a process may take until it listens; and how long its user may wait for its turn to be started before that.
    pub start_timeout: Duration,
}

impl Process {
    fn read(s: &mut Section<'_>) -> Self {
        let seconds = Duration::from_secs;
        let process = Self {
            command: s.get("command", Command::Auto),
            state_dir: s.get("state_dir", "./jetway-state".into()),
            max_processes: s.get_in("max_processes", 500, 1..=100_000),
            memory_budget: s.get("memory_budget", MemoryBudget::Percent(50)),
            idle_timeout: s.get_in("idle_timeout", seconds(15 * 60), seconds(1)..=seconds(7 * 86_400)),
            ping_interval: s.get_in("ping_interval", seconds(10), Duration::from_millis(100)..=seconds(600)),
            sandbox: s.get("sandbox", Sandbox::Auto),
            sandbox_min: s.get("sandbox_min", Level::None),
            sandbox_paths: s.list_or("sandbox_paths", Vec::new()),
            uids: s.optional("uids"),
            upstream_proxy: s.optional("upstream_proxy"),
            limits: s.section("limits", ProcessLimits::read),
            start_timeout: s.get_in("start_timeout", seconds(10), seconds(1)..=seconds(600)),
        };
        process.sandbox.check(s, process.sandbox_min);
        let plain = process.upstream_proxy.as_ref().is_none_or(|url| url.as_str().starts_with("http://"));
        s.relate(&["upstream_proxy"], plain, || {
            Problem::new(
                "begins with https:",
                "write the proxy's address with http: connections through it have TLS of their own",
            )
        });
        process
    }
}

/// What is started as a CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `copilot-runtime` if it is found, else `copilot`.
    Auto,
    /// A program and its first arguments.
    Program {
        /// The program: a path, or a name to be looked up in `PATH`.
        program: String,
        /// Arguments that stand before Jetway's own.
        args: Vec<String>,
    },
}

impl Setting for Command {
    fn read(value: &Value) -> Result<Self, Problem> {
        let words = match value {
            Value::String(text) if text == "auto" => return Ok(Self::Auto),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let mut words = words.unwrap_or_else(Vec::new).into_iter();
        match words.next().filter(|program| !program.is_empty()) {
            Some(program) => Ok(Self::Program { program, args: words.collect() }),
            None => Err(Problem::new(
                format!("{} is not a command", shown(value)),
                r#"write "auto", or a list of the program and its arguments such as ["node", "copilot.js"]"#,
            )),
        }
    }

    fn write(&self) -> Value {
        match self {
            Self::Auto => "auto".into(),
            Self::Program { program, args } => Value::Array(
                [program].into_iter().chain(args).map(|word| Value::from(word.as_str())).collect(),
            ),
        }
    }
}

/// A CLI server that runs already, `[[pool.fleet]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: HostPort,
    /// Its connection token, from the variable that `token_env` names.
    pub token: Option<SecretString>,
    /// Its share of the sessions, 1 to 100.
    pub weight: u32,
    /// The state directory that it shares with the servers of the same name; `None` shares with none.
    pub state: Option<StateName>,
}

impl Backend {
    fn read(s: &mut Section<'_>) -> Option<Self> {
        let address = s.required("address");
        let token = secret::from_variable(s, "token_env");
        let weight = s.get_in("weight", 1, 1..=100);
        let state = s.optional("state");
        Some(Self { address: address?, token, weight, state })
    }
}

/// A name for a state directory that several CLI servers share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateName(String);

impl StateName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Text for StateName {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        String::parse_text(text).map(Self)
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    const WHAT: &'static str = "a name";
    const REMEDY: &'static str = "write one, in quotes";
}

/// How CLI servers are watched, `[pool.health]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// From one probe to the next.
    pub interval: Duration,
    /// How long a probe waits for its answer.
    pub timeout: Duration,
    /// Probes that fail in a row before a server counts as down.
    pub failures: u32,
    /// How long a server that was down is left alone before it is tried again.
    pub cooldown: Duration,
}

impl Health {
    fn read(s: &mut Section<'_>) -> Self {
        let millis = Duration::from_millis;
        let health = Self {
            interval: s.get_in("interval", millis(2_000), millis(100)..=millis(600_000)),
            timeout: s.get_in("timeout", millis(1_000), millis(10)..=millis(60_000)),
            failures: s.get_in("failures", 3, 1..=100),
            cooldown: s.get_in("cooldown", millis(5_000), millis(0)..=millis(3_600_000)),
        };
        s.relate(&["timeout", "interval"], health.timeout <= health.interval, || {
            let what = format!("is longer than pool.health.interval, {}", health.interval.text());
            Problem::new(what, "make it at most as long, so that probes do not overlap")
        });
        health
    }
}
