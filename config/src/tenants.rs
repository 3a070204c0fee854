//! What each tenant may use and how much of it.

use crate::{
    error::Problem,
    ids::TenantId,
    limits::{Limits, bytes},
    net::{AddressRule, HttpUrl},
    reader::{self, Section},
    secret::{self, SecretString},
    setting::{Text, choice, quoted},
    units::Share,
};
use std::{collections::BTreeMap, net::IpAddr};

choice! {
    /// Which methods of a CLI a tenant's users may call.
    Surface {
        /// All where each user has a CLI of their own, the shared ones on a fleet.
        Auto = "auto",
        /// All.
        Full = "full",
        /// Those that are safe beside other users.
        Shared = "shared",
    }
}

/// A tenant's section, `[tenants.<name>]`. What it does not say is as in `[tenants.default]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Sessions live in CLI servers at a time; the least recently used idle one makes room.
    pub max_active_sessions: usize,
    /// Turns running at a time.
    pub max_concurrent_turns: usize,
    /// Turns waiting for room at a time; 0 refuses what cannot begin at once.
    pub max_waiting_turns: usize,
    /// CLI processes at a time, in per-user mode.
    pub max_processes: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes of large requests at a time that wait for something, and as many again of those on their way in.
    pub max_bytes_in_flight: usize,
    /// Requests admitted per second. Answers, aborts and good-byes do not count.
    pub requests_per_second: u32,
    /// How much of the tenant's connections, requests, bytes and turns one user may have.
    pub user_share: Share,
    /// Which methods may be called; see [`Live::full_surface`](crate::Live::full_surface).
    pub surface: Surface,
    /// The model provider of sessions that name none.
    pub provider: Option<Provider>,
    /// Methods that may be called though the surface alone does not have them.
    pub allow_methods: Vec<MethodPattern>,
    /// Methods that may not be called though the surface has them; this wins over `allow_methods`.
    pub deny_methods: Vec<MethodPattern>,
    /// What callers may make a CLI do.
    pub policy: Policy,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            max_active_sessions: 50,
            max_concurrent_turns: 20,
            max_waiting_turns: 100,
            max_processes: 200,
            max_connections: 5000,
            max_bytes_in_flight: 512 << 20,
            requests_per_second: 50,
            user_share: Share::percent(80),
            surface: Surface::Auto,
            provider: None,
            allow_methods: Vec::new(),
            deny_methods: Vec::new(),
            policy: Policy::default(),
        }
    }
}

impl Tenant {
    fn read(s: &mut Section<'_>, base: &Self) -> Self {
        Self {
            max_active_sessions: s.get_in("max_active_sessions", base.max_active_sessions, 1..=1_000_000),
            max_concurrent_turns: s.get_in("max_concurrent_turns", base.max_concurrent_turns, 1..=1_000_000),
            max_waiting_turns: s.get_in("max_waiting_turns", base.max_waiting_turns, 0..=1_000_000),
            max_processes: s.get_in("max_processes", base.max_processes, 1..=1_000_000),
            max_connections: s.get_in("max_connections", base.max_connections, 1..=1_000_000),
            max_bytes_in_flight: bytes(s, "max_bytes_in_flight", base.max_bytes_in_flight, 1 << 20..=1 << 40),
            requests_per_second: s.get_in("requests_per_second", base.requests_per_second, 1..=1_000_000),
            user_share: s.get("user_share", base.user_share),
            surface: s.get("surface", base.surface),
            // Inherited whole, so that one provider's key never goes to another's address.
            provider: s
                .optional_section("provider", Provider::read)
                .flatten()
                .or_else(|| base.provider.clone()),
            allow_methods: s.list_or("allow_methods", base.allow_methods.clone()),
            deny_methods: s.list_or("deny_methods", base.deny_methods.clone()),
            policy: s.section("policy", |s| Policy::read(s, &base.policy)),
        }
    }
}

/// All tenants' sections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    /// `[tenants.default]`: for tenants without a section of their own.
    pub default: Tenant,
    /// The sections of tenants by name.
    pub named: BTreeMap<TenantId, Tenant>,
}

impl Tenants {
    /// What holds for the tenant `id`.
    pub fn get(&self, id: &TenantId) -> &Tenant {
        self.named.get(id).unwrap_or(&self.default)
    }

