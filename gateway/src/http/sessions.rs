//! Finding, changing and ending sessions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json as JsonBody,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::{Fault, Kind},
    lookup::{no_directory, unchanged, word},
    profile::{Permissions, Profile},
    query::Query,
    view::{Base, View},
};
use crate::directory::{Entry, List, ListError, MAX_PAGE, Name, Order, Role, Sort, Status, UnixMs, What};

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
    let sessions = page.entries.iter().map(|entry| View::of(entry, &who, &base)).collect();
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
    Ok(JsonBody(View::of(&entry, &who, &Base::of(&uri, &headers))))
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
    /// `completed`: it is done, and is removed if its `auto_delete_on_complete` says so.
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
    Ok(JsonBody(View::of(&entry, &who, &Base::of(&uri, &headers))))
}

/// How to end a session.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    /// Do not wait for the running turn.
    #[serde(default)]
    force: bool,
    /// Remove its files as well; `true` unless said otherwise.
    #[serde(default = "yes")]
    #[allow(
        dead_code,
        reason = "the CLI removes a session's state with the session; its workspace follows later"
    )]
    delete_pvc: bool,
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
    face.end_later(entry, deletion.force).await?;
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
        let note = profile.note();
        self.core.directory.set_note(&entry.key, Some(&note), UnixMs::now()).await.map_err(unchanged)?;
        self.core.directory.tell(What::Updated, &entry.key);
        hub.set_profile(profile);
        if told_again { hub.attach_again(self).await } else { Ok(()) }
    }

    /// A session is done: it can be resumed, unless it is to be removed.
    async fn complete(self: &Arc<Self>, entry: &Entry) -> Result<(), Fault> {
        if Profile::of(entry).config.auto_delete_on_complete == Some(true) {
            return self.terminate(entry, "completed").await;
        }
        let directory = &self.core.directory;
        directory.set_status(&entry.key, Status::Completed, None, UnixMs::now()).await.map_err(unchanged)?;
        self.hubs.release(&entry.key.owner, &entry.key.id);
        Ok(())
    }

    /// Ends a session, also if nobody waits for that.
    pub(super) async fn end_later(self: &Arc<Self>, entry: Entry, force: bool) -> Result<(), Fault> {
        let face = self.clone();
        let done = self.core.tracker.spawn(async move { face.end(&entry, force).await });
        done.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "The session was not removed")))
    }

    /// Ends a session: its turn first, unless it is forced, then all that its CLI server has of it. A record stays.
    pub(super) async fn end(
        self: &Arc<Self>,
        entry: &crate::directory::Entry,
        force: bool,
    ) -> Result<(), Fault> {
        let hub = self.hub(entry)?;
        hub.attach(self).await?;
        if !force {
            hub.settle(self).await;
        }
        let deleted = hub.call(self, "session.delete", json!({})).await?;
        self.hubs.release(&entry.key.owner, &entry.key.id);
        // What was never written to a file cannot be removed from one, and is gone all the same.
        if deleted["success"] == json!(false) {
            self.core.scribe.gone(&entry.key);
        }
        Ok(())
    }

    /// Ends a session for a reason of its own, which its record tells.
    pub(super) async fn terminate(self: &Arc<Self>, entry: &Entry, why: &str) -> Result<(), Fault> {
        let (face, entry_) = (self.clone(), entry.clone());
        let reason = why.to_owned();
        let ended = self.core.tracker.spawn(async move {
            let now = UnixMs::now();
            let directory = &face.core.directory;
            directory
                .set_status(&entry_.key, Status::Terminated, Some(&reason), now)
                .await
                .map_err(unchanged)?;
            if let Some(hub) = face.hubs.held(&entry_.key.owner, &entry_.key.id) {
                // What is left of it on its CLI server goes as well, if it can.
                let _ = hub.call(&face, "session.delete", json!({})).await;
                face.hubs.release(&entry_.key.owner, &entry_.key.id);
            }
            Ok(())
        });
        ended.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "The session was not ended")))
    }
}
