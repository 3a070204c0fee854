//! No session without an owner: every session id in a request is looked up before anything is forwarded.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tower::Service;
use tracing::warn;

use jetway_config::{SessionId, stores::DirectoryStore};
use jetway_wire::{Value, catalogue::Scope, envelope::code};

use super::{Accepted, Call, Limit, RETRY_AFTER, Refusal, Target, wish};
use crate::{app::Core, policy, sessions::registry::Session};

/// How many sessions one call may name: the longest list that anybody keeps on a screen.
const MAX_NAMED: usize = 1000;

#[derive(Debug, Clone)]
pub(super) struct Own<S> {
    inner: S,
}

impl<S> Own<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Call> for Own<S>
where
    S: Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send + 'static,
{
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<
        Either<Ready<Result<Accepted, Refusal>>, S::Future>,
        BoxFuture<'static, Result<Accepted, Refusal>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let unknown = match prepare(&mut call) {
            Ok(unknown) => unknown,
            Err(refusal) => return Either::Left(Either::Left(ready(Err(refusal)))),
        };
        if unknown.is_empty() {
            return match own(&mut call) {
                Ok(()) => Either::Left(Either::Right(self.inner.call(call))),
                Err(refusal) => Either::Left(Either::Left(ready(Err(refusal)))),
            };
        }
        let mut inner = self.inner.clone();
        Either::Right(Box::pin(async move {
            for id in unknown {
                look_up(&call, &id).await?;
            }
            own(&mut call)?;
            inner.call(call).await
        }))
    }
}

/// Takes out what is said to Jetway; returns the ids that the directory has to be asked for.
fn prepare(call: &mut Call) -> Result<Vec<SessionId>, Refusal> {
    if matches!(call.method.scope, Scope::Create | Scope::Resume) && call.wish.is_none() {
        call.wish = wish::take(call.method.name, Arc::make_mut(&mut call.request))?.map(Box::new);
    }
    let Some(params) = call.request.params() else { return Ok(Vec::new()) };
    let core = call.client.core();
    let several = core.config.directory.store == DirectoryStore::Redis;
    let (mut unknown, mut named) = (Vec::new(), 0);
    call.method.session_ids(params, |value| {
        named += 1;
        if let Some(id) = parse(value)
            && named <= MAX_NAMED
            && core.registry.find(call.client.who(), &id).is_none_or(|s| several && s.is_old_news())
        {
            unknown.push(id);
        }
    });
    if named > MAX_NAMED {
        let why = format!("at most {MAX_NAMED} sessions can be named in one call");
        return Err(Refusal::Invalid(code::INVALID_PARAMS, why));
    }
    Ok(unknown)
}

/// Has at hand what the directory knows under that name for the caller. What is another's and what never
/// was are one answer to one question.
async fn look_up(call: &Call, id: &SessionId) -> Result<(), Refusal> {
    let (core, who) = (call.client.core(), call.client.who());
    match core.directory.find(who, id).await {
        Ok(Some(entry)) => {
            core.registry.hold(who, &entry);
            Ok(())
        }
        Ok(None) => {
            core.registry.unlearn(who, id);
            Ok(())
        }
        Err(error) => {
            warn!(%error, "the session directory");
            Err(Refusal::Overloaded(Limit::Directory, RETRY_AFTER))
        }
    }
}

/// Decides where the call goes: to the server of the session that it names first. All that it names must be
/// the caller's, or shared with the caller, and there.
///
/// On a CLI server of the user's own an unknown id goes home: whatever lives there is the user's, and the CLI
/// itself says what it does not know. On a shared one an unknown id is as another's: not found.
fn own(call: &mut Call) -> Result<(), Refusal> {
    let Some(params) = call.request.params() else { return Ok(()) };
    let core = call.client.core();
    let mut target: Option<Arc<Session>> = None;
    let (mut stranger, mut elsewhere) = (false, false);
    call.method.session_ids(params, |value| match find(core, call, value) {
        Some(session) => {
            let server = session.server();
            // The call goes to one server; on that one, the name of a session elsewhere may be another's.
            elsewhere |= target.get_or_insert(session).server() != server;
        }
        // The id is claimed when the server is known.
        None if call.method.scope == Scope::Create => {}
        None => stranger = true,
    });
    let shared = target.as_ref().is_some_and(|session| !session.is_of(call.client.who()));
    if elsewhere || (stranger && (shared || !core.exclusive())) {
        return Err(Refusal::SessionNotFound);
    }
    if let Some(session) = &target {
        allowed_in(call, session)?;
        call.target = Target::Session(session.clone());
    }
    Ok(())
}

/// Whether the caller's role in the session allows the call.
fn allowed_in(call: &Call, session: &Session) -> Result<(), Refusal> {
    let who = call.client.who();
    let refused =
        |denied| Refusal::MethodNotAllowed { method: call.method.name.into(), denied: Some(denied) };
    if session.is_shared() {
        policy::keeps_to_turns(call.method).map_err(refused)?;
    }
    if session.is_of(who) {
        return Ok(());
    }
    let role = session.role_of(who).ok_or(Refusal::SessionNotFound)?;
    let live = call.client.core().live();
    let reach = call.client.core().reach_in(&live, who, Some(session));
    // On another's CLI server a member has no more than on a shared one.
    let denied = policy::permits(call.method, &reach).and_then(|()| policy::plays(call.method, role, &reach));
    denied.map_err(refused)
}

fn find(core: &Core, call: &Call, id: Value<'_>) -> Option<Arc<Session>> {
    core.registry.find(call.client.who(), &parse(id)?)
}

fn parse(id: Value<'_>) -> Option<SessionId> {
    id.as_str()?.parse().ok()
}
