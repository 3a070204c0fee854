//! Layers that let a call through at once, refuse it, or have it wait for something.

use std::{
    marker::PhantomData,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use super::{
    Accepted, Call, Refusal,
    later::{self, Trying, later},
};

/// What such a layer decides.
pub(super) trait Gate {
    /// What a call waits for.
    type Wait: Send + 'static;
    /// What is held until the call has gone all its way.
    type Held: Send;

    /// Whether a call has to wait; nothing if it need not.
    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal>;

    /// Waits. What it takes along on its way, the call itself holds.
    fn wait(call: &mut Call, what: Self::Wait) -> impl Future<Output = Result<Self::Held, Refusal>> + Send;
}

/// The layer of a gate.
#[derive(Debug, Clone)]
pub(super) struct Gated<G, S> {
    gate: PhantomData<G>,
    inner: S,
}

impl<G, S> Gated<G, S> {
    pub(super) fn new(inner: S) -> Self {
        Self { gate: PhantomData, inner }
    }
}

impl<G, S> Service<Call> for Gated<G, S>
where
    G: Gate,
    S: Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send + 'static,
{
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<Either<Ready<Result<Accepted, Refusal>>, S::Future>, Trying>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let what = match G::look(&mut call) {
            Ok(Some(what)) => what,
            Ok(None) => return Either::Left(Either::Right(self.inner.call(call))),
            Err(refusal) => return Either::Left(Either::Left(ready(Err(refusal)))),
        };
        let mut inner = self.inner.clone();
        Either::Right(later(later::session(&call), async move {
            let _held = G::wait(&mut call, what).await?;
            later::settle(inner.call(call)).await
        }))
    }
}
