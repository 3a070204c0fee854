//! A client's calls that wait beside its connection, which goes on meanwhile.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::{client::Client, registry::Session, withheld};
use crate::{
    metrics,
    stack::{
        Accepted, Limit, RETRY_AFTER, Refusal,
        later::{Later, settle},
    },
};

impl Client {
    /// Carries a call on that waits, and hands `done` what became of it; without a word when the client leaves.
    /// Returns why it may not wait.
    pub(crate) fn carry_on(
        self: &Arc<Self>,
        call: Later,
        done: impl FnOnce(Result<Accepted, Refusal>) + Send + 'static,
    ) -> Result<(), Refusal> {
        let mut place =
            match self.waiting.add(call.session().cloned(), self.core().live().limits.max_in_flight) {
                Ok(place) => place,
                Err(Never::Full) => return Err(Refusal::Overloaded(Limit::InFlight, RETRY_AFTER)),
                Err(Never::Left) => return Ok(()),
            };
        let client = self.clone();
        let session = call.session().cloned();
        self.tracker().spawn(async move {
            // Whatever was forwarded is `settled` in the same poll: nothing is both forwarded and given up.
            let settled = tokio::select! {
                biased;
                why = &mut place.end => why.ok().map(|why| {
                    metrics::refused(&why);
                    Err(why)
                }),
                // Whoever waits hears of a fault of Jetway's; how far the call came, nobody knows.
                settled = AssertUnwindSafe(settle(call)).catch_unwind() => Some(settled.unwrap_or_else(|_| {
                    let session = session.as_ref().map(|session| session.key.id.clone());
                    Err(Refusal::Indeterminate { session, turn: None })
                })),
            };
            let refused = settled.as_ref().is_some_and(Result::is_err);
            if let Some(settled) = settled {
                done(settled);
            }
            client.waiting.remove(place);
            if let Some(session) = session.filter(|_| refused) {
                withheld::told_late(&client, &session);
            }
        });
        Ok(())
    }

    /// Waits for something that a prompt to `session` needs, as one of the client's calls that wait: it is given up
    /// with them.
    pub(crate) async fn beside<T>(
        &self,
        session: &Arc<Session>,
        going: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let limit = self.core().live().limits.max_in_flight;
        let place = self.waiting.add(Some(session.clone()), limit).map_err(|never| match never {
            Never::Full => Refusal::Overloaded(Limit::InFlight, RETRY_AFTER),
            Never::Left => Refusal::Aborted,
        })?;
        let mut held = HeldPlace { calls: &self.waiting, place: Some(place) };
        let Some(place) = &mut held.place else { return going.await };
        tokio::select! {
            biased;
            why = &mut place.end => Err(why.unwrap_or(Refusal::Aborted)),
            done = going => done,
        }
    }

    /// The line of its prompts that wait for a session, while there is one.
    pub(crate) fn line(&self, session: &Arc<Session>) -> Option<Line> {
        self.waiting.line(session)
    }

    /// Has its prompts that wait for a session end: it aborts the session or leaves it.
    pub(crate) fn give_up(&self, session: &Arc<Session>) {
        self.waiting.give_up(session, &Refusal::Aborted);
    }
}

/// A line in which a client's prompts to one session wait: whoever holds the lock is its head.
pub(crate) type Line = Arc<tokio::sync::Mutex<()>>;

/// The calls, in no order.
#[derive(Default)]
pub(super) struct Calls(Mutex<State>);

#[derive(Default)]
struct State {
    /// The client has left; nothing is to wait any more.
    left: bool,
    last: u64,
    open: Vec<Open>,
}

struct Open {
    number: u64,
    session: Option<(Arc<Session>, Line)>,
    /// Has it end with this refusal; when this is dropped, without a word.
    end: oneshot::Sender<Refusal>,
}

/// A call's place among them.
struct Place {
    number: u64,
    /// Resolves when it is to end: with what is to be said, or with nothing when the client has left.
    end: oneshot::Receiver<Refusal>,
    /// The head of a line that it began.
    _head: Option<OwnedMutexGuard<()>>,
}

/// A place that is given back however the wait ends.
struct HeldPlace<'a> {
    calls: &'a Calls,
    place: Option<Place>,
}

impl Drop for HeldPlace<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.calls.remove(place);
        }
    }
}

