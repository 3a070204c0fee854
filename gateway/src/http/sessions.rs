//! Finding, changing and ending sessions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json as JsonBody,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::{Fault, Kind},
    lookup::{no_directory, unchanged, word},
    profile::{Config, Permissions, Profile},
    query::Query,
    view::{Base, View},
};
use crate::{
    directory::{Entry, List, ListError, MAX_PAGE, Name, Order, Role, Sort, Status, UnixMs, What},
    sessions::bounds,
};

/// Which sessions, in which order.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    /// `pending`, `running`, `completed`, `failed`, `terminated` or `all`.
    #[param(pattern = "^(pending|running|completed|failed|terminated|all)$")]
    status: Option<String>,
    /// `started_at` or `updated_at`.
    #[param(pattern = "^(started_at|updated_at)$")]
    sort: Option<String>,
    /// `asc` or `desc`.
    #[param(pattern = "^(asc|desc)$")]
    order: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// Where the last page ended: its `next_cursor`.
    cursor: Option<String>,
}

/// A page of sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    sessions: Vec<View>,
    /// What `cursor` is to be for the next page; none at the end.
    next_cursor: Option<String>,
}

/// Own and shared sessions.
#[utoipa::path(
    get, path = "/sessions", operation_id = "list_sessions", tag = "sessions",
    params(Listing),
    responses((status = 200, description = "A page of them", body = Page)),
)]
pub(super) async fn list(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    uri: Uri,
    headers: HeaderMap,
    Query(listing): Query<Listing>,
) -> Result<JsonBody<Page>, Fault> {
    let list = listing.parse()?;
    let page = face.core.directory.list(&who, &list).await.map_err(|error| match error {
        ListError::BadCursor => Fault::invalid("cursor", "`cursor` is not one of such a list"),
        ListError::Store(error) => no_directory(error),
    })?;
    let base = Base::of(&uri, &headers);
    let sessions = page.entries.iter().map(|entry| face.glance(entry, &who, &base)).collect();
    Ok(JsonBody(Page { sessions, next_cursor: page.next }))
}

impl Listing {
    fn parse(self) -> Result<List, Fault> {
        let status = match self.status.as_deref() {
            None | Some("all") => None,
            Some(text) => Some(word::<Status>(
                "status",
                text,
                "`pending`, `running`, `completed`, `failed`, `terminated` or `all`",
            )?),
        };
        let sort = match self.sort.as_deref() {
            None | Some("started_at") => Sort::Started,
            Some("updated_at") => Sort::Updated,
            Some(_) => return Err(Fault::invalid("sort", "`sort` must be `started_at` or `updated_at`")),
        };
        let order = match self.order.as_deref() {
            Some("asc") => Order::Ascending,
            None | Some("desc") => Order::Descending,
            Some(_) => return Err(Fault::invalid("order", "`order` must be `asc` or `desc`")),
        };
        let limit = self.limit.unwrap_or(100);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Fault::invalid("limit", format!("`limit` must be between 1 and {MAX_PAGE}")));
        }
        Ok(List { status, sort, order, limit, cursor: self.cursor })
    }
}

/// One session.
#[utoipa::path(
    get, path = "/sessions/{ref}", operation_id = "get_session", tag = "sessions",
    responses((status = 200, description = "It, or its record", body = View)),
)]
pub(super) async fn detail(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<JsonBody<View>, Fault> {
    let entry = face.find(&who, &reference, Role::Viewer).await?;
    Ok(JsonBody(face.show(&entry, &who, &Base::of(&uri, &headers)).await))
}

/// What may be changed of a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// What people call it.
    name: Option<String>,
    /// Who decides when a tool asks for permission.
    permissions: Option<Permissions>,
    /// Where the model is; needed after a restart of Jetway if it was given before, since keys are not kept.
    #[schema(value_type = Option<Object>)]
    provider: Option<Map<String, Value>>,
    /// Likewise.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Object>>)]
    mcp_servers: Option<BTreeMap<String, Map<String, Value>>>,
    /// `completed`: it is done, and is removed if it is ephemeral or its `auto_delete_on_complete` says so.
    #[schema(pattern = "^completed$")]
    status: Option<String>,
}

/// Changes a session.
#[utoipa::path(
    patch, path = "/sessions/{ref}", operation_id = "change_session", tag = "sessions",
    request_body = Change,
    responses((status = 200, description = "As it is now", body = View)),
)]
pub(super) async fn change(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    Json(change): Json<Change>,
) -> Result<JsonBody<View>, Fault> {
    let entry = face.find_live(&who, &reference, Role::Owner).await?;
    if let Some(name) = &change.name {
        let name: Name = name.parse().map_err(|e| Fault::invalid("name", format!("`name` {e}")))?;
        face.core.directory.rename(&entry.key, Some(&name), UnixMs::now()).await.map_err(unchanged)?;
    }
    let done = change.status.as_deref();
    if done.is_some_and(|status| status != Status::Completed.as_str()) {
        return Err(Fault::invalid("status", "`status` can be set to `completed` only"));
    }
    face.reconfigure(&entry, change.permissions, change.provider, change.mcp_servers).await?;
    if done.is_some() {
        face.complete(&entry).await?;
    }
    let entry = face.find(&who, entry.key.id.as_str(), Role::Owner).await?;
    Ok(JsonBody(face.show(&entry, &who, &Base::of(&uri, &headers)).await))
}

/// How to end a session.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    /// Do not wait for the running turn.
    #[serde(default)]
    force: bool,
    /// Remove its own durable workspace as well; `true` unless said otherwise.
    #[serde(default = "yes")]
    delete_pvc: bool,
}

