//! One task that renews all leases of a process, and ends those whose time is up. It never waits for the
//! store, so that a store that does not answer cannot keep it from ending a lease in time.

use crate::{
    lockd::Inner,
    metrics,
    rules::Moment,
    store::{Renew, Renewed},
    watch::Cause,
};
use futures_util::future::{BoxFuture, FutureExt};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::time::sleep_until;

/// Later than this is worth a line in the log.
const LATE: Duration = Duration::from_millis(250);

struct Answers {
    sent: Moment,
    leases: Vec<Renew>,
    outcomes: Vec<Option<Renewed>>,
}

pub(crate) async fn run(lockd: Arc<Inner>) {
    let mut renewal: Option<BoxFuture<'_, Answers>> = None;
    loop {
        let next = lockd.book().watch.arm();
        let answers = tokio::select! {
            biased;
            () = lockd.stop.cancelled() => break,
            () = async { match next { Some(at) => sleep_until(lockd.base + at).await, None => pending().await } } => None,
            answers = async { match renewal.as_mut() { Some(r) => r.await, None => pending().await } } => Some(answers),
            () = lockd.watch_changed.notified() => None,
        };
        if let Some(answers) = answers {
            renewal = None;
            apply(&lockd, answers);
        }
        let batch = wake(&lockd);
        if !batch.is_empty() {
            renewal = Some(renew(&lockd, batch).boxed());
        }
    }
    // Nobody renews any more: whoever still holds a lease hears of it now rather than late.
    let mut book = lockd.book();
    let left: Vec<_> = book.leases.keys().map(|seq| (*seq, Cause::Stalled)).collect();
    book.lose(&left);
}

/// Does what is due; gives the leases to renew.
fn wake(lockd: &Inner) -> Vec<Renew> {
    let mut book = lockd.book();
    let due = book.watch.next().is_some_and(|at| at <= lockd.now());
    if !due {
        return Vec::new();
    }
    let wake = book.watch.wake(lockd.now());
    metrics::late(wake.late);
    if wake.late > LATE {
        tracing::warn!(late = ?wake.late, "the lock watchdog woke late");
    }
    book.lose(&wake.lost);
    book.renewals(wake.renew.iter().map(|(seq, _)| *seq))
}

async fn renew(lockd: &Inner, leases: Vec<Renew>) -> Answers {
    let sent = lockd.now();
    // The store bounds each command; this bounds connecting to it as well.
    let answered = tokio::time::timeout(lockd.rules.command * 2, lockd.store.renew(&leases)).await;
    let outcomes = answered.unwrap_or_else(|_| vec![None; leases.len()]);
    Answers { sent, leases, outcomes }
}

fn apply(lockd: &Inner, answers: Answers) {
    let seqs = answers.leases.iter().map(|lease| lease.ticket.seq);
    let mut book = lockd.book();
    let answered = book.watch.renewed(answers.sent, lockd.now(), seqs.zip(answers.outcomes.iter().copied()));
    for (seq, until, wanted) in answered.kept {
        if let Some(lease) = book.leases.get(&seq) {
            lease.extend(until);
            if wanted {
                lease.set_wanted();
            }
        }
    }
    book.lose(&answered.lost);
}
