//! The right to run a turn of a shared session, and what happens when it is lost in the middle of one.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::json;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use jetway_lockd::{Authority, Cause, Ended, Fence, Floors, Key as LockKey, Tenure, Turn};

use super::{leg::Leg, registry::Session, relay};
use crate::{
    app::Core,
    directory::{Directory, FenceError, Key},
    metrics,
    stack::{Limit, RETRY_AFTER, Refusal},
};

/// How long a turn of somebody who lost the lease may take to stop on the CLI server.
const STOPPING: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// A running turn's lease; given back when the turn ends, however it does.
#[derive(Debug)]
pub(crate) struct Lease {
    turn: Turn,
    /// Dropped with the turn: its watch ends then.
    _ended: oneshot::Sender<()>,
}

impl Lease {
    /// Has the lease watched for as long as the turn runs.
    pub(crate) fn watched(turn: Turn, core: &Arc<Core>, session: &Arc<Session>) -> Self {
        let (ended, over) = oneshot::channel();
        let watch = watch(core.clone(), session.clone(), turn.authority().clone(), over);
        core.tracker.spawn(watch);
        Self { turn, _ended: ended }
    }

    /// Whose turn it is.
    pub(crate) fn who(&self) -> jetway_config::UserId {
        self.turn.who()
    }

    /// Whether what belongs to the turn may still go to a CLI server.
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        self.turn.is_live(now)
    }
}

async fn watch(core: Arc<Core>, session: Arc<Session>, authority: Authority, over: oneshot::Receiver<()>) {
    let cause = tokio::select! {
        biased;
        _ = over => return,
        cause = authority.over() => cause,
    };
    let until = authority.valid_until();
    if let Some(cause) = cause
        && session.lease_lost()
    {
        lost(&core, &session, cause, until).await;
    }
}

/// The turn is over for everyone here: its clients hear so, and it is stopped if nobody else can have begun one.
async fn lost(core: &Arc<Core>, session: &Arc<Session>, cause: Cause, until: Instant) {
    warn!(session = %session.key, ?cause, "a lease was lost in the middle of a turn");
    metrics::outcome("lease_lost");
    let mut stopped = false;
    for client in core.clients.all() {
        let Some(leg) = client.leg_with(session) else { continue };
        let mut out = Vec::new();
        relay::write_turn_lost(session, &mut out);
        let _ = client.send(&out);
        // Later, the turn that an abort would hit might be another's.
        if !stopped && Instant::now() < until + core.config.locks.ttl / 20 {
            stopped = true;
            let session = session.clone();
            core.tracker.spawn(async move { abort(&leg, &session).await });
        }
    }
}

async fn abort(leg: &Leg, session: &Session) {
    if let Err(refusal) = leg.call("session.abort", &named(session)).await {
        warn!(session = %session.key, ?refusal, "stopping a turn whose lease was lost");
    }
}

fn named(session: &Session) -> Vec<u8> {
    json!({ "sessionId": session.key.id }).to_string().into_bytes()
}

/// Before the first turn under a new lease: its fence is written down where the session's state is, and what a
/// holder before may have left running is stopped.
pub(crate) async fn enter(core: &Core, session: &Session, turn: &Turn, leg: &Leg) -> Result<(), Refusal> {
    if session.fence() == Some(turn.fence()) {
        return Ok(());
    }
    match core.directory.record_fence(&session.key, turn.fence().to_u64()).await {
        Ok(()) => {}
        // Another holder came after this one: what is held is worth nothing.
        Err(FenceError::Superseded { .. }) => return Err(Refusal::busy(None)),
        Err(FenceError::NotFound) => return Err(Refusal::SessionNotFound),
        Err(FenceError::Store(error)) => {
            warn!(%error, "the session directory");
            return Err(Refusal::Overloaded(Limit::Directory, RETRY_AFTER));
        }
    }
    quieten(session, leg).await?;
    session.set_fence(turn.fence());
    Ok(())
}

/// Asks the CLI server until a turn has ended whose end cannot be known otherwise.
pub(crate) fn ask_until_done(core: &Arc<Core>, session: Arc<Session>, leg: &Arc<Leg>) {
    let leg = leg.clone();
    core.tracker.spawn(async move {
        // The lease bounds it: when that is lost the turn is over here.
        while session.is_running() {
            // A leg that is lost tells of the turn itself.
            match is_processing(&session, &leg).await {
                Ok(true) => sleep(LOOK).await,
                Ok(false) => return session.turns_done(),
                Err(_) => return,
            }
        }
    });
}

/// Waits until no turn runs there, and stops one that does.
async fn quieten(session: &Session, leg: &Leg) -> Result<(), Refusal> {
    let deadline = Instant::now() + STOPPING;
    let mut told = false;
    while is_processing(session, leg).await? {
        if !told {
            told = true;
            info!(session = %session.key, "stopping a turn that an earlier holder of the lease left running");
            let _ = leg.call("session.abort", &named(session)).await?;
        }
        if Instant::now() >= deadline {
            return Err(Refusal::busy(None));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

async fn is_processing(session: &Session, leg: &Leg) -> Result<bool, Refusal> {
    let answer = leg.call("session.metadata.isProcessing", &named(session)).await?;
    // A CLI server that does not know, or does not have the session, runs nothing of it that Jetway began.
    let Ok(answer) = answer else { return Ok(false) };
    let processing = jetway_wire::Value::new(&answer).get("processing");
    Ok(processing.and_then(jetway_wire::Value::as_bool) == Some(true))
}

/// Tells everyone attached whose turn begins, on whichever gateway they are: by way of the CLI server.
pub(crate) fn announce(session: &Session, who: &jetway_config::UserId, leg: &Leg) {
    let params = json!({
        "sessionId": session.key.id,
        "message": who,
        "type": "jetway.turn_started",
        "level": "info",
        "ephemeral": true,
    });
    leg.tell("session.log", params.to_string().as_bytes());
}

/// The lock of a session.
pub(crate) fn lock_key(key: &Key) -> LockKey {
    LockKey { owner: key.owner.clone(), session: key.id.clone() }
}

/// What the directory knows of fences, for leases that are to be above them.
pub(crate) fn floors(directory: Arc<Directory>) -> Floors {
    Arc::new(move |key: &LockKey| {
        let (directory, key) = (directory.clone(), key.clone());
        async move {
            let entry = directory.find(&key.owner, &key.session).await.map_err(std::io::Error::other)?;
            Ok(entry.map_or(Fence::NONE, |entry| Fence::from_u64(entry.fence)))
        }
        .boxed()
    })
}

/// What a gateway does when it no longer acts for a session: nothing, where all gateways use one CLI server.
/// Attachments stay, and see the turns of whoever acts next.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Tenure for Nothing {
    fn ended(&self, key: &LockKey, fence: Fence, why: Ended) -> BoxFuture<'static, ()> {
        info!(session = %key, %fence, ?why, "a tenure ended");
        async {}.boxed()
    }
}

/// Gives all leases back, within `allowed`.
pub(crate) async fn close(core: &Core, allowed: Duration) {
    let closed = async {
        core.turns.shutdown().await;
        core.lockd.shutdown().await;
    };
    if timeout(allowed, closed).await.is_err() {
        error!("leases were not given back in time; they end by themselves");
    }
}
