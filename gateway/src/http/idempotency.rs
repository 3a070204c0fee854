//! One turn per key: a request that comes again, because its reply was lost, gets the turn that it began.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use jetway_config::Identity;

use super::{
    fault::{Fault, Kind},
    hub::Handle,
};
use crate::directory::Key;

/// How long a key is remembered: as long as any client tries.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How many keys of a user are remembered; of more, the oldest are forgotten.
const PER_USER: usize = 256;
/// How many users' keys are remembered.
const USERS: usize = 10_000;
/// The longest key.
const KEY_BYTES: usize = 255;

/// What a request is known by: what it says, where.
pub(super) type Digest = [u8; 32];

/// A caller's name for a request, and what the request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    key: String,
    session: Option<Key>,
    digest: Digest,
}

struct Known {
    named: Named,
    at: Instant,
    handle: Arc<Handle>,
}

/// The keys that were used.
#[derive(Default)]
pub(super) struct Keys {
    by_user: Mutex<HashMap<Identity, Vec<Known>>>,
}

impl Named {
    /// A request's key, if it has one.
    pub(super) fn of(headers: &HeaderMap, session: Option<Key>, body: &[u8]) -> Result<Option<Self>, Fault> {
        let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
        let key = key.to_str().ok().filter(|k| !k.is_empty() && k.len() <= KEY_BYTES);
        let why = format!("`Idempotency-Key` must be 1 to {KEY_BYTES} printable characters");
        let key = key.ok_or_else(|| Fault::new(Kind::Malformed, why))?.to_owned();
        Ok(Some(Self { key, session, digest: Sha256::digest(body).into() }))
    }
}

impl Keys {
    /// The turn that a key stands for: an earlier one, or that which `begin` begins. Returns whether it is an
    /// earlier one.
    pub(super) fn once(
        &self,
        who: &Identity,
        named: Option<Named>,
        begin: impl FnOnce() -> Arc<Handle>,
    ) -> Result<(Arc<Handle>, bool), Fault> {
        let Some(named) = named else { return Ok((begin(), false)) };
        let now = Instant::now();
        let mut users = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS && !users.contains_key(who) {
            let stalest = users.iter().min_by_key(|(_, known)| known.last().map(|k| k.at));
            let stalest = stalest.map(|(who, _)| who.clone());
            stalest.and_then(|who| users.remove(&who));
        }
        let known = users.entry(who.clone()).or_default();
        // A turn that was refused never was: the same request may try again.
        known.retain(|k| now - k.at < REMEMBERED && !k.handle.never_was());
        if let Some(earlier) =
            known.iter().find(|k| k.named.key == named.key && k.named.session == named.session)
        {
            if earlier.named.digest != named.digest {
                let why = "This `Idempotency-Key` was used for another request";
                return Err(Fault::invalid("Idempotency-Key", why));
            }
            return Ok((earlier.handle.clone(), true));
        }
        if known.len() >= PER_USER {
            known.remove(0);
        }
        let handle = begin();
        known.push(Known { named, at: now, handle: handle.clone() });
        Ok((handle, false))
    }
}
