//! Counts calls by outcome, times what Jetway adds to each, and has denials written down.

use std::{
    borrow::Cow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{Accepted, Call, Refusal};
use crate::{audit::Event, metrics, sessions::client::Client};

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
        let seen = Seen::of(&call);
        Metered { seen: Some(seen), inner: self.inner.call(call) }
    }
}

pin_project! {
    /// A call on its way to a CLI server.
    pub(super) struct Metered<F> {
        seen: Option<Seen>,
        #[pin]
        inner: F,
    }
}

impl<F: Future<Output = Result<Accepted, Refusal>>> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.inner.poll(cx));
        let seen = this.seen.take().expect("polled after it was ready");
        Poll::Ready(match outcome {
            Ok(Accepted::Later(later)) => Ok(Accepted::Later(later.inspect(|outcome| seen.note(outcome)))),
            outcome => {
                seen.note(&outcome);
                outcome
            }
        })
    }
}

/// What is known of a call when its outcome is.
struct Seen {
    since: Instant,
    /// For the audit log, if there is one.
    asked: Option<Box<Asked>>,
}

struct Asked {
    client: Arc<Client>,
    method: &'static str,
    session: Option<String>,
}

impl Seen {
    fn of(call: &Call) -> Self {
        let asked = call.client.core().audit.is_on().then(|| {
            let session = call.request.params().and_then(|p| p.get("sessionId"));
            let session = session.and_then(|id| id.as_str()).map(Cow::into_owned);
            Box::new(Asked { client: call.client.clone(), method: call.method.name, session })
        });
        Self { since: Instant::now(), asked }
    }

    fn note(self, outcome: &Result<Accepted, Refusal>) {
        let refusal = match outcome {
            Ok(_) => return metrics::accepted(self.since.elapsed()),
            Err(refusal) => refusal,
        };
        metrics::refused(refusal);
        if let Some(Asked { client, method, session }) = self.asked.as_deref() {
            let (caller, session) = (client.caller(), session.as_deref());
            client.core().audit.record(&Event::Refused { caller, method, session, refusal });
        }
    }
}
