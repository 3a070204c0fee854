//! Whether the caller may call this at all, now: method policy, drain, limits.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use jetway_config::Live;
use jetway_wire::catalogue::Scope;

use super::{Accepted, Call, Limit, RETRY_AFTER, Refusal, SOONEST};
use crate::{admission::SMALL, policy};

#[derive(Debug, Clone)]
pub(super) struct Admit<S> {
    inner: S,
}

impl<S> Admit<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Service<Call, Response = Accepted, Error = Refusal>> Service<Call> for Admit<S> {
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<Ready<Result<Accepted, Refusal>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match admit(&mut call) {
            Ok(None) => Either::Right(self.inner.call(call)),
            Ok(Some(accepted)) => Either::Left(ready(Ok(accepted))),
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}

fn admit(call: &mut Call) -> Result<Option<Accepted>, Refusal> {
    let core = call.client.core().clone();
    if call.method.scope == Scope::Jetway {
        // `connect` was answered when the connection began, which leaves `runtime.shutdown`: an SDK that
        // believes it owns its server says good-bye with it.
        return Ok(Some(match call.method.name {
            "runtime.shutdown" => Accepted::Farewell("null"),
            _ => Accepted::Answered("{\"ok\":true,\"protocolVersion\":3}"),
        }));
    }
    let live = core.live();
    count(call, &live)?;
    let reach = core.reach(&live, call.client.who());
    if let Some(denied) = policy::permits(call.method, &reach).err() {
        return Err(Refusal::MethodNotAllowed { method: call.method.name.into(), denied: Some(denied) });
    }
    let attaches = matches!(call.method.scope, Scope::Create | Scope::Resume);
    if (attaches || call.method.begins_turn()) && core.drain.is_draining() {
        return Err(Refusal::Draining(core.config.drain.timeout));
    }
    if attaches && call.client.sessions() >= live.limits.max_sessions_per_connection {
        return Err(Refusal::Overloaded(Limit::SessionsPerConnection, RETRY_AFTER));
    }
    Ok(None)
}

/// Puts the request on the caller's account.
fn count(call: &mut Call, live: &Live) -> Result<(), Refusal> {
    let (usage, who) = (&call.client.core().usage, call.client.who());
    let limits = live.tenants.get(&who.tenant);
    if !call.method.settles() {
        usage.request(who, limits).map_err(|wait| Refusal::Overloaded(Limit::Rate, wait.max(SOONEST)))?;
    }
    if call.request.len() > SMALL {
        let held = usage.hold(who, call.request.len(), limits);
        let held = held.map_err(|_| Refusal::Overloaded(Limit::BytesInFlight, RETRY_AFTER))?;
        call.held = Some(Arc::new(held));
    }
    Ok(())
}
