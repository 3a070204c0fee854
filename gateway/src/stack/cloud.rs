//! Prompts to a cloud session are held until its agent has come. See [`crate::sessions::cloud`].

use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::Service;

use super::{
    Accepted, Call, Refusal,
    later::{self, Trying, later},
};
use crate::sessions::cloud;

#[derive(Debug, Clone)]
pub(super) struct Cloud<S> {
    inner: S,
}

impl<S> Cloud<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Call> for Cloud<S>
where
    S: Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send + 'static,
{
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<S::Future, Trying>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let session = later::session(&call).filter(|s| call.method.begins_turn() && s.awaits_agent());
        let Some(session) = session else { return Either::Left(self.inner.call(call)) };
        let mut inner = self.inner.clone();
        cloud::tell_held(&call.client, &session);
        Either::Right(later(Some(session.clone()), async move {
            cloud::agent(&call.client, &session).await?;
            later::settle(inner.call(call)).await
        }))
    }
}
