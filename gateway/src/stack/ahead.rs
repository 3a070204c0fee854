//! What stands in the directory before a CLI server hears of a session, and what is read from it for an answer.

use std::sync::Arc;

use tracing::warn;

use jetway_config::SessionId;
use jetway_wire::{Value, catalogue::Scope};

use super::{Call, Limit, RETRY_AFTER, Refusal, Target, Wish, wish};
use crate::{
    directory::{ClaimError, Entry, Key, List, MAX_PAGE, MoveError, Resolution, Status, StoreError, UnixMs},
    sessions::{
        leg::Leg,
        pending::{Attach, Learn, Moved, Then},
        registry::Session,
        revival::Route,
        scribe::Claimed,
        tools::Offer,
    },
};

/// The most sessions that one `session.list` tells of.
const MAX_LISTED: usize = 10_000;

/// Claims the session that a call makes or resumes, and lets its events through: they come before the reply.
pub(super) async fn attach(call: &mut Call, leg: &Arc<Leg>) -> Result<Then, Refusal> {
    let given = call.request.params().map(|p| (p.get("sessionId"), p.get("cloud").is_some()));
    let id = match given {
        // A cloud session is named by the cloud.
        Some((None, true)) => {
            let wish = call.wish.take().map_or_else(Wish::default, |wish| *wish);
            return Ok(Then::Learn(Box::new(Learn { wish, request: call.request.clone() })));
        }
        Some((None, false)) if call.method.scope == Scope::Create => {
            let id = uuid::Uuid::new_v4().to_string();
            Arc::make_mut(&mut call.request).insert("sessionId", format!("\"{id}\"").as_bytes());
            id
        }
        Some((Some(id), _)) => id.as_str().unwrap_or_default().into_owned(),
        // The CLI itself says what is missing.
        _ => return Ok(Then::Nothing),
    };
    let Ok(id) = id.parse::<SessionId>() else {
        // Nothing can be claimed under such a name. On a server of the user's own the CLI says so.
        return if leg.exclusive() { Ok(Then::Nothing) } else { Err(Refusal::SessionNotFound) };
    };
    let (session, claimed, known) = match &call.target {
        Target::Session(session) => (session.clone(), None, true),
        Target::Home => claim(call, leg, &id).await?,
    };
    if let Some(busy) = call.wish.take().and_then(|wish| wish.busy)
        && session.is_of(call.client.who())
    {
        session.set_busy(busy);
    }
    let moved = follow(&session, leg, call).await?;
    let mut instead = None;
    if known && call.method.scope == Scope::Create {
        // To create it again would lose its history: what is meant is to go on with it. What has no message
        // yet cannot be resumed, and loses nothing.
        let params = call.request.params().unwrap_or(Value::new(b"{}"));
        instead = params.get("cloud").is_none().then(|| call.request.clone());
        let resumed = wish::without(params, &["cloud"]);
        Arc::make_mut(&mut call.request).rewrite("session.resume", &resumed);
    }
    let core = call.client.core();
    // Kept for bringing it back.
    let params = call.request.params().map_or(&b"{}"[..], Value::text);
    call.client.awake(&id);
    core.scribe.used(&session.key);
    let offer = Offer::of(&call.request, &session);
    let routed = leg.route(Route::new(session.clone(), params));
    let lease = call.lease.take();
    Ok(Then::Attach(Box::new(Attach { session, routed, claimed, moved, instead, offer, lease })))
}

