//! What sessions have as limits and files of their own, on CLI processes of Jetway's.
//!
//! The processes of a user serve all sessions of that user. So a session's limit holds for what serves the session,
//! as long as the session is live there: then none of them takes more than its limit, which their sum could not say.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    task::spawn_blocking,
    time::{interval, timeout},
};
use tracing::warn;

use jetway_config::Identity;
use jetway_pool::{Bounds, Gone, StopReason, Workspace};

use super::{leg::Leg, registry::Session};
use crate::{
    app::Core,
    directory::{Entry, Key, Status},
    quantity,
};

/// How often it is looked which sessions are live.
const LOOK: Duration = Duration::from_secs(1);
/// How long a process that is being stopped may take until it is known why.
const STOPPING: Duration = Duration::from_secs(10);

/// The least memory that a CLI can do with, as in `pool.process.limits`.
pub(crate) const LEAST_MEMORY: u64 = 128 << 20;

/// A session's limits, and whether it has files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Limits {
    memory: Option<u64>,
    cpu: Option<f64>,
    disk: Option<u64>,
    /// Of files of its own: whether they outlive it.
    pub(crate) durable: Option<bool>,
}

/// What is read here of the note that the HTTP face leaves with a session.
#[derive(Deserialize)]
struct Note {
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    cpu_limit: Option<String>,
    memory_limit: Option<String>,
    pvc_enabled: Option<bool>,
    pvc_storage_size: Option<String>,
}

impl Limits {
    /// As they are noted.
    pub(super) fn of(note: Option<&str>) -> Self {
        let Some(Note { config }) = note.and_then(|note| serde_json::from_str(note).ok()) else {
            return Self::default();
        };
        Self {
            memory: config.memory_limit.and_then(|m| quantity::bytes(&m)).map(|m| m.max(LEAST_MEMORY)),
            cpu: config.cpu_limit.and_then(|c| quantity::cores(&c)),
            disk: config
                .pvc_storage_size
                .filter(|_| config.pvc_enabled.is_some())
                .and_then(|s| quantity::bytes(&s)),
            durable: config.pvc_enabled,
        }
    }
}

/// On what terms a session lives.
#[derive(Debug, Default)]
pub(super) struct Terms {
    limits: Mutex<Limits>,
    /// The directory has it as completed or failed: with its next turn it runs again.
    ended: AtomicBool,
    /// Why it is being removed, if there is a reason of its own.
    removal: Mutex<Option<&'static str>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terms {
    /// As the directory has them now.
    pub(super) fn learn(&self, entry: &Entry) {
        let over = matches!(entry.status, Status::Completed | Status::Failed);
        self.ended.store(over, Ordering::Relaxed);
        *lock(&self.limits) = Limits::of(entry.note.as_deref());
    }
}

impl Session {
    /// What it has as limits and files of its own.
    pub(crate) fn limits(&self) -> Limits {
        *lock(&self.terms.limits)
    }

    /// It is completed or has failed, until its next turn.
    pub(crate) fn ended(&self) {
        self.terms.ended.store(true, Ordering::Relaxed);
    }

    /// A turn of it has begun. Returns whether it was completed or had failed.
    pub(crate) fn resumes(&self) -> bool {
        self.terms.ended.swap(false, Ordering::Relaxed)
    }

    /// It is to be removed for that reason.
    pub(crate) fn remove_because(&self, reason: Option<&'static str>) {
        *lock(&self.terms.removal) = reason;
    }

    /// Why it was removed.
    pub(crate) fn removal(&self) -> Option<&'static str> {
        *lock(&self.terms.removal)
    }
}

/// What a session's CLI process is to be held to for it.
fn of(core: &Core, session: &Session) -> Bounds {
    let Limits { memory, cpu, disk, .. } = session.limits();
    let files = core.pool.workspace(&session.key.owner, session.key.id.as_str()).zip(disk);
    Bounds { memory, cpu, disk: files.map(|(files, most)| (files.path(), most)).into_iter().collect() }
}

/// Holds a user's processes to the limits of the sessions that are live there.
pub(crate) fn bind(core: &Core, owner: &Identity) {
    let live = core.registry.live().into_iter().filter(|session| session.is_of(owner));
    let bounds = live.map(|session| of(core, &session)).fold(Bounds::default(), Bounds::and);
    core.pool.bind(owner, bounds);
}

/// Does so for all, until connections are to be closed.
pub(crate) async fn watch(core: Arc<Core>) {
    let closing = core.drain.closing().clone();
    let mut ticks = interval(LOOK);
    let mut bound: HashSet<Identity> = HashSet::new();
    while closing.run_until_cancelled(ticks.tick()).await.is_some() {
        let mut all: HashMap<Identity, Bounds> = bound.drain().map(|who| (who, Bounds::default())).collect();
        for session in core.registry.live().iter().filter(|session| session.limits() != Limits::default()) {
            let bounds = all.entry(session.key.owner.clone()).or_default();
            *bounds = std::mem::take(bounds).and(of(&core, session));
        }
        for (who, bounds) in all {
            if bounds != Bounds::default() {
                bound.insert(who.clone());
            }
            core.pool.bind(&who, bounds);
        }
    }
}

/// A leg to a process of a user's own is lost. If that was stopped for what it took, its sessions have failed; they
/// run again with their next turn.
pub(super) fn on_loss(core: &Arc<Core>, leg: &Arc<Leg>, sessions: Vec<Arc<Session>>) {
    let (leg, scribe) = (leg.clone(), core.scribe.clone());
    core.tracker.spawn(async move {
        if let Ok(Gone::Stopped(why @ StopReason::Exceeded(_))) = timeout(STOPPING, leg.gone()).await {
            for session in sessions {
                session.ended();
                scribe.failed(&session.key, why.as_str());
            }
        }
    });
}

/// A session is no more, and so are files of its own that were not to outlive it.
pub(super) fn on_end(core: &Core, session: &Session) {
    if session.limits().durable == Some(false)
        && let Some(files) = core.pool.workspace(&session.key.owner, session.key.id.as_str())
    {
        let key = session.key.clone();
        core.tracker.spawn(async move { remove(&key, files).await });
    }
}

/// Removes a session's own files.
pub(crate) async fn remove(key: &Key, files: Workspace) {
    match spawn_blocking(move || files.remove()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(session = %key, %error, "removing a session's files"),
        Err(error) => warn!(session = %key, %error, "removing a session's files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_the_note() {
        let of = |config: &str| Limits::of(Some(&format!(r#"{{"permissions":"deny","config":{config}}}"#)));
        let all = of(
            r#"{"cpu_limit":"500m","memory_limit":"1Gi","pvc_enabled":true,"pvc_storage_size":"10Gi","x":1}"#,
        );
        let (memory, disk) = (Some(1 << 30), Some(10 << 30));
        assert_eq!(all, Limits { memory, cpu: Some(0.5), disk, durable: Some(true) });
        let small = of(r#"{"memory_limit":"1Ki","pvc_storage_size":"10Gi"}"#);
        assert_eq!(small, Limits { memory: Some(LEAST_MEMORY), ..Limits::default() });
        assert_eq!([of("{}"), Limits::of(None), Limits::of(Some("text"))], [Limits::default(); 3]);
    }
}
