//! Counts calls by outcome, and times what Jetway adds to each.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{Accepted, Call, Refusal};
use crate::{metrics, rescue};

#[derive(Debug, Clone)]
pub(super) struct Meter<S> {
    inner: S,
}

impl<S> Meter<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Service<Call, Response = Accepted, Error = Refusal>> Service<Call> for Meter<S> {
    type Response = Accepted;
    type Error = Refusal;
    type Future = Metered<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        Metered { since: Instant::now(), inner: self.inner.call(call) }
    }
}

pin_project! {
    /// A call on its way to a CLI server.
    pub(super) struct Metered<F> {
        since: Instant,
        #[pin]
        inner: F,
    }
}

impl<F: Future<Output = Result<Accepted, Refusal>>> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        Poll::Ready(match outcome {
            Ok(Accepted::Later(later)) => {
                let since = *this.since;
                Ok(Accepted::Later(later.inspect(move |outcome| note(since, outcome))))
            }
            outcome => {
                note(*this.since, &outcome);
                outcome
            }
        })
    }
}

fn note(since: Instant, outcome: &Result<Accepted, Refusal>) {
    match outcome {
        Ok(_) => metrics::accepted(since.elapsed()),
        Err(refusal) => metrics::refused(rescue::name(refusal)),
    }
}
