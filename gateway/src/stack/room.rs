//! Whether there is room for one more turn; if not, the turn waits for it, in a fair line.
//!
//! A prompt for a session whose turn runs already needs no room of its own: the CLI works it off within that
//! turn's time, and to have it wait for the turn that it is to steer would be to wait for nothing. A tool of a
//! turn that begins a turn elsewhere does need room: where there is none that lasts, both end by the bound on the
//! wait.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use super::{
    Accepted, Call, Limit, Refusal, SOONEST,
    later::{self, Trying, later},
};
use crate::admission::{Bounds, Entry, Full, Room, Why};

/// The longest: by then everything may have changed.
const LATEST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct HaveRoom<S> {
    inner: S,
}

impl<S> HaveRoom<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Call> for HaveRoom<S>
where
    S: Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send + 'static,
{
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<Either<Ready<Result<Accepted, Refusal>>, S::Future>, Trying>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        if !call.method.begins_turn() {
            return Either::Left(Either::Right(self.inner.call(call)));
        }
        let session = later::session(&call);
        call.permit = session.as_ref().and_then(|session| session.permit());
        if call.permit.is_some() {
            return Either::Left(Either::Right(self.inner.call(call)));
        }
        let core = call.client.core();
        match core.admission.ask(call.client.who(), room(&call)) {
            Ok(Entry::Begins(permit)) => {
                call.permit = Some(Arc::new(permit));
                Either::Left(Either::Right(self.inner.call(call)))
            }
            Ok(Entry::Waits(waiter)) => {
                let mut inner = self.inner.clone();
                Either::Right(later(session, async move {
                    let core = call.client.core();
                    let permit = core.drain.unless_draining(waiter.wait()).await;
                    let permit = permit.ok_or(Refusal::Draining(core.config.drain.timeout))?;
                    call.permit = Some(Arc::new(permit.map_err(|full| refusal(&full))?));
                    later::settle(inner.call(call)).await
                }))
            }
            Err(full) => Either::Left(Either::Left(ready(Err(refusal(&full))))),
        }
    }
}

fn room(call: &Call) -> Room {
    let live = call.client.core().live();
    let (all, tenant) = (&live.limits, live.tenants.get(&call.client.who().tenant));
    let bounds = |all, most| Bounds { all, tenant: most, user: tenant.user_share.of(most) };
    Room {
        running: bounds(all.max_concurrent_turns, tenant.max_concurrent_turns),
        waiting: bounds(all.max_waiting_turns, tenant.max_waiting_turns),
        wait: all.turn_wait,
    }
}

fn refusal(full: &Full) -> Refusal {
    let limit = match full.why {
        Why::Queue => Limit::WaitingTurns,
        Why::Wait => Limit::TurnWait,
    };
    Refusal::Overloaded(limit, full.clears_in.clamp(SOONEST, LATEST))
}
