//! One ticket in line, for as long as somebody waits for it.

use crate::{
    book::Waiter,
    fence::Fence,
    lease::{Authority, Lease},
    lockd::Inner,
    metrics::{self, Level},
    rules::Moment,
    store::{Enter, Leave, Place},
};
use std::sync::Arc;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Entered in the book of waiters; dropping it leaves the line.
pub(crate) struct InLine<'a> {
    lockd: &'a Arc<Inner>,
    enter: &'a Enter,
    hinted: Arc<Notify>,
    place: Option<Place>,
    /// Whether the store may know the ticket.
    sent: bool,
    /// Shutting down waits for it.
    _token: TaskTrackerToken,
}

impl<'a> InLine<'a> {
    pub(crate) fn new(lockd: &'a Arc<Inner>, enter: &'a Enter) -> Self {
        let hinted = Arc::new(Notify::new());
        let waiter = Waiter {
            key: enter.key.clone(),
            who: enter.who.clone(),
            since: Instant::now(),
            place: None,
            hint: None,
            hinted: Arc::clone(&hinted),
            wanted: false,
        };
        lockd.book().waiters.insert(enter.ticket.seq, waiter);
        metrics::waiting(Level::Lease, 1.0);
        Self { lockd, enter, hinted, place: None, sent: false, _token: lockd.leaving.token() }
    }

    /// A command is about to be sent: what is hinted from now on comes after it.
    pub(crate) fn sending(&mut self) {
        self.sent = true;
        if let Some(waiter) = self.lockd.book().waiters.get_mut(&self.enter.ticket.seq) {
            waiter.hint = None;
        }
    }

    pub(crate) fn stands_at(&mut self, place: &Place) {
        self.place = Some(place.clone());
        if let Some(waiter) = self.lockd.book().waiters.get_mut(&self.enter.ticket.seq) {
            waiter.place = Some(place.clone());
        }
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    /// Until then, or sooner if the store hinted so.
    pub(crate) async fn wait(&self, until: Moment) {
        loop {
            let hint = self.lockd.book().waiters.get(&self.enter.ticket.seq).and_then(|waiter| waiter.hint);
            let until = until.min(hint.unwrap_or(until));
            if until <= self.lockd.now() {
                return;
            }
            tokio::select! {
                () = sleep_until(self.lockd.base + until) => return,
                () = self.hinted.notified() => {}
            }
        }
    }

    /// The store forgot the ticket, or never had it.
    pub(crate) fn turned_away(&mut self) {
        self.sent = false;
    }

    /// The lease is had: it is watched from now on.
    pub(crate) fn held(mut self, fence: Fence, until: Moment, wanted: bool) -> Lease {
        self.sent = false;
        let Enter { key, ticket, who, .. } = self.enter;
        let authority = Authority::new(key.clone(), *ticket, fence, who.clone(), self.lockd.base);
        authority.extend(until);
        let mut book = self.lockd.book();
        if wanted || book.waiters.get(&ticket.seq).is_some_and(|waiter| waiter.wanted) {
            authority.set_wanted();
        }
        book.leases.insert(ticket.seq, authority.clone());
        if book.watch.hold(self.lockd.now(), ticket.seq, fence, until) {
            self.lockd.watch_changed.notify_one();
        }
        drop(book);
        metrics::holding(Level::Lease, 1.0);
        Lease::new(authority, self.leave(), Arc::clone(self.lockd))
    }

    fn leave(&self) -> Leave {
        let Enter { key, ticket, who, .. } = self.enter;
        Leave { key: key.clone(), ticket: *ticket, who: who.clone() }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.lockd.book().waiters.remove(&self.enter.ticket.seq);
        metrics::waiting(Level::Lease, -1.0);
        if self.sent {
            self.lockd.leave(self.leave());
        }
    }
}
