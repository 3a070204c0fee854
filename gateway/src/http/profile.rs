//! What the HTTP face remembers of a session beside its events: what its CLI server must be told when the
//! session is attached, and who decides about permissions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use jetway_config::{SessionId, tenants};

use super::{body::whole, fault::Fault};
use crate::{
    directory::{Entry, Lifetime, Status, UnixMs},
    quantity,
};

/// Who decides when a tool asks for permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Permissions {
    /// Nobody: what needs a permission is not done.
    #[default]
    Deny,
    /// Reading inside the workspace is allowed, nothing else.
    ApproveSafe,
    /// A person, by `/sessions/{ref}/requests`.
    Ask,
    /// Everything is allowed.
    Approve,
}

/// How a session is to run, in the words of Kubernetes where there are such.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Processor cores, as `"2"` or `"500m"`: the session's CLI process has no more while the session is live there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^([1-9][0-9]{0,8}([.][0-9]{1,9})?|0[.][0-9]{0,8}[1-9])m?$")]
    pub(crate) cpu_limit: Option<String>,
    /// Memory, as `"4Gi"`, likewise; a process that needs more is stopped, and the session fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^([1-9][0-9]{0,8}([.][0-9]{1,9})?|0[.][0-9]{0,8}[1-9])([KMGT]i|[kMGT])?$")]
    pub(crate) memory_limit: Option<String>,
    /// The session ends so long after it was made, whatever it does; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    pub(crate) timeout_minutes: Option<u64>,
    /// A workspace of the session's own: one that stays after it (`true`, unless it is deleted with it), or goes with
    /// it (`false`). Without it the session works where all of its user's do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pvc_enabled: Option<bool>,
    /// How much that may hold, as `"10Gi"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^([1-9][0-9]{0,8}([.][0-9]{1,9})?|0[.][0-9]{0,8}[1-9])([KMGT]i|[kMGT])?$")]
    pub(crate) pvc_storage_size: Option<String>,
    /// Whether the session is removed when it is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auto_delete_on_complete: Option<bool>,
    /// The session is removed when it was not used for so many hours; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    pub(crate) auto_delete_after_hours: Option<u64>,
    /// MCP servers by name, as the CLI has them. Kept in memory only: their environments hold secrets.
    #[schema(value_type = std::collections::BTreeMap<String, Object>)]
    #[serde(skip_serializing)]
    pub(crate) mcp_servers: BTreeMap<String, Map<String, Value>>,
}

impl Permissions {
    /// As tenants' policies know it.
    pub(crate) fn in_policies(self) -> tenants::Permissions {
        match self {
            Permissions::Deny => tenants::Permissions::Deny,
            Permissions::ApproveSafe => tenants::Permissions::ApproveSafe,
            Permissions::Ask => tenants::Permissions::Ask,
            Permissions::Approve => tenants::Permissions::Approve,
        }
    }
}

impl Config {
    /// What the directory has kept of it.
    pub(crate) fn of(entry: &Entry) -> Self {
        /// Without what the CLI server is given: this is asked for at every request.
        #[derive(Default, Deserialize)]
        struct Kept {
            #[serde(default)]
            config: Config,
        }
        let kept = entry.note.as_deref().and_then(|note| serde_json::from_str::<Kept>(note).ok());
        kept.unwrap_or_default().config
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let quantity = |field: &str, value: &Option<String>, parses: fn(&str) -> bool, as_what: &str| {
            if value.as_deref().is_none_or(parses) {
                return Ok(());
            }
            let field = format!("config.{field}");
            Err(Fault::invalid(&field, format!("`{field}` must be {as_what}")))
        };
        let bytes = |text: &str| quantity::bytes(text).is_some();
        quantity("cpu_limit", &self.cpu_limit, |text| quantity::cores(text).is_some(), quantity::CORES)?;
        quantity("memory_limit", &self.memory_limit, bytes, quantity::SIZE)?;
        quantity("pvc_storage_size", &self.pvc_storage_size, bytes, quantity::SIZE)
    }