/// Gives the caller the id, as the caller wishes the session to be. Returns whether it stood for one already.
async fn claim(
    call: &mut Call,
    leg: &Leg,
    id: &SessionId,
) -> Result<(Arc<Session>, Option<Claimed>, bool), Refusal> {
    let core = call.client.core();
    let wish = call.wish.clone().map_or_else(Wish::default, |wish| *wish);
    let key = Key { owner: call.client.who().clone(), id: id.clone() };
    let mut new = core.new_session(leg.place());
    new.ephemeral = wish.ephemeral;
    let now = UnixMs::now();
    let claim = core.directory.claim(&key, &new, now).await.map_err(|error| match error {
        // Whose it is instead is nobody's business.
        ClaimError::Taken => Refusal::SessionNotFound,
        ClaimError::Full => Refusal::Overloaded(Limit::SessionsPerUser, RETRY_AFTER),
        ClaimError::Store(error) => no_directory(&error),
    })?;
    let known = claim.entry.confirmed;
    // From here on the claim is given up if anything fails.
    let claimed = (!known).then(|| Claimed::new(key.clone(), call.client.clone()));
    let mut entry = claim.entry;
    if claim.fresh {
        core.directory.prepare(&key, wish.name.as_ref(), &wish.members, now).await.map_err(changed)?;
        if !wish.members.is_empty() {
            core.audit.shared(&key.owner, &key.id, &wish.members);
            entry.members = wish.members;
            entry.members.retain(|m| m.user != key.owner.user);
        }
    }
    Ok((core.registry.hold(call.client.who(), &entry), claimed, known))
}

/// A session that cannot be had where it lived is to live on the leg's server: noted ahead, because there its
/// name may be another's.
async fn follow(session: &Session, leg: &Leg, call: &Call) -> Result<Option<Moved>, Refusal> {
    if leg.exclusive() || session.server() == *leg.server().id() {
        return Ok(None);
    }
    let (from, epoch) = session.place();
    let directory = &call.client.core().directory;
    match directory.move_to(&session.key, epoch, &leg.place(), UnixMs::now()).await {
        Ok(epoch) => Ok(Some(Moved { from, epoch })),
        Err(MoveError::Store(error)) => Err(no_directory(&error)),
        // Somebody else moved it, or it is gone: what is at hand of it is old.
        Err(MoveError::Stale { .. } | MoveError::NotFound | MoveError::Taken) => {
            Err(Refusal::SessionNotFound)
        }
    }
}

/// The caller's sessions, for the answer to `session.list`.
pub(super) async fn list(call: &Call) -> Result<Then, Refusal> {
    let params = call.request.params();
    let filter = params.and_then(|p| p.get("filter"));
    let (core, who) = (call.client.core(), call.client.who());
    let mut entries: Vec<Entry> = Vec::new();
    let mut list = List { limit: MAX_PAGE, ..List::default() };
    while entries.len() < MAX_LISTED {
        let page = core.directory.list(who, &list).await.map_err(|error| {
            warn!(%error, "listing sessions");
            Refusal::Overloaded(Limit::Directory, RETRY_AFTER)
        })?;
        entries.extend(page.entries.into_iter().filter(|e| e.confirmed && e.status != Status::Terminated));
        match page.next {
            Some(next) => list.cursor = Some(next),
            None => break,
        }
    }
    // What a filter asks for only the CLI server knows, of the sessions that it has.
    let filtered = filter.is_some_and(|f| f.members().next().is_some());
    Ok(Then::List { entries, filtered })
}

/// The answer to `session.getLastId`, where the CLI server would tell of others' sessions.
pub(super) async fn last_id(call: &Call) -> Result<Option<String>, Refusal> {
    let (core, who) = (call.client.core(), call.client.who());
    if core.exclusive() {
        return Ok(None);
    }
    let latest = core.directory.resolve(who, "latest").await.map_err(|error| no_directory(&error))?;
    Ok(Some(match latest {
        Resolution::One(entry) => serde_json::json!({ "sessionId": entry.key.id }).to_string(),
        _ => "{}".into(),
    }))
}

fn changed(error: crate::directory::ChangeError) -> Refusal {
    warn!(%error, "a new session in the directory");
    Refusal::Overloaded(Limit::Directory, RETRY_AFTER)
}

fn no_directory(error: &StoreError) -> Refusal {
    warn!(%error, "the session directory");
    Refusal::Overloaded(Limit::Directory, RETRY_AFTER)
}
