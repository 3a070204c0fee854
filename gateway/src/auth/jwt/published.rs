//! A published key set: fetched, kept, and fetched again within bounds.
//!
//! One task fetches, so that nobody who leaves cuts a fetch off. Callers who miss a key wait for the next fetch, if one
//! may begin now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{info, warn};

use jetway_config::{
    jwt,
    limits::{JWKS_MAX_AGE, JWKS_REFETCH, JWKS_REFRESH},
    net::HttpUrl,
};

use super::{fetch, keys::Keys};
use crate::metrics;

/// A key set and its keeper, who stops when this is dropped.
#[derive(Debug)]
pub(super) struct Published {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    latest: Mutex<Latest>,
    /// Somebody misses a key.
    missed: Notify,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Latest {
    keys: Option<(Arc<Keys>, Instant)>,
    /// When the last fetch began.
    began: Option<Instant>,
    fetching: bool,
}

impl Published {
    /// Its keeper is one of `tracker`'s tasks and stops when `closing` says so.
    pub(super) fn start(
        url: HttpUrl,
        allowed: Vec<jwt::Algorithm>,
        tracker: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let stop = closing.child_token();
        let shared = Arc::new(Shared {
            latest: Mutex::default(),
            missed: Notify::new(),
            ended: watch::Sender::new(0),
        });
        let (kept, stopped) = (shared.clone(), stop.clone());
        tracker.spawn(async move {
            stopped.run_until_cancelled(keep(&kept, &url, &allowed)).await;
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// The keys as they were last published; none if that was too long ago.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        let latest = self.shared.latest();
        let fresh = latest.keys.as_ref().filter(|(_, at)| at.elapsed() < JWKS_MAX_AGE);
        fresh.map(|(keys, _)| keys.clone())
    }

    /// Has them fetched again if that may be done now, and waits for it. Returns whether it was done.
    pub(super) async fn renew(&self) -> bool {
        let mut ended = self.shared.ended.subscribe();
        let (fetching, may_begin) = {
            let latest = self.shared.latest();
            (latest.fetching, latest.began.is_none_or(|at| at.elapsed() >= JWKS_REFETCH))
        };
        if !fetching && !may_begin {
            return false;
        }
        if !fetching {
            self.shared.missed.notify_one();
        }
        timeout(fetch::TIMEOUT, ended.changed()).await.is_ok()
    }
}

impl Shared {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches at once, then from time to time and when a key is missed; never twice within [`JWKS_REFETCH`].
async fn keep(shared: &Shared, url: &HttpUrl, allowed: &[jwt::Algorithm]) {
    loop {
        let began = Instant::now();
        {
            let mut latest = shared.latest();
            (latest.began, latest.fetching) = (Some(began), true);
        }
        let fetched = fetch::get(url.as_str()).await.map_err(|e| e.to_string());
        match fetched.and_then(|json| Keys::set(&json, allowed)) {
            Ok(keys) => {
                let first = shared.latest().keys.replace((Arc::new(keys), Instant::now())).is_none();
                metrics::jwks_fetched("ok");
                if first {
                    info!("the key set of auth.jwt.jwks_url is there");
                }
            }
            Err(error) => {
                metrics::jwks_fetched("failed");
                warn!(error, "auth.jwt.jwks_url: the keys that are known stay in use");
            }
        }
        let known = {
            let mut latest = shared.latest();
            latest.fetching = false;
            latest.keys.is_some()
        };
        shared.ended.send_modify(|n| *n += 1);
        sleep_until(began + JWKS_REFETCH).await;
        if known {
            let _ = timeout(JWKS_REFRESH, shared.missed.notified()).await;
        }
    }
}