    /// When the session ends by itself.
    pub(crate) fn lifetime(&self, entry: &Entry) -> Lifetime {
        let span = |n: Option<u64>, ms: u64| n.filter(|n| *n > 0).map(|n| n.saturating_mul(ms));
        let after = |at: UnixMs, ms| UnixMs(at.0.saturating_add(ms));
        let completed = entry.status == Status::Completed && self.goes_when_completed(entry);
        let timeout = span(self.timeout_minutes, 60_000).map(|ms| after(entry.created, ms));
        let unused_for = match self.auto_delete_after_hours {
            None => Lifetime::of_new(entry.ephemeral).unused_for,
            hours => span(hours, 3_600_000),
        };
        Lifetime { ends: if completed { entry.ended.or(Some(entry.updated)) } else { timeout }, unused_for }
    }

    /// Whether the session is removed when it is completed.
    pub(crate) fn goes_when_completed(&self, entry: &Entry) -> bool {
        self.auto_delete_on_complete.unwrap_or(entry.ephemeral)
    }

    /// When that is, as things stand, and why.
    pub(crate) fn ends(&self, entry: &Entry) -> Option<(UnixMs, &'static str)> {
        let Lifetime { ends, unused_for } = self.lifetime(entry);
        let why = if entry.status == Status::Completed { "completed" } else { "timeout" };
        let unused = unused_for.map(|ms| (UnixMs(entry.last_used.0.saturating_add(ms)), "unused"));
        ends.map(|at| (at, why)).into_iter().chain(unused).min()
    }
}

/// It.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Profile {
    pub(crate) permissions: Permissions,
    pub(crate) config: Config,
    /// Params of `session.create`, as the caller gave them.
    pub(crate) given: Map<String, Value>,
}

/// The part of it that the directory keeps: nothing secret.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    permissions: Permissions,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    given: Map<String, Value>,
}

/// What is kept of a model provider: without its key and headers.
const OF_PROVIDER: [&str; 3] = ["type", "baseUrl", "wireApi"];

impl Profile {
    /// The params that attach the session.
    pub(crate) fn params(&self, id: Option<&SessionId>) -> Value {
        let mut params = json!({
            "clientName": "jetway-http",
            "streaming": true,
            "requestPermission": true,
            "requestUserInput": true,
            "enableFileChangeTracking": true,
            "envValueMode": "direct",
        });
        if let Value::Object(params) = &mut params {
            params.extend(self.given.clone());
            if !self.config.mcp_servers.is_empty() {
                params.insert("mcpServers".into(), json!(self.config.mcp_servers));
            }
            if let Some(id) = id {
                params.insert("sessionId".into(), json!(id));
            }
        }
        params
    }

    /// What the directory is to keep of it.
    pub(crate) fn note(&self) -> String {
        let mut given = self.given.clone();
        if let Some(Value::Object(provider)) = given.get_mut("provider") {
            provider.retain(|name, _| OF_PROVIDER.contains(&name.as_str()));
        }
        let kept = Kept { permissions: self.permissions, config: self.config.clone(), given };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// What the directory has kept of it.
    pub(crate) fn of(entry: &Entry) -> Self {
        let kept = entry.note.as_deref().and_then(|note| serde_json::from_str::<Kept>(note).ok());
        kept.map_or_else(Self::default, |Kept { permissions, config, given }| Self {
            permissions,
            config,
            given,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_kept() {
        let given = json!({ "model": "m", "provider": { "type": "openai", "baseUrl": "http://x", "apiKey": "CANARY",
            "headers": { "x": "CANARY" } } });
        let Value::Object(given) = given else { unreachable!() };
        let server = json!({ "command": "npx", "env": { "TOKEN": "CANARY" } });
        let config = Config {
            timeout_minutes: Some(60),
            mcp_servers: [("github".to_owned(), server.as_object().unwrap().clone())].into(),
            ..Config::default()
        };
        let note = Profile { permissions: Permissions::Ask, config, given }.note();
        assert!(!note.contains("CANARY"), "{note}");
        let kept: Kept = serde_json::from_str(&note).unwrap();
        assert_eq!((kept.permissions, kept.config.timeout_minutes), (Permissions::Ask, Some(60)));
        assert_eq!(kept.given["provider"]["baseUrl"], "http://x");
    }
}
