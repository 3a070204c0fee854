//! Making sessions.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use jetway_config::{Identity, SessionId};

use super::{
    Face,
    body::{Json, object, objects},
    caller::Caller,
    fault::{Fault, Kind},
    hub::Hub,
    lookup::{no_directory, unchanged},
    profile::{Config, Permissions, Profile},
    view::{Base, View},
};
use crate::directory::{Entry, Key, NOTE_BYTES, Name, Role, UnixMs};

/// A session to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Its id; one is made up if there is none.
    pub(super) session_id: Option<String>,
    /// What people call it.
    pub(super) name: Option<String>,
    /// The model; the provider's default if there is none.
    pub(super) model: Option<String>,
    /// Where the model is: as the CLI's own `provider`, in its spelling (`type`, `baseUrl`, `apiKey`, …).
    /// The tenant's configured one if there is none. Kept in memory only.
    #[schema(value_type = Option<Object>)]
    pub(super) provider: Option<Map<String, Value>>,
    /// Appended to the CLI's own system message.
    pub(super) system_message: Option<String>,
    /// Where it works, on the CLI server's host.
    pub(super) working_directory: Option<String>,
    #[serde(default, deserialize_with = "object")]
    pub(super) config: Config,
    /// It goes with its last user.
    #[serde(default)]
    pub(super) ephemeral: bool,
    /// With whom it is shared.
    #[serde(default, deserialize_with = "objects")]
    pub(super) members: Vec<MemberWish>,
    /// Who decides when a tool asks for permission.
    #[serde(default)]
    pub(super) permissions: Permissions,
}

/// A user and a role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberWish {
    pub(super) user: String,
    /// `viewer`, `member` or `owner`.
    #[serde(default = "member")]
    pub(super) role: String,
}

fn member() -> String {
    Role::Member.as_str().to_owned()
}

/// Makes a session.
#[utoipa::path(
    post, path = "/sessions", operation_id = "create_session", tag = "sessions",
    request_body = Create,
    responses((status = 201, description = "It is there", body = View, headers(("location" = String, description = "Its path")))),
)]
pub(super) async fn create(
    State(face): State<Arc<Face>>,
    Caller(who): Caller,
    uri: Uri,
    headers: HeaderMap,
    Json(wish): Json<Create>,
) -> Result<Response, Fault> {
    let (entry, _) = face.create(&who, wish).await?;
    let view = View::of(&entry, &who, &Base::of(&uri, &headers));
    let place = format!("/api/v1/sessions/{}", view.session_id);
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], JsonBody(view)).into_response())
}

impl Face {
    /// Makes a session. It is made even if its caller does not wait for that.
    pub(super) async fn create(
        self: &Arc<Self>,
        who: &Identity,
        wish: Create,
    ) -> Result<(Entry, Arc<Hub>), Fault> {
        let (face, who) = (self.clone(), who.clone());
        let made = self.core.tracker.spawn(async move { face.make(&who, wish).await });
        made.await.unwrap_or_else(|_| Err(Fault::new(Kind::Internal, "The session was not made")))
    }

    async fn make(self: &Arc<Self>, who: &Identity, wish: Create) -> Result<(Entry, Arc<Hub>), Fault> {
        let id = id_of(&wish)?;
        if self.core.directory.find(who, &id).await.map_err(no_directory)?.is_some() {
            return Err(Fault::new(Kind::Conflict, "There is a session of this id already")
                .with("session_id", json!(id)));
        }
        wish.config.check()?;
        let name = wish.name.as_deref().map(str::parse::<Name>).transpose();
        let name = name.map_err(|e| Fault::invalid("name", format!("`name` {e}")))?;
        let jetway = json!({ "name": name.as_ref().map(Name::as_str), "ephemeral": wish.ephemeral });
        let members: Vec<_> =
            wish.members.iter().map(|m| json!({ "user": m.user, "role": m.role })).collect();
        let profile = profile(wish);
        let note = profile.note();
        if note.len() > NOTE_BYTES {
            return Err(Fault::invalid("system_message", "The session's settings are too long to be kept"));
        }
        let hub = self.hubs.hold(self, who, &id, || profile.clone())?;
        let made = hub.make(self, &members, &jetway).await;
        if let Err(fault) = made {
            self.hubs.release(who, &id);
            return Err(fault);
        }
        let key = Key { owner: who.clone(), id: id.clone() };
        self.core.directory.set_note(&key, Some(&note), UnixMs::now()).await.map_err(unchanged)?;
        let entry = self.core.directory.find(who, &id).await.map_err(no_directory)?;
        entry.map(|entry| (entry, hub)).ok_or_else(Fault::no_session)
    }
}

fn id_of(wish: &Create) -> Result<SessionId, Fault> {
    match &wish.session_id {
        Some(id) => id.parse().map_err(|e| Fault::invalid("session_id", format!("`session_id` {e}"))),
        None => uuid::Uuid::new_v4().to_string().parse().map_err(|_| Fault::new(Kind::Internal, "No id")),
    }
}

/// What the CLI server is to be told, in its own words.
fn profile(wish: Create) -> Profile {
    let mut given = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            given.insert(name.to_owned(), value);
        }
    };
    put("model", wish.model.map(Value::from));
    put("provider", wish.provider.map(Value::from));
    put("systemMessage", wish.system_message.map(|text| json!({ "mode": "append", "content": text })));
    put("workingDirectory", wish.working_directory.map(Value::from));
    Profile { permissions: wish.permissions, config: wish.config, given }
}
