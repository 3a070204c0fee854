//! Sessions that end by themselves: when their time is over, or when nobody used them for long.
//!
//! The directory gives each to one gateway, and once more when that has not seen to it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Face, profile::Config, sessions::How};
use crate::directory::{Entry, UnixMs};

/// How often the directory is asked: of those that are over nobody else knows.
const LOOK: Duration = Duration::from_secs(2);
/// How many are taken in one go, and how many of them are ended at a time: a CLI process may have to be started for each.
const MOST: usize = 50;
const AT_ONCE: usize = 4;
/// When another gateway sees to what one has taken: after the longest that ending may take it.
const AGAIN: u64 = 900_000;
/// A session that cannot be ended where it lives is over after this time all the same: its CLI server may never come
/// back.
const GIVE_UP: u64 = 3_600_000;

/// Ends what is over, until connections are to be closed.
pub(super) async fn watch(face: Arc<Face>) {
    let closing = face.core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = UnixMs::now();
        let due = face.core.directory.take_due(now, UnixMs(now.0 + AGAIN), MOST).await;
        let due = due.unwrap_or_else(|error| {
            warn!(%error, "looking for sessions whose time is over");
            Vec::new()
        });
        let end = |entry: Entry| {
            let face = face.clone();
            async move { face.end_due(&entry).await }
        };
        closing.run_until_cancelled(stream::iter(due).for_each_concurrent(AT_ONCE, end)).await;
    }
}

impl Face {
    async fn end_due(self: &Arc<Self>, entry: &Entry) {
        let now = UnixMs::now();
        let Some((at, why)) = Config::of(entry).ends(entry).filter(|(at, _)| *at <= now) else {
            return;
        };
        let session = self.core.registry.find(&entry.key.owner, &entry.key.id);
        if why == "unused" && session.is_some_and(|session| session.is_running()) {
            // It is looked at again.
            return;
        }
        let how = How { force: why == "timeout", reason: Some(why), keep_files: true };
        let Err(fault) = self.end(entry, &how).await else {
            info!(session = %entry.key, reason = why, "a session's time is over");
            return;
        };
        warn!(session = %entry.key, reason = why, cause = %fault.detail, "ending a session");
        if now.0.saturating_sub(at.0) > GIVE_UP {
            self.write_off(entry, why).await;
        }
    }
}
