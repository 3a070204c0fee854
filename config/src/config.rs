//! The whole configuration.

use crate::{
    admin::Admin,
    auth::Auth,
    error::{ConfigErrors, Problem},
    http::Http,
    ids::TenantId,
    limits::Limits,
    listen::Listen,
    pool::{Pool, PoolMode},
    reader::{self, Section},
    setting::{Text, choice, quoted},
    sources::Sources,
    stores::{Directory, Locks, Redis},
    tenants::{Surface, Tenants},
};
use std::{path::PathBuf, time::Duration};
use toml::Table;

/// What the operator wrote, and the defaults of what they did not: valid as a whole.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where Jetway listens.
    pub listen: Listen,
    /// The HTTP port.
    pub http: Http,
    /// The operator's side.
    pub admin: Admin,
    /// Who may call.
    pub auth: Auth,
    /// What each tenant may use.
    pub tenants: Tenants,
    /// CLI servers.
    pub pool: Pool,
    /// Turn locks.
    pub locks: Locks,
    /// The session directory.
    pub directory: Directory,
    /// The Redis server.
    pub redis: Redis,
    /// Shutting down.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// Bounds.
    pub limits: Limits,
    pub(crate) effective: Table,
}

impl Config {
    /// Reads the defaults, over them the file of `sources`, over it their environment.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, at once. A bad value is never replaced by a default.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        Self::load_beside(sources, None)
    }

    /// As [`load`](Self::load), for a Jetway that runs with `running`: what may be used together is judged by the
    /// listeners and the mode that it has.
    pub(crate) fn load_beside(sources: &Sources, running: Option<&Self>) -> Result<Self, ConfigErrors> {
        let (config, effective) = reader::read(sources, |root| Self::read(root, running))?;
        Ok(Self { effective, ..config })
    }

    /// The effective configuration as TOML, defaults included and secrets redacted. Apart from what is
    /// redacted it can be loaded again, to the same effect.
    pub fn to_toml_redacted(&self) -> String {
        self.effective.to_string()
    }

    fn read(root: &mut Section<'_>, running: Option<&Self>) -> Self {
        let listen = root.section("listen", Listen::read);
        let http = root.section("http", Http::read);
        let admin = root.section("admin", Admin::read);
        let auth = root.section("auth", Auth::read);
        let tenants = root.section("tenants", Tenants::read);
        let pool = root.section("pool", Pool::read);
        let locks = root.section("locks", Locks::read);
        let directory = root.section("directory", |s| Directory::read(s, &pool.process.state_dir));
        let redis = root.section("redis", Redis::read);
        let drain = root.section("drain", Drain::read);
        let log = root.section("log", Log::read);
        let limits = root.section("limits", Limits::read);

        admin.check(root, &listen);
        auth.check(root, running.map_or(&listen, |running| &running.listen));
        root.relate(
            &["auth.anonymous", "auth"],
            running.is_none_or(|r| r.auth.anonymous || !auth.anonymous),
            || {
                // An emptied file says so too.
                let what =
                    "callers would need no credential any more, which must not happen to a running Jetway";
                Problem::new(what, "keep a key or [auth.jwt], or restart Jetway")
            },
        );
        tenants.check(root, &limits);
        check_surfaces(root, &auth, &tenants, running.map_or(pool.mode, |running| running.pool.mode));
        let effective = Table::new();
        Self {
            listen,
            http,
            admin,
            auth,
            tenants,
            pool,
            locks,
            directory,
            redis,
            drain,
            log,
            limits,
            effective,
        }
    }
}

/// On a fleet, the full surface is for a tenant that shares it with no other.
fn check_surfaces(root: &Section<'_>, auth: &Auth, tenants: &Tenants, mode: PoolMode) {
    if mode != PoolMode::Fleet {
        return;
    }
    let alone = |tenant: &TenantId| {
        auth.jwt.is_none() && !auth.anonymous && auth.keys.iter().all(|key| key.tenant == *tenant)
    };
    let remedy = "write \"auto\" or \"shared\", or use pool.mode = \"per-user\"";
    root.relate(&["tenants.default.surface", "pool.mode"], tenants.default.surface != Surface::Full, || {
        Problem::new("\"full\" would let any tenant into the sessions of the others on the fleet", remedy)
    });
    // What is inherited has been refused already, at its origin.
    let own = tenants.named.iter().filter(|_| tenants.default.surface != Surface::Full);
    for (name, _) in own.filter(|(name, tenant)| tenant.surface == Surface::Full && !alone(name)) {
        let key = reader::join(&reader::join("tenants", name.as_str()), "surface");
        root.relate(&[&key, "pool.mode", "auth"], false, || {
            Problem::new(
                "\"full\" is for a tenant that has the fleet for itself, and others may call too",
                remedy,
            )
        });
    }
}

/// Shutting down, `[drain]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long running turns are waited for.
    pub timeout: Duration,
    /// Whether other gateways take over: the SDK and HTTP ports may be theirs too, and connections that do nothing
    /// are left to them.
    pub hand_over: bool,
}

impl Drain {
    fn read(s: &mut Section<'_>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            timeout: s.get_in("timeout", seconds(30), seconds(0)..=seconds(3600)),
            hand_over: s.get("hand_over", false),
        }
    }
}

choice! {
    /// How log lines are written.
    LogFormat {
        /// For people on a terminal, else JSON.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// The least important lines that are logged.
    LogLevel {
        /// Something is lost.
        Error = "error",
        /// Something is wrong.
        Warn = "warn",
        /// Something changed.
        Info = "info",
        /// What led to it.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// Logging, `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// The least important lines.
    pub level: LogLevel,
    /// Where it is written down who was denied what, who used which key, and what operators did.
    pub audit: AuditSink,
}

/// Where audit lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To the end of a file, opened again on SIGHUP.
    File(PathBuf),
}

impl Text for AuditSink {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            // A word is more likely meant for one of those above.
            path if path.contains('/') && !path.contains('\0') => Ok(Self::File(path.into())),
            _ => Err(Self::problem(&quoted(text))),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::Stdout => "stdout".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    const WHAT: &'static str = "a place for audit lines";
    const REMEDY: &'static str =
        r#"write "off", "stdout" or a path with a slash in it, such as "/var/log/jetway/audit.jsonl""#;
}

impl Log {
    fn read(s: &mut Section<'_>) -> Self {
        Self {
            format: s.get("format", LogFormat::Auto),
            level: s.get("level", LogLevel::Info),
            audit: s.get("audit", AuditSink::Off),
        }
    }
}
