//! How a session looks over HTTP.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::{HeaderMap, Uri, header};
use serde::Serialize;
use utoipa::ToSchema;

use jetway_config::Identity;

use super::{
    profile::{Config, Permissions, Profile},
    rfc3339,
};
use crate::directory::{Entry, Status, UnixMs};

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct View {
    pub(super) session_id: String,
    /// What people call it.
    pub(super) name: Option<String>,
    /// Whose it is.
    pub(super) user: String,
    /// What the caller may do in it: `viewer`, `member` or `owner`.
    pub(super) role: String,
    /// `pending`, `running`, `completed`, `failed` or `terminated`.
    pub(super) status: String,
    /// Why it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) members: Vec<MemberView>,
    /// It goes with its last user.
    pub(super) ephemeral: bool,
    pub(super) created_at: String,
    /// When it could first be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<String>,
    pub(super) updated_at: String,
    pub(super) last_used_at: String,
    /// When it was completed, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completed_at: Option<String>,
    /// When it was completed, failed or was terminated, whichever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<String>,
    /// From its start to its end, or until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration_seconds: Option<u64>,
    /// The turn that runs in it here, or is to begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) turn: Option<TurnView>,
    /// Who decides when a tool asks for permission.
    pub(super) permissions: Permissions,
    /// How it runs, without what is secret.
    pub(super) config: Config,
    /// The model that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// Its own workspace, on the CLI server's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workspace: Option<String>,
    /// What it takes, as far as that is known; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resources: Option<Resources>,
    /// What of its `config` is not as it says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    /// Where its events and prompts go over WebSocket.
    pub(super) connection_url: String,
}

/// A turn that has not ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TurnView {
    /// Its id, if it began over HTTP here.
    pub(super) id: Option<String>,
    /// `pending`: its prompt is held until the session can be used. `running`.
    pub(super) status: String,
    /// Whose it is, where that is known.
    pub(super) user: Option<String>,
}

/// What a session takes. Its processes serve all sessions of its user, so memory and processors are of these together.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Resources {
    /// Memory of its user's CLI process and all that it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_bytes: Option<u64>,
    /// Processor time of the same, since the process was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_seconds: Option<f64>,
    /// What is in its own workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workspace_bytes: Option<u64>,
}

/// Somebody with whom a session is shared.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemberView {
    pub(super) user: String,
    pub(super) role: String,
}

/// By what a proxy with TLS says that it has it, and this port itself. It is believed of anybody: all that comes of it is
/// how the caller's own links begin.
pub(super) const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Where a request says that it was sent to: what its links begin with.
#[derive(Debug, Clone)]
pub(super) struct Base(String);

impl Base {
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let authority = uri.authority().map(|a| a.as_str());
        let secure = headers.get(FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let scheme = if secure { "wss" } else { "ws" };
        Self(format!("{scheme}://{}", host.or(authority).unwrap_or("localhost")))
    }

    fn websocket(&self, id: &str) -> String {
        format!("{}/ws/sessions/{id}", self.0)
    }
}

impl View {
    pub(super) fn of(entry: &Entry, who: &Identity, base: &Base) -> Self {
        let member = |m: &crate::directory::Member| MemberView {
            user: m.user.to_string(),
            role: m.role.as_str().to_owned(),
        };
        let profile = Profile::of(entry);
        Self {
            session_id: entry.key.id.to_string(),
            name: entry.name.as_ref().map(|n| n.as_str().to_owned()),
            user: entry.key.owner.user.to_string(),
            role: entry.role_of(who).map_or("viewer", |r| r.as_str()).to_owned(),
            status: entry.status.as_str().to_owned(),
            reason: entry.reason.clone(),
            members: entry.members.iter().map(member).collect(),
            ephemeral: entry.ephemeral,
            created_at: time(entry.created),
            started_at: entry.started.map(time),
            completed_at: entry.ended.filter(|_| entry.status == Status::Completed).map(time),
            duration_seconds: entry
                .started
                .map(|from| entry.ended.unwrap_or_else(UnixMs::now).0.saturating_sub(from.0) / 1000),
            turn: None,
            workspace: None,
            resources: None,
            warnings: Vec::new(),
            updated_at: time(entry.updated),
            last_used_at: time(entry.last_used),
            ended_at: entry.ended.map(time),
            permissions: profile.permissions,
            config: profile.config,
            model: profile.given.get("model").and_then(|m| m.as_str()).map(str::to_owned),
            connection_url: base.websocket(entry.key.id.as_str()),
        }
    }
}

fn time(at: UnixMs) -> String {
    rfc3339(UNIX_EPOCH + Duration::from_millis(at.0))
}
