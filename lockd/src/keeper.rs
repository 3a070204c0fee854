//! The task that has a session for a process: takes its lease, lets the turns in one by one, and gives the
//! lease back between two turns.

use crate::{
    error::AcquireError,
    key::Key,
    lease::Lease,
    turns::{Ended, Shared, Turn},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    pin,
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

/// Turns have deadlines of their own: the lease is waited for as long as there is one in line.
const LONG: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn keep(shared: Arc<Shared>, key: Key, changed: Arc<Notify>) {
    loop {
        match acquire(&shared, &key, &changed).await {
            Some(Ok(lease)) => {
                let fence = lease.fence();
                shared.set_fence(&key, Some(fence));
                let why = serve(&shared, &key, &lease, &changed).await;
                tracing::debug!(%key, %fence, ?why, "a tenure ends");
                shared.tenure.ended(&key, fence, why).await;
                shared.set_fence(&key, None);
                // Awaited: what is still in line here gets in line behind those who wait elsewhere.
                lease.release().await;
            }
            Some(Err(e)) => shared.refuse(&key, &e),
            None => {}
        }
        if shared.closed.is_cancelled() {
            shared.refuse(&key, &AcquireError::Closed);
        }
        if shared.retire(&key) {
            return;
        }
    }
}

/// The lease on behalf of the first in line; none once nobody is.
async fn acquire(shared: &Shared, key: &Key, changed: &Notify) -> Option<Result<Lease, AcquireError>> {
    let who = shared.first(key)?;
    let lease = shared.lockd.acquire(key, &who, Instant::now() + LONG);
    pin!(lease);
    loop {
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return None,
            lease = &mut lease => return Some(lease),
            () = changed.notified() => { shared.first(key)?; }
        }
    }
}

/// Lets turns in until the session is to be given up.
async fn serve(shared: &Shared, key: &Key, lease: &Lease, changed: &Notify) -> Ended {
    let mut turns = 0_u64;
    loop {
        if let Some(why) = must_end(shared, key, lease, turns > 0).await {
            return why;
        }
        if let Some((entry, alive)) = shared.next(key) {
            lease.set_who(&entry.who);
            let (done, over) = oneshot::channel();
            // One that nobody waits for any more is over at once.
            let _ = entry.reply.send(Ok(Turn::new(lease.authority().clone(), alive, done)));
            let _ = over.await;
            shared.turn_over(key);
            turns += 1;
            continue;
        }
        tokio::select! {
            () = changed.notified() => {}
            _ = lease.over() => {}
            () = lease.wanted() => return Ended::Wanted,
            () = sleep(shared.idle) => return Ended::Idle,
            () = shared.closed.cancelled() => return Ended::Closing,
        }
    }
}

/// Whether the session must be given up before another turn. A process that has waited for it is let to
/// one turn at least, whoever waits behind it.
async fn must_end(shared: &Shared, key: &Key, lease: &Lease, had_turn: bool) -> Option<Ended> {
    if !lease.is_live(Instant::now()) {
        // Its deadline has passed; the watchdog says why, now or in a moment.
        return lease.over().await.map(Ended::Lost);
    }
    if shared.closed.is_cancelled() {
        return Some(Ended::Closing);
    }
    if shared.take_release(key) {
        return Some(Ended::Released);
    }
    (had_turn && lease.is_wanted()).then_some(Ended::Wanted)
}