    /// A frame of the largest size must fit, or nobody could ever send one.
    pub(crate) fn check(&self, root: &Section<'_>, limits: &Limits) {
        let named = self.named.iter().map(|(name, tenant)| (name.as_str(), tenant));
        for (name, tenant) in named.chain([("default", &self.default)]) {
            let fits = tenant.user_share.of(tenant.max_bytes_in_flight) >= limits.max_frame;
            let key = |key| reader::join(&reader::join("tenants", name), key);
            let keys = [key("max_bytes_in_flight"), key("user_share"), "limits.max_frame".to_owned()];
            root.relate(&keys.each_ref().map(String::as_str), fits, || {
                let what = "one user's share of it is less than a request of limits.max_frame";
                Problem::new(what, "raise it, or lower limits.max_frame")
            });
        }
    }

    pub(crate) fn read(s: &mut Section<'_>) -> Self {
        let default = s.section("default", |s| Tenant::read(s, &Tenant::default()));
        let named = s.named_sections(|s| Tenant::read(s, &default)).into_iter().collect();
        Self { default, named }
    }
}

choice! {
    /// The kind of a model provider's API.
    ProviderType {
        /// OpenAI's or one compatible with it.
        OpenAi = "openai",
        /// Azure's.
        Azure = "azure",
        /// Anthropic's.
        Anthropic = "anthropic",
    }
}

choice! {
    /// Which of OpenAI's APIs a provider speaks.
    WireApi {
        /// Chat completions.
        Completions = "completions",
        /// Responses.
        Responses = "responses",
    }
}

/// A model provider, `[tenants.<name>.provider]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The kind of its API.
    pub kind: ProviderType,
    /// Where its API begins.
    pub base_url: HttpUrl,
    /// The model of sessions that name none.
    pub model: Option<String>,
    /// From `api_key_env` or `api_key_file`; local servers need none.
    pub api_key: Option<SecretString>,
    /// `None` leaves the choice to the CLI.
    pub wire_api: Option<WireApi>,
}

impl Provider {
    fn read(s: &mut Section<'_>) -> Option<Self> {
        let kind = s.get("type", ProviderType::OpenAi);
        let base_url: Option<HttpUrl> = s.required("base_url");
        let model = s.optional("model");
        let both = s.has("api_key_env") && s.has("api_key_file");
        let (by_env, by_file) =
            (secret::from_variable(s, "api_key_env"), secret::from_file(s, "api_key_file"));
        let wire_api = s.optional("wire_api");

        if both {
            s.fail("api_key_env", Problem::new("api_key_file is given as well", "remove one of them"));
        }
        s.relate(&["base_url"], !base_url.as_ref().is_some_and(HttpUrl::has_query), || {
            Problem::new("has a query, and the CLI appends paths to it", "end it before the `?`")
        });
        s.relate(&["wire_api", "type"], wire_api.is_none() || kind != ProviderType::Anthropic, || {
            Problem::new("is a choice that anthropic does not have", "remove it")
        });
        Some(Self { kind, base_url: base_url?, model, api_key: by_env.or(by_file), wire_api })
    }
}

/// Methods of a CLI, by name or by the beginning of their names. Whether there are such methods, whoever knows
/// the methods says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodPattern(String);

impl MethodPattern {
    /// A name, or a prefix and `*`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means `method`.
    pub fn matches(&self, method: &str) -> bool {
        // The dot stays with the prefix: `session.shell.*` is not `session.shellfish`.
        self.0.strip_suffix('*').map_or(method == self.0, |prefix| method.starts_with(prefix))
    }
}

impl Text for MethodPattern {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
        let name = text.strip_suffix(".*").unwrap_or(text);
        let valid = text.len() <= 128 && name.split('.').all(word);
        if valid { Ok(Self(text.to_owned())) } else { Err(Self::problem(&quoted(text))) }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    const WHAT: &'static str = "a method or a group of methods";
    const REMEDY: &'static str =
        r#"write a name such as "session.shell.exec", or a group such as "session.shell.*""#;
}

/// An absolute path on the CLI servers' hosts, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath(String);

