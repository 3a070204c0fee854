//! What each tenant may use and how much of it.

use crate::{
    error::Problem,
    ids::TenantId,
    net::{AddressRule, HttpUrl},
    reader::Section,
    secret::{self, SecretString},
    setting::choice,
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
    /// CLI processes at a time, in per-user mode.
    pub max_processes: usize,
    /// Requests admitted per second.
    pub requests_per_second: u32,
    /// Which methods may be called; see [`Config::full_surface`](crate::Config::full_surface).
    pub surface: Surface,
    /// The model provider of sessions that name none.
    pub provider: Option<Provider>,
    /// What callers may make a CLI do.
    pub policy: Policy,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            max_active_sessions: 50,
            max_concurrent_turns: 20,
            max_processes: 200,
            requests_per_second: 50,
            surface: Surface::Auto,
            provider: None,
            policy: Policy::default(),
        }
    }
}

impl Tenant {
    fn read(s: &mut Section<'_>, base: &Self) -> Self {
        Self {
            max_active_sessions: s.get_in("max_active_sessions", base.max_active_sessions, 1..=1_000_000),
            max_concurrent_turns: s.get_in("max_concurrent_turns", base.max_concurrent_turns, 1..=1_000_000),
            max_processes: s.get_in("max_processes", base.max_processes, 1..=1_000_000),
            requests_per_second: s.get_in("requests_per_second", base.requests_per_second, 1..=1_000_000),
            surface: s.get("surface", base.surface),
            // Inherited whole, so that one provider's key never goes to another's address.
            provider: s
                .optional_section("provider", Provider::read)
                .flatten()
                .or_else(|| base.provider.clone()),
            policy: s.section("policy", |s| Policy::read(s, &base.policy)),
        }
    }
}

/// All tenants' sections.
#[derive(Debug, Clone, Default)]
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

/// `[tenants.<name>.policy]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Where a caller's model provider and MCP servers may be, beyond public addresses.
    pub allow_addresses: Vec<AddressRule>,
}

impl Policy {
    /// Whether a rule allows a connection to `ip` and `port` for a URL that names `host`.
    pub fn allows(&self, host: &str, ip: IpAddr, port: u16) -> bool {
        self.allow_addresses.iter().any(|rule| rule.allows(host, ip, port))
    }

    fn read(s: &mut Section<'_>, base: &Self) -> Self {
        Self { allow_addresses: s.list_or("allow_addresses", base.allow_addresses.clone()) }
    }
}