/// How a session is ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    /// Its turn is not waited for.
    pub(super) force: bool,
    /// Why, if nobody deletes it.
    pub(super) reason: Option<&'static str>,
    /// Its own durable workspace stays.
    pub(super) keep_files: bool,
}

fn yes() -> bool {
    true
}

/// Ends a session; its record stays.
#[utoipa::path(
    delete, path = "/sessions/{ref}", operation_id = "delete_session", tag = "sessions",
    params(Deletion),
    responses((status = 204, description = "It has ended")),
)]
pub(super) async fn delete(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path(reference): Path<String>,
    Query(deletion): Query<Deletion>,
) -> Result<StatusCode, Fault> {
    let entry = face.find_live(&who, &reference, Role::Owner).await?;
    let how = How { force: deletion.force, reason: None, keep_files: !deletion.delete_pvc };
    face.end_later(entry, how).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Face {
    /// Changes what a session's CLI server is told of it when it is attached next.
    async fn reconfigure(
        self: &Arc<Self>,
        entry: &Entry,
        permissions: Option<Permissions>,
        provider: Option<Map<String, Value>>,
        mcp_servers: Option<BTreeMap<String, Map<String, Value>>>,
    ) -> Result<(), Fault> {
        if permissions.is_none() && provider.is_none() && mcp_servers.is_none() {
            return Ok(());
        }
        if let Some(permissions) = permissions {
            self.may_have(&entry.key.owner, permissions)?;
        }
        let hub = self.hub(entry)?;
        let mut profile = hub.profile();
        profile.permissions = permissions.unwrap_or(profile.permissions);
        let told_again = provider.is_some() || mcp_servers.is_some();
        if let Some(provider) = provider {
            profile.given.insert("provider".into(), provider.into());
        }
        if let Some(servers) = mcp_servers {
            profile.config.mcp_servers = servers;
        }
        self.note(entry, &profile).await?;
        self.core.directory.tell(What::Updated, &entry.key);
        hub.set_profile(profile);
        if told_again { hub.attach_again(self).await } else { Ok(()) }
    }

    /// A session is done: it can be resumed, unless it is to be removed.
    async fn complete(self: &Arc<Self>, entry: &Entry) -> Result<(), Fault> {
        // What was noted of its use before does not come after.
        self.core.scribe.caught_up().await;
        let directory = &self.core.directory;
        directory.set_status(&entry.key, Status::Completed, None, UnixMs::now()).await.map_err(unchanged)?;
        if let Some(session) = self.core.registry.find(&entry.key.owner, &entry.key.id) {
            session.ended();
        }
        let profile = Profile::of(entry);
        if profile.config.goes_when_completed(entry) {
            let mut entry = entry.clone();
            (entry.status, entry.ended) = (Status::Completed, Some(UnixMs::now()));
            // From here on it ends, whatever becomes of this gateway.
            self.note(&entry, &profile).await?;
            return self.terminate(&entry, "completed").await;
        }
        self.hubs.release(&entry.key.owner, &entry.key.id);
        Ok(())
    }

    /// Ends a session, also if nobody waits for that.
    pub(super) async fn end_later(self: &Arc<Self>, entry: Entry, how: How) -> Result<(), Fault> {
        let face = self.clone();
        let done = self.core.tracker.spawn(async move { face.end(&entry, &how).await });
        done.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "The session was not removed")))
    }

    /// Ends a session: its turn first, unless it is forced, then all that its CLI server has of it, then its own
    /// files. A record stays.
    pub(super) async fn end(self: &Arc<Self>, entry: &Entry, how: &How) -> Result<(), Fault> {
        let (owner, id) = (&entry.key.owner, &entry.key.id);
        let hub = self.hub(entry)?;
        let session = self.core.registry.hold(owner, entry);
        if !how.force {
            hub.settle(self, &session).await;
        }
        session.remove_because(how.reason);
        let deleted = hub.call(self, "session.delete", json!({})).await;
        let deleted = deleted.inspect_err(|_| session.remove_because(None))?;
        self.hubs.release(owner, id);
        // What was never written to a file cannot be removed from one, and is gone all the same.
        if deleted["success"] == json!(false) {
            self.core.scribe.gone(&entry.key, how.reason);
        }
        self.core.scribe.caught_up().await;
        let durable = Config::of(entry).pvc_enabled == Some(true);
        if let Some(files) = self.files(entry).filter(|_| !(durable && how.keep_files)) {
            bounds::remove(&entry.key, files).await;
        }
        Ok(())
    }

    /// Ends a session for a reason of its own, which its record tells.
    pub(super) async fn terminate(
        self: &Arc<Self>,
        entry: &Entry,
        reason: &'static str,
    ) -> Result<(), Fault> {
        let how = How { force: true, reason: Some(reason), keep_files: true };
        let Err(fault) = self.end_later(entry.clone(), how).await else { return Ok(()) };
        warn!(session = %entry.key, reason, cause = %fault.detail, "ending a session");
        self.write_off(entry, reason).await;
        Ok(())
    }

    /// A session that cannot be ended where it lives is over all the same.
    pub(super) async fn write_off(&self, entry: &Entry, reason: &str) {
        let directory = &self.core.directory;
        let over = directory.set_status(&entry.key, Status::Terminated, Some(reason), UnixMs::now()).await;
        if let Err(error) = over {
            warn!(session = %entry.key, %error, "noting a session's end");
        }
        self.core.registry.forget(&entry.key);
        self.hubs.release(&entry.key.owner, &entry.key.id);
    }
}