impl HostPath {
    /// The path, without a slash at its end unless it is the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is this one or lies below it, as far as its spelling says: links are not followed.
    pub fn contains(&self, path: &str) -> bool {
        let plain =
            path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.contains('\0');
        let below = path.strip_prefix(self.0.trim_end_matches('/'));
        plain && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Text for HostPath {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let plain = text.split('/').all(|part| part != "." && part != "..");
        match text.starts_with('/') && plain && !text.contains(['\0', '\n']) {
            true if text.len() > 1 => Ok(Self(text.trim_end_matches('/').to_owned())),
            true => Ok(Self(text.to_owned())),
            false => Err(Self::problem(&quoted(text))),
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }

    const WHAT: &'static str = "an absolute path without `.` and `..`";
    const REMEDY: &'static str = r#"write one such as "/srv/acme""#;
}

/// `[tenants.<name>.policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where a caller's model provider and MCP servers may be, beyond public addresses.
    pub allow_addresses: Vec<AddressRule>,
    /// Directories on the CLI servers' hosts that callers may name beside other users; none by default.
    pub allow_paths: Vec<HostPath>,
    /// Whether models may have the CLI's tools that reach the host (shell, files, web) beside other users.
    pub host_tools: bool,
    /// Who may decide in sessions of the HTTP port when a tool asks for permission; everybody, unless it is said.
    pub permissions: Vec<Permissions>,
}

choice! {
    /// Who decides when a tool asks for permission.
    Permissions {
        /// Nobody: it is denied. This may always be.
        Deny = "deny",
        /// Jetway, which approves of reading inside the workspace.
        ApproveSafe = "approve-safe",
        /// A person.
        Ask = "ask",
        /// Nobody: it is approved.
        Approve = "approve",
    }
}

impl Permissions {
    /// All of them.
    pub const ALL: [Permissions; 4] = [Self::Deny, Self::ApproveSafe, Self::Ask, Self::Approve];
}

impl Default for Policy {
    fn default() -> Self {
        let permissions = Permissions::ALL.to_vec();
        Self { allow_addresses: Vec::new(), allow_paths: Vec::new(), host_tools: false, permissions }
    }
}

impl Policy {
    /// Whether sessions may have that.
    pub fn permits(&self, permissions: Permissions) -> bool {
        permissions == Permissions::Deny || self.permissions.contains(&permissions)
    }

    /// Whether a rule allows a connection to `ip` and `port` for a URL that names `host`.
    pub fn allows(&self, host: &str, ip: IpAddr, port: u16) -> bool {
        self.allow_addresses.iter().any(|rule| rule.allows(host, ip, port))
    }

    /// Whether callers may name `path`.
    pub fn allows_path(&self, path: &str) -> bool {
        self.allow_paths.iter().any(|root| root.contains(path))
    }

    fn read(s: &mut Section<'_>, base: &Self) -> Self {
        Self {
            allow_addresses: s.list_or("allow_addresses", base.allow_addresses.clone()),
            allow_paths: s.list_or("allow_paths", base.allow_paths.clone()),
            host_tools: s.get("host_tools", base.host_tools),
            permissions: s.list_or("permissions", base.permissions.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_methods() {
        let means = |pattern: &str, method| MethodPattern::parse_text(pattern).unwrap().matches(method);
        assert!(means("session.shell.exec", "session.shell.exec"));
        assert!(means("session.shell.*", "session.shell.exec") && means("session.*", "session.shell.exec"));
        assert!(!means("session.shell.*", "session.shell") && !means("session.shell.*", "session.shellfish"));
        assert!(!means("session.shell", "session.shell.exec"));
        for bad in ["", "*", ".*", "a*", "a.*.b", "a.", ".a", "a b", "a..b", "é", "a.**"] {
            assert!(MethodPattern::parse_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_lie_below_others_as_they_are_spelled() {
        let contains = |root: &str, path| HostPath::parse_text(root).unwrap().contains(path);
        assert!(contains("/srv/acme", "/srv/acme") && contains("/srv/acme/", "/srv/acme/a/b"));
        assert!(contains("/", "/etc") && contains("/srv", "/srv/./a"));
        for outside in
            ["/srv/acme2", "/srv", "srv/acme", "/srv/acme/../x", "/srv/acme/a/..", "", "~", "/srv/acme/\0"]
        {
            assert!(!contains("/srv/acme", outside), "{outside}");
        }
        for bad in ["", "srv", "/srv/../etc", "/srv/./a", "~/a"] {
            assert!(HostPath::parse_text(bad).is_err(), "{bad}");
        }
    }
}
