//! No session without an owner: every session id in a request is looked up before anything is forwarded.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use jetway_config::SessionId;
use jetway_wire::{Value, catalogue::Scope};

use super::{Accepted, Call, Refusal, Target};
use crate::sessions::registry::Session;

#[derive(Debug, Clone)]
pub(super) struct Own<S> {
    inner: S,
}

impl<S> Own<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Service<Call, Response = Accepted, Error = Refusal>> Service<Call> for Own<S> {
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<Ready<Result<Accepted, Refusal>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match target(&call) {
            Ok(target) => {
                call.target = target;
                Either::Right(self.inner.call(call))
            }
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}

/// The session that the call names first decides where it goes; all that it names must be the caller's.
///
/// On a CLI server of the user's own an unknown id goes home: whatever lives there is the user's, and the CLI
/// itself says what it does not know. On a shared one an unknown id is as another's: not found.
fn target(call: &Call) -> Result<Target, Refusal> {
    let Some(params) = call.request.params() else { return Ok(Target::Home) };
    let client = &call.client;
    let core = client.core();
    let mut target: Option<Arc<Session>> = None;
    let mut stranger = false;
    call.method.session_ids(params, |id| match find(core, call, id) {
        Some(session) => {
            let server = session.server();
            // The call goes to one server; on that one, the name of a session elsewhere may be another's.
            stranger |= target.get_or_insert(session).server() != server;
        }
        // The id is claimed when the server is known.
        None if call.method.scope == Scope::Create => {}
        None => stranger = true,
    });
    if stranger && !core.exclusive() {
        return Err(Refusal::SessionNotFound);
    }
    Ok(target.map_or(Target::Home, Target::Session))
}

fn find(core: &crate::app::Core, call: &Call, id: Value<'_>) -> Option<Arc<Session>> {
    let id: SessionId = id.as_str()?.parse().ok()?;
    core.registry.find(call.client.who(), &id)
}
