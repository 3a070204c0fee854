//! Making sessions.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use jetway_config::{Identity, SessionId};

use super::{
    Face,
    body::{Json, maybe_object, object, objects},
    caller::Caller,
    fault::{Fault, Kind},
    hub::Hub,
    lookup::{no_directory, unchanged},
    profile::{Config, Permissions, Profile},
    view::{Base, View},
};
use crate::{
    directory::{Entry, NOTE_BYTES, Name, Role, UnixMs},
    sessions::bounds,
};

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
    /// It runs in GitHub's cloud, which names it.
    #[serde(default, deserialize_with = "maybe_object")]
    pub(super) cloud: Option<Cloud>,
    /// Where it works, on the CLI server's host.
    pub(super) working_directory: Option<String>,
    #[serde(default, deserialize_with = "object")]
    pub(super) config: Config,
    /// It is removed when it is completed, or was not used for an hour, unless `config` says otherwise.
    #[serde(default)]
    pub(super) ephemeral: bool,
    /// With whom it is shared.
    #[serde(default, deserialize_with = "objects")]
    pub(super) members: Vec<MemberWish>,
    /// Who decides when a tool asks for permission.
    #[serde(default)]
    pub(super) permissions: Permissions,
}

/// A session in GitHub's cloud. Its first prompt is held until its agent has come.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cloud {
    /// What it is about.
    #[serde(default, deserialize_with = "maybe_object", skip_serializing_if = "Option::is_none")]
    repository: Option<Repository>,
}

/// A repository on GitHub.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Repository {
    #[schema(min_length = 1, max_length = 255)]
    owner: String,
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// The default one, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    branch: Option<String>,
}

/// The longest of a repository's names, in characters: as long as a reference's may be.
const REPOSITORY: usize = 255;

impl Cloud {
    fn check(&self) -> Result<(), Fault> {
        let Some(Repository { owner, name, branch }) = &self.repository else { return Ok(()) };
        let named = [("owner", Some(owner)), ("name", Some(name)), ("branch", branch.as_ref())];
        for (field, text) in named {
            if text.is_some_and(|text| text.is_empty() || text.chars().count() > REPOSITORY) {
                let field = format!("cloud.repository.{field}");
                let why = format!("`{field}` must be 1 to {REPOSITORY} characters long");
                return Err(Fault::invalid(&field, why));
            }
        }
        Ok(())
    }
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
    let view = face.show(&entry, &who, &Base::of(&uri, &headers)).await;
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
        wish.config.check()?;
        let id = id_of(&wish)?;
        if let Some(id) = &id
            && self.core.directory.find(who, id).await.map_err(no_directory)?.is_some()
        {
            return Err(Fault::new(Kind::Conflict, "There is a session of this id already")
                .with("session_id", json!(id)));
        }
        self.may_have(who, wish.permissions)?;
        let name = wish.name.as_deref().map(str::parse::<Name>).transpose();
        let name = name.map_err(|e| Fault::invalid("name", format!("`name` {e}")))?;
        let jetway = json!({ "name": name.as_ref().map(Name::as_str), "ephemeral": wish.ephemeral });
        let members: Vec<_> =
            wish.members.iter().map(|m| json!({ "user": m.user, "role": m.role })).collect();
        let mut profile = profile(wish);
        if let Some(id) = &id {
            self.give_files(who, id, &mut profile).await?;
        }
        let note = profile.note();
        if note.len() > NOTE_BYTES {
            return Err(Fault::invalid("system_message", "The session's settings are too long to be kept"));
        }
        let hub = match &id {
            Some(id) => self.hubs.hold(self, who, id, || profile.clone())?,
            None => self.hubs.nameless(self, who, profile),
        };
        let made = hub.make(self, &members, &jetway).await.inspect_err(|_| {
            id.iter().for_each(|id| self.hubs.release(who, id));
        });
        let id = made?;
        let hub = self.hubs.keep(who, &id, hub);
        // A session that was not claimed ahead is noted after the fact.
        self.core.scribe.caught_up().await;
        let entry = self.core.directory.find(who, &id).await.map_err(no_directory)?;
        let mut entry = entry.ok_or_else(Fault::no_session)?;
        entry.note = Some(note.into());
        self.note(&entry, &hub.profile()).await?;
        // Its limits hold from the beginning.
        self.core.registry.hold(who, &entry);
        bounds::bind(&self.core, who);
        Ok((entry, hub))
    }
}

impl Face {
    /// Has the directory keep what a session is to be.
    pub(super) async fn note(&self, entry: &Entry, profile: &Profile) -> Result<(), Fault> {
        let (note, lifetime) = (profile.note(), profile.config.lifetime(entry));
        self.core
            .directory
            .set_note(&entry.key, Some(&note), lifetime, UnixMs::now())
            .await
            .map_err(unchanged)
    }

    /// Whether the tenant's sessions may have these permissions.
    pub(super) fn may_have(&self, who: &Identity, permissions: Permissions) -> Result<(), Fault> {
        let permissions = permissions.in_policies();
        if self.core.live().tenants.get(&who.tenant).policy.permits(permissions) {
            return Ok(());
        }
        let why = format!("Your tenant's sessions may not have `permissions` of `{}`", permissions.as_str());
        Err(Fault::new(Kind::Forbidden, why).with("field", "permissions"))
    }
}

/// The new session's id; none in the cloud, which has its own.
fn id_of(wish: &Create) -> Result<Option<SessionId>, Fault> {
    let parsed = match (&wish.session_id, &wish.cloud) {
        (Some(_), Some(_)) => {
            let fault = Fault::new(Kind::Conflict, "The cloud names its sessions itself");
            return Err(fault.with("field", "session_id"));
        }
        (None, Some(cloud)) => return cloud.check().map(|()| None),
        (Some(id), None) => id.parse().map_err(|e| Fault::invalid("session_id", format!("`session_id` {e}"))),
        (None, None) => {
            uuid::Uuid::new_v4().to_string().parse().map_err(|_| Fault::new(Kind::Internal, "No id"))
        }
    };
    parsed.map(Some)
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
    put("cloud", wish.cloud.map(|cloud| json!(cloud)));
    Profile { permissions: wish.permissions, config: wish.config, given }
}
