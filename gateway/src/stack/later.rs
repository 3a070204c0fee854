//! Calls that wait, without the rest of their connection waiting with them.
//!
//! A layer whose decision takes time returns [`later`]'s future. It is polled once where it stands, so that what
//! need not wait goes on at once and what waits has taken its place in line. What is not ready then comes back
//! as [`Accepted::Later`], and the face has the client carry it on
//! ([`Client::carry_on`](crate::sessions::client::Client::carry_on)) while it reads the next request.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;

use super::{Accepted, Call, Refusal, Target};
use crate::sessions::registry::Session;

type Outcome = Result<Accepted, Refusal>;

/// A call that waits. Dropping it gives the call up; no CLI server has seen it then.
pub(crate) struct Later {
    session: Option<Arc<Session>>,
    call: BoxFuture<'static, Outcome>,
}

impl Later {
    /// A call that nobody has polled yet.
    pub(crate) fn new(
        session: Option<Arc<Session>>,
        call: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        Self { session, call: Box::pin(call) }
    }

    /// The session that the call is about.
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// Does something with the outcome on its way out.
    pub(super) fn inspect(self, look: impl FnOnce(&Outcome) + Send + 'static) -> Self {
        let call = self.call;
        let call = async move {
            let outcome = settle(call).await;
            look(&outcome);
            outcome
        };
        Self { session: self.session, call: Box::pin(call) }
    }
}

impl Future for Later {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.call.as_mut().poll(cx)
    }
}

/// What becomes of a call in the end, however often it is put off.
///
/// Whoever holds something for a call (a place in line, a permit) settles it before letting go.
pub(crate) async fn settle(call: impl Future<Output = Outcome>) -> Outcome {
    let mut outcome = call.await;
    while let Ok(Accepted::Later(later)) = outcome {
        outcome = later.await;
    }
    outcome
}

/// Tries `going`, which `call` has gone into, and puts it off if it is not ready.
pub(super) fn later(
    session: Option<Arc<Session>>,
    going: impl Future<Output = Outcome> + Send + 'static,
) -> Trying {
    Trying(Some(Later::new(session, going)))
}

/// The session that a call is about, for [`later`].
pub(super) fn session(call: &Call) -> Option<Arc<Session>> {
    match &call.target {
        Target::Home => None,
        Target::Session(session) => Some(session.clone()),
    }
}

/// See [`later`].
#[must_use]
pub(super) struct Trying(Option<Later>);

impl Future for Trying {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut later = self.0.take().expect("polled after it was ready");
        Poll::Ready(match Pin::new(&mut later).poll(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Ok(Accepted::Later(later)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn forwarded(outcome: &Outcome) -> bool {
        matches!(outcome, Ok(Accepted::Forwarded))
    }

    #[tokio::test]
    async fn what_is_ready_is_not_put_off() {
        assert!(forwarded(&later(None, async { Ok(Accepted::Forwarded) }).await));
        let refused = later(None, async { Err(Refusal::SessionNotFound) }).await;
        assert!(matches!(refused, Err(Refusal::SessionNotFound)));
    }

    #[tokio::test]
    async fn what_is_put_off_twice_settles_once() {
        let (first, second) = (oneshot::channel(), oneshot::channel());
        let call = later(None, async move {
            let _ = first.1.await;
            later(None, async move {
                let _ = second.1.await;
                Ok(Accepted::Forwarded)
            })
            .await
        });
        let Ok(Accepted::Later(put_off)) = call.await else { panic!("nothing to wait for") };
        let (seen, looked) = oneshot::channel();
        let going = tokio::spawn(settle(put_off.inspect(move |o| {
            let _ = seen.send(forwarded(o));
        })));
        first.0.send(()).unwrap();
        second.0.send(()).unwrap();
        assert!(forwarded(&going.await.unwrap()));
        assert!(looked.await.unwrap());
    }
}
