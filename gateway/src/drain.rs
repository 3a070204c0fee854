//! Stopping without losing a turn: no new work, let what runs end, then close.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{app::Core, metrics, sessions::lease};

/// How often a drain looks whether the last turn has ended.
const LOOK: Duration = Duration::from_millis(10);
/// What is left of the drain's time for stopping CLI processes, at least.
const STOP_RESERVE: Duration = Duration::from_secs(2);

/// Where a gateway stands between serving and gone. Each step is taken once.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    draining: CancellationToken,
    closing: CancellationToken,
    hurried: CancellationToken,
}

impl Drain {
    /// No new connections, sessions or turns.
    pub(crate) fn begin(&self) {
        self.draining.cancel();
        metrics::draining(true);
    }

    /// Whoever waits for a turn waits no longer.
    pub(crate) fn hurry(&self) {
        self.begin();
        self.hurried.cancel();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits for something, unless new work is not welcome, or is no more.
    pub(crate) async fn unless_draining<F: Future>(&self, wait: F) -> Option<F::Output> {
        self.draining.run_until_cancelled(wait).await
    }

    /// When this is cancelled, it drains.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// When this is cancelled, connections send what waits for their client and close.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}

/// How many of something there are; each counts until its [`Counted`] is dropped.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

/// One of a [`Count`].
#[derive(Debug)]
pub(crate) struct Counted(Arc<Count>);

impl Count {
    pub(crate) fn one_more(self: &Arc<Self>) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// One more, unless there are `most` already.
    pub(crate) fn one_more_up_to(self: &Arc<Self>, most: usize) -> Option<Counted> {
        let more = |n| (n < most).then_some(n + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Counted(self.clone()))
    }

    pub(crate) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for the turns that run, closes every connection and stops the CLI servers.
///
/// Returns how many turns were still running when their time was up.
pub(crate) async fn run(core: &Arc<Core>) -> usize {
    let since = Instant::now();
    let allowed = core.config.drain.timeout;
    let for_turns = allowed.saturating_sub(STOP_RESERVE.min(allowed / 2));
    info!(turns = core.registry.running_turns(), timeout_s = allowed.as_secs_f64(), "draining");
    let idle = async {
        // Twice in a row: a turn is counted as ended just before its end is sent, and a call that was admitted
        // just before the drain counts only once it is on its way.
        let mut quiet = 0;
        while quiet < 2 {
            quiet = if core.registry.running_turns() + core.placing.now() == 0 { quiet + 1 } else { 0 };
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        _ = timeout(for_turns, idle) => {}
        () = core.drain.hurried.cancelled() => {}
    }
    let left = core.registry.running_turns();
    if left > 0 {
        warn!(turns = left, "turns were cut off");
    }
    core.drain.closing.cancel();
    core.tracker.close();
    let deadline = since + allowed;
    let connections = STOP_RESERVE / 2;
    if timeout(connections, core.tracker.wait()).await.is_err() {
        warn!(tasks = core.tracker.len(), "connections did not close in time");
    }
    core.scribe.close().await;
    lease::close(core, connections).await;
    core.pool.shutdown(deadline.max(Instant::now() + LOOK).into()).await;
    info!(took_ms = since.elapsed().as_millis() as u64, "drained");
    left
}