/// Why a call may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Never {
    /// As many wait already as may.
    Full,
    /// The client has left.
    Left,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a call that is about `session`, unless `limit` of them wait.
    ///
    /// The first one to wait for a session begins a line. Those that join it find it with [`Calls::line`]; they
    /// are in it before they come here.
    fn add(&self, session: Option<Arc<Session>>, limit: usize) -> Result<Place, Never> {
        let mut state = self.lock();
        if state.left {
            return Err(Never::Left);
        }
        if state.open.len() >= limit {
            return Err(Never::Full);
        }
        state.last += 1;
        let number = state.last;
        let mut head = None;
        let session = session.map(|session| {
            let line = state.line(&session).unwrap_or_else(|| {
                let line = Line::default();
                head = line.clone().try_lock_owned().ok();
                line
            });
            (session, line)
        });
        let (end, ended) = oneshot::channel();
        state.open.push(Open { number, session, end });
        Ok(Place { number, end: ended, _head: head })
    }

    /// The call waits no longer.
    fn remove(&self, place: Place) {
        let mut state = self.lock();
        state.open.retain(|call| call.number != place.number);
        if state.open.is_empty() {
            state.open = Vec::new();
        }
        // Its head is let go only now: whoever comes next finds either the line or an empty way.
    }

    /// The line before a session, while there is one.
    fn line(&self, session: &Arc<Session>) -> Option<Line> {
        self.lock().line(session)
    }

    /// Whether one is about that session.
    pub(super) fn is_about(&self, session: &Arc<Session>) -> bool {
        let state = self.lock();
        state.open.iter().filter_map(|call| call.session.as_ref()).any(|(s, _)| Arc::ptr_eq(s, session))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Has the calls that wait for a session end with `why`.
    fn give_up(&self, session: &Arc<Session>, why: &Refusal) {
        let mut state = self.lock();
        let about = |call: &mut Open| call.session.as_ref().is_some_and(|(s, _)| Arc::ptr_eq(s, session));
        for call in state.open.extract_if(.., about) {
            // It may just have ended by itself.
            let _ = call.end.send(why.clone());
        }
    }

    /// The client leaves: its calls end, and nobody hears of it.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        state.open = Vec::new();
    }
}

impl State {
    fn line(&self, session: &Arc<Session>) -> Option<Line> {
        let mut lines = self.open.iter().filter_map(|call| call.session.as_ref());
        lines.find(|(s, _)| Arc::ptr_eq(s, session)).map(|(_, line)| line.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        directory::{Entry, Key, New, Place as Where, UnixMs},
        sessions::registry::Registry,
    };
    use jetway_config::Identity;

    fn sessions() -> [Arc<Session>; 2] {
        let registry = Registry::default();
        let owner = Identity { tenant: "acme".parse().unwrap(), user: "ada".parse().unwrap() };
        ["a", "b"].map(|id| {
            let key = Key { owner: owner.clone(), id: id.parse().unwrap() };
            let place = Where { server: "s".into(), group: None, exclusive: true };
            let new = New { place, ephemeral: false, most: 9 };
            registry.hold(&owner, &Entry::new(key, &new, UnixMs::now()))
        })
    }

    #[tokio::test]
    async fn who_comes_later_finds_the_line_of_those_before() {
        let [a, b] = sessions();
        let calls = Calls::default();
        assert!(calls.line(&a).is_none());
        let first = calls.add(Some(a.clone()), 9).ok().unwrap();
        assert!(calls.line(&b).is_none());
        let line = calls.line(&a).unwrap();
        let second = tokio::spawn(line.lock_owned());
        let place = calls.add(Some(a.clone()), 9).ok().unwrap();
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        calls.remove(first);
        let head = second.await.unwrap();
        assert!(calls.line(&a).unwrap().try_lock().is_err(), "the second has its turn now");
        calls.remove(place);
        drop(head);
        assert!(calls.line(&a).is_none() && calls.is_empty());
    }

    #[tokio::test]
    async fn what_is_given_up_hears_why_and_what_is_left_hears_nothing() {
        let [a, b] = sessions();
        let calls = Calls::default();
        let mut places = [&a, &b, &a].map(|s| calls.add(Some(s.clone()), 3).ok().unwrap());
        assert_eq!(calls.add(None, 3).err(), Some(Never::Full));
        calls.give_up(&a, &Refusal::Aborted);
        for at in [0, 2] {
            assert_eq!((&mut places[at].end).await, Ok(Refusal::Aborted));
        }
        assert!(places[1].end.try_recv().is_err() && !calls.is_empty());
        calls.leave();
        assert!((&mut places[1].end).await.is_err());
        assert_eq!(calls.add(None, 3).err(), Some(Never::Left));
    }
}
