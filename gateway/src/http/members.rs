//! With whom a session is shared.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;

use jetway_config::UserId;

use super::{
    Face,
    body::Json,
    caller::Caller,
    fault::{Fault, Kind},
    lookup::{unchanged, word},
};
use crate::directory::{Entry, Member, Role, UnixMs};

/// What a user may do in a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sharing {
    /// `viewer`, `member` or `owner`.
    role: String,
}

/// Shares a session with a user.
#[utoipa::path(
    put, path = "/sessions/{ref}/members/{user}", operation_id = "put_member", tag = "people",
    request_body = Sharing,
    responses((status = 204, description = "It is shared")),
)]
pub(super) async fn put(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path((reference, user)): Path<(String, String)>,
    Json(sharing): Json<Sharing>,
) -> Result<StatusCode, Fault> {
    let entry = face.find_live(&who, &reference, Role::Owner).await?;
    let user = user_of(&user)?;
    if user == entry.key.owner.user {
        return Err(Fault::new(Kind::Conflict, "The owner stays the owner"));
    }
    let role: Role = word("role", &sharing.role, "`viewer`, `member` or `owner`")?;
    let members = [Member { user, role }];
    face.core.directory.set_members(&entry.key, &members, UnixMs::now()).await.map_err(unchanged)?;
    face.members_changed(&entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends that: by an owner, or by the member who leaves.
#[utoipa::path(
    delete, path = "/sessions/{ref}/members/{user}", operation_id = "remove_member", tag = "people",
    responses((status = 204, description = "The user is no member")),
)]
pub(super) async fn remove(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    Path((reference, user)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    let user = user_of(&user)?;
    let role = if user == who.user { Role::Viewer } else { Role::Owner };
    let entry = face.find_live(&who, &reference, role).await?;
    face.core.directory.remove_member(&entry.key, &user, UnixMs::now()).await.map_err(unchanged)?;
    face.members_changed(&entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn user_of(text: &str) -> Result<UserId, Fault> {
    text.parse().map_err(|e| Fault::invalid("user", format!("`user` {e}")))
}

impl Face {
    /// What is at hand of a session learns whom it is shared with.
    async fn members_changed(&self, entry: &Entry) -> Result<(), Fault> {
        let Some(session) = self.core.registry.find(&entry.key.owner, &entry.key.id) else { return Ok(()) };
        let fresh = self.core.directory.find(&entry.key.owner, &entry.key.id).await;
        if let Some(entry) = fresh.map_err(super::lookup::no_directory)? {
            session.shared_with(entry.members.into());
        }
        Ok(())
    }
}
