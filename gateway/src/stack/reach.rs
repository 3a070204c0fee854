//! How far a call may reach: the machines, paths, programs and tools that its params name.
//!
//! After the sessions' owner is known: what another's session is refused for is never its params.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tower::Service;

use jetway_config::Live;
use jetway_wire::{Value, catalogue::Scope};

use super::{Accepted, Call, Refusal, Target};
use crate::policy::{self, Denied, Names, System, provider};

#[derive(Debug, Clone)]
pub(super) struct Reach<S> {
    inner: S,
}

impl<S> Reach<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Call> for Reach<S>
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
        match judge(&call) {
            Ok(true) => {
                let_through(&call);
                impose(&mut call);
                Either::Left(Either::Right(self.inner.call(call)))
            }
            // A name must be looked up first.
            Ok(false) => {
                let mut inner = self.inner.clone();
                Either::Right(Box::pin(async move {
                    let live = Arc::clone(&call.client.core().live());
                    let reach = reach(&live, &call);
                    let checked = policy::check(call.method, params(&call), &reach, &System).await;
                    checked.map_err(|denied| refusal(&call, denied))?;
                    let_through(&call);
                    impose(&mut call);
                    inner.call(call).await
                }))
            }
            Err(denied) => Either::Left(Either::Left(ready(Err(refusal(&call, denied))))),
        }
    }
}

fn params(call: &Call) -> Value<'_> {
    call.request.params().unwrap_or(Value::new(b"{}"))
}

fn reach<'a>(live: &'a Live, call: &'a Call) -> policy::Reach<'a> {
    let session = match &call.target {
        Target::Home => None,
        Target::Session(session) => Some(&**session),
    };
    call.client.core().reach_in(live, call.client.who(), session)
}

/// Whether the call may go on as it is; not yet, if it names machines whose addresses are to be found.
fn judge(call: &Call) -> Result<bool, Denied> {
    let live = call.client.core().live();
    let reach = reach(&live, call);
    let known = policy::names(call.method, params(call), &reach)?.is_empty();
    if known {
        policy::judge(call.method, params(call), &reach, &Names::default())?;
    }
    Ok(known)
}

/// Opens a sandboxed server's way out to what the call names.
fn let_through(call: &Call) {
    let core = call.client.core();
    let whose = match &call.target {
        Target::Home => call.client.who(),
        Target::Session(session) => &session.key.owner,
    };
    if core.exclusive() {
        for target in policy::targets(call.method, params(call)) {
            core.exit.accept(whose, target);
        }
    }
}

/// Puts in what a call to a server with other users must say and does not, and the tenant's model provider
/// where a session is to have none.
fn impose(call: &mut Call) {
    let live = call.client.core().live();
    let imposed = policy::imposed(call.method, params(call), &reach(&live, call));
    for (name, json) in imposed {
        Arc::make_mut(&mut call.request).insert(name, json.as_bytes());
    }
    let who = call.client.who();
    // Whoever joins another's session leaves its model to the owner.
    let joins = matches!(&call.target, Target::Session(session) if !session.is_of(who));
    let provider = live.tenants.get(&who.tenant).provider.as_ref().filter(|_| !joins);
    if let (Some(provider), Scope::Create | Scope::Resume) = (provider, call.method.scope) {
        for (name, json) in provider::given(provider, params(call)) {
            Arc::make_mut(&mut call.request).insert(name, json.as_bytes());
        }
    }
}

fn refusal(call: &Call, denied: Denied) -> Refusal {
    Refusal::MethodNotAllowed { method: call.method.name.into(), denied: Some(denied) }
}
