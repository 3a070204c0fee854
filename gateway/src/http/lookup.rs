//! From what a person or a program calls a session to the session.

use std::{str::FromStr, sync::Arc};

use serde_json::{Value, json};
use tracing::warn;

use jetway_config::Identity;

use super::{
    Face,
    fault::{Fault, Kind},
    hub::Hub,
    profile::{Config, Profile},
};
use crate::{
    directory::{ChangeError, Entry, Resolution, Role, Status, StoreError, UnixMs},
    stack::RETRY_AFTER,
};

impl Face {
    /// The session that `reference` means to `who`, who may do in it what `role` may.
    pub(super) async fn find(&self, who: &Identity, reference: &str, role: Role) -> Result<Entry, Fault> {
        let entry = match self.core.directory.resolve(who, reference).await.map_err(no_directory)? {
            Resolution::One(entry) => *entry,
            Resolution::None => return Err(Fault::no_session()),
            Resolution::Ambiguous(found) => return Err(ambiguous(&found)),
        };
        let has = entry.role_of(who).ok_or_else(Fault::no_session)?;
        if has < role {
            let why = format!(
                "This is for those who are `{}` of the session; you are `{}`",
                role.as_str(),
                has.as_str()
            );
            return Err(Fault::new(Kind::Forbidden, why));
        }
        Ok(entry)
    }

    /// The same, for a session that has not ended.
    pub(super) async fn find_live(
        self: &Arc<Self>,
        who: &Identity,
        reference: &str,
        role: Role,
    ) -> Result<Entry, Fault> {
        let entry = self.find(who, reference, role).await?;
        let ended = |reason: Option<&str>| {
            let fault = Fault::new(Kind::Ended, "The session was terminated; its record is all that is left");
            fault.with("reason", reason.map_or(Value::Null, Value::from))
        };
        if entry.status == Status::Terminated {
            return Err(ended(entry.reason.as_deref()));
        }
        if let Some((at, why)) = Config::of(&entry).ends(&entry)
            && at <= UnixMs::now()
        {
            self.terminate(&entry, why).await?;
            return Err(ended(Some(why)));
        }
        Ok(entry)
    }

    /// The hold on a session that was found; with what is kept of it, if nobody held it.
    pub(super) fn hub(self: &Arc<Self>, entry: &Entry) -> Result<Arc<Hub>, Fault> {
        self.hubs.hold(self, &entry.key.owner, &entry.key.id, || Profile::of(entry))
    }
}

fn ambiguous(found: &[Entry]) -> Fault {
    let candidates: Vec<_> = found
        .iter()
        .map(|e| json!({ "session_id": e.key.id, "name": e.name.as_ref().map(|n| n.as_str()), "user": e.key.owner.user }))
        .collect();
    Fault::new(Kind::Ambiguous, "Use one of the ids of `candidates`").with("candidates", candidates)
}

/// The directory does not answer.
pub(super) fn no_directory(error: StoreError) -> Fault {
    warn!(%error, "the session directory");
    Fault::new(Kind::Unavailable, "The session directory does not answer").retry_after(RETRY_AFTER)
}

/// The directory did not change what it was to change.
pub(super) fn unchanged(error: ChangeError) -> Fault {
    match error {
        ChangeError::NotFound => Fault::no_session(),
        ChangeError::Full => Fault::invalid("members", error.to_string()),
        ChangeError::Store(error) => no_directory(error),
    }
}

/// A value of a query or a path, of a type that says what is wrong.
pub(super) fn word<T: FromStr>(field: &str, text: &str, expected: &str) -> Result<T, Fault> {
    text.parse().map_err(|_| Fault::invalid(field, format!("`{field}` must be {expected}")))
}
