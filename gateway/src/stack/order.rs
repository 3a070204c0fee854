//! A client's prompts reach a session in the order in which they came, though some of them wait.

use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::Service;

use super::{
    Accepted, Call, Refusal,
    later::{self, Trying, later},
};

#[derive(Debug, Clone)]
pub(super) struct Order<S> {
    inner: S,
}

impl<S> Order<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Call> for Order<S>
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
        let session = later::session(&call).filter(|_| call.method.begins_turn());
        // There is a line only while an earlier prompt waits.
        let Some(line) = session.as_ref().and_then(|s| call.client.line(s)) else {
            return Either::Left(self.inner.call(call));
        };
        let mut inner = self.inner.clone();
        Either::Right(later(session, async move {
            let _turn = line.lock_owned().await;
            later::settle(inner.call(call)).await
        }))
    }
}
