//! One turn per key: a request that comes again, because its reply was lost, gets the turn that it began.
//!
//! What a key stands for is in the directory before its prompt is sent, so that neither another gateway nor the next
//! one sends it again. Of the turns that this gateway has, more is known: they are in its memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use jetway_config::Identity;

use super::{
    fault::{Fault, Kind},
    hub::{self, Handle, Once},
    lookup::no_directory,
};
use crate::directory::{Directory, Key, MARKED_FOR, MAX_MARKS, Mark, UnixMs};

/// Of how many users this gateway knows the turns of their keys.
const USERS: usize = 10_000;
/// The longest key.
const KEY_BYTES: usize = 255;

/// A caller's name for a request, and what the request says: digests of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    name: String,
    digest: String,
}

/// What a key stands for.
pub(super) enum Stands {
    /// A turn that this request has begun.
    Begun(Arc<Handle>),
    /// One that an earlier request began here.
    Here(Arc<Handle>),
    /// One that was begun elsewhere, or before this gateway was started.
    Elsewhere(Mark),
}

struct Known {
    named: Named,
    at: Instant,
    handle: Arc<Handle>,
}

struct User {
    used: Instant,
    /// Held until it is known what a key stands for, so that of two requests at once one begins the turn.
    known: Arc<tokio::sync::Mutex<Vec<Known>>>,
}

/// The keys that were used here.
#[derive(Default)]
pub(super) struct Keys {
    by_user: Mutex<HashMap<Identity, User>>,
}

impl Named {
    /// A request's key, if it has one. What it stands for is another thing in another session.
    pub(super) fn of(headers: &HeaderMap, session: &Key, body: &[u8]) -> Result<Option<Self>, Fault> {
        let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
        let key = key.to_str().ok().filter(|k| !k.is_empty() && k.len() <= KEY_BYTES);
        let why = format!("`Idempotency-Key` must be 1 to {KEY_BYTES} printable characters");
        let key = key.ok_or_else(|| Fault::new(Kind::Malformed, why))?;
        // There is no blank in what a session is called.
        Ok(Some(Self { name: digest(format!("{session} {key}").as_bytes()), digest: digest(body) }))
    }

    fn check(&self, digest: &str) -> Result<(), Fault> {
        let why = "This `Idempotency-Key` was used for another request";
        if digest == self.digest { Ok(()) } else { Err(Fault::invalid("Idempotency-Key", why)) }
    }
}

fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::with_capacity(64), |text, byte| format!("{text}{byte:02x}"))
}

impl Keys {
    /// What a key stands for: an earlier turn, or that which `begin` begins.
    pub(super) async fn once(
        &self,
        directory: &Directory,
        who: &Identity,
        named: Named,
        begin: impl FnOnce(Once) -> Arc<Handle>,
    ) -> Result<Stands, Fault> {
        let known = self.of(who);
        let mut known = known.lock().await;
        // A turn that was refused never was: the same request may try again.
        known.retain(|k| k.at.elapsed() < MARKED_FOR && !k.handle.never_was());
        if let Some(earlier) = known.iter().find(|k| k.named.name == named.name) {
            named.check(&earlier.named.digest)?;
            return Ok(Stands::Here(earlier.handle.clone()));
        }
        let turn = hub::new_turn();
        let mark = Mark { digest: named.digest.clone(), turn: turn.clone(), message: None };
        let earlier = directory.mark(who, &named.name, &mark, UnixMs::now()).await.map_err(no_directory)?;
        if let Some(earlier) = earlier {
            named.check(&earlier.digest)?;
            return Ok(Stands::Elsewhere(earlier));
        }
        let handle = begin(Once { turn, who: who.clone(), name: named.name.clone() });
        if known.len() >= MAX_MARKS {
            known.remove(0);
        }
        known.push(Known { named, at: Instant::now(), handle: handle.clone() });
        Ok(Stands::Begun(handle))
    }

    fn of(&self, who: &Identity) -> Arc<tokio::sync::Mutex<Vec<Known>>> {
        let mut users = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS && !users.contains_key(who) {
            let stalest = users.iter().min_by_key(|(_, user)| user.used).map(|(who, _)| who.clone());
            stalest.and_then(|who| users.remove(&who));
        }
        let user =
            users.entry(who.clone()).or_insert_with(|| User { used: Instant::now(), known: Arc::default() });
        user.used = Instant::now();
        user.known.clone()
    }
}
