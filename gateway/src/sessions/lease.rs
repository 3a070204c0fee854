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

use super::{client::Client, leg::Leg, registry::Session, relay, turn::TurnId};
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
/// How often the CLI server is asked about a turn whose end no event tells.
const ASK: Duration = Duration::from_millis(250);
/// For how long it must have nothing to do before that is believed: it answers a prompt before it takes it up, and
/// says in between that there is nothing to do.
const SURE: Duration = Duration::from_secs(1);

/// A running turn's lease; given back when the turn ends, however it does.
#[derive(Debug)]
pub(crate) struct Lease {
    turn: Turn,
    /// Dropped with the turn: its watch ends then.
    _ended: oneshot::Sender<()>,
}

impl Lease {
    /// A lease for a turn that begins, and its watch, to be started once the turn has: what is lost before is
    /// noticed then.
    pub(crate) fn new(turn: Turn) -> (Self, Watch) {
        let (ended, over) = oneshot::channel();
        let watch = Watch { authority: turn.authority().clone(), over };
        (Self { turn, _ended: ended }, watch)
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

/// Sees to it that a turn ends with its lease.
pub(crate) struct Watch {
    authority: Authority,
    over: oneshot::Receiver<()>,
}

impl Watch {
    /// Watches for as long as the turn runs.
    pub(crate) fn start(self, core: &Arc<Core>, session: &Arc<Session>) {
        let (core, session) = (core.clone(), session.clone());
        core.tracker.clone().spawn(async move { self.run(&core, &session).await });
    }

    async fn run(self, core: &Arc<Core>, session: &Arc<Session>) {
        let cause = tokio::select! {
            biased;
            _ = self.over => return,
            cause = self.authority.over() => cause,
        };
        if let Some(cause) = cause {
            lost(core, session, cause, self.authority.deadline());
        }
    }
}

/// The turn is over for everyone here: its clients hear so, and it is stopped if nobody else can have begun one.
fn lost(core: &Arc<Core>, session: &Arc<Session>, cause: Cause, deadline: Instant) {
    if !session.is_stale() {
        return;
    }
    let people: Vec<_> =
        core.clients.all().into_iter().filter_map(|c| Some((c.leg_with(session)?, c))).collect();
    // Before the turn is over here: as long as it runs, nothing of it goes to the CLI server.
    people.iter().for_each(|(leg, client)| lapse(session, leg, client));
    let kept = core.kept.legs_with(session);
    if !session.lease_lost() {
        return;
    }
    let late = Instant::now().saturating_duration_since(deadline);
    warn!(session = %session.key, ?cause, late_ms = late.as_millis() as u64, "a lease was lost in the middle of a turn");
    metrics::outcome("lease_lost");
    let mut out = Vec::new();
    relay::write_turn_lost(session, &mut out);
    for (_, client) in &people {
        let _ = client.send(&out);
    }
    // Later, or if another has the session already, the turn that an abort would hit might be another's.
    let ours = cause != Cause::Taken && late < core.config.locks.ttl / 20;
    let leg = people.into_iter().map(|(leg, _)| leg).chain(kept).next();
    if let Some(leg) = leg.filter(|_| ours) {
        let session = session.clone();
        core.tracker.spawn(async move { abort(&leg, &session).await });
    }
}

/// What the CLI server has asked a client so far is not to be answered any more.
fn lapse(session: &Session, leg: &Leg, client: &Client) {
    client.forget_questions(session);
    if let Some(route) = leg.route_to(session.key.id.as_str()) {
        route.requests(|requests| requests.lapse());
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
    write_down(core, session, turn).await?;
    quieten(session, leg).await?;
    session.set_fence(turn.fence());
    Ok(())
}

/// Writes a fence down. All that is done before a turn goes on that an earlier holder has left waiting for its people:
/// that is not stopped, and whatever comes next under this lease still has to [enter].
pub(crate) async fn write_down(core: &Core, session: &Session, turn: &Turn) -> Result<(), Refusal> {
    match core.directory.record_fence(&session.key, turn.fence().to_u64()).await {
        Ok(()) => Ok(()),
        // Another holder came after this one: what is held is worth nothing.
        Err(FenceError::Superseded { .. }) => Err(Refusal::busy(None)),
        Err(FenceError::NotFound) => Err(Refusal::SessionNotFound),
        Err(FenceError::Store(error)) => {
            warn!(%error, "the session directory");
            Err(Refusal::Overloaded(Limit::Directory, RETRY_AFTER))
        }
    }
}

/// Asks the CLI server until the turns have ended whose end no event tells. For whoever is told that nobody asks yet.
pub(crate) fn ask_until_done(core: &Arc<Core>, session: Arc<Session>, leg: &Arc<Leg>) {
    let leg = leg.clone();
    core.tracker.spawn(async move {
        let mut rest: Option<(Instant, Vec<TurnId>)> = None;
        loop {
            let turns = session.doubtful_turns();
            if turns.is_empty() {
                return;
            }
            match (is_at_work(&session, &leg).await, &rest) {
                (Ok(true), _) => rest = None,
                (Ok(false), None) => rest = Some((Instant::now(), turns)),
                (Ok(false), Some((since, turns))) if since.elapsed() >= SURE => {
                    session.turns_done(turns);
                    rest = None;
                }
                (Ok(false), Some(_)) => {}
                // Whoever else has the session attached is asked when this leg is missed.
                (Err(_), _) => return session.stop_asking(),
            }
            sleep(ASK).await;
        }
    });
}

/// A session was attached whose pending work the CLI server was to go on with: what it does is a turn, from now on. In
/// a session with members it has a lease.
pub(crate) fn look_for_turn(core: &Arc<Core>, session: Arc<Session>, leg: &Arc<Leg>, lease: Option<Turn>) {
    let (leg, core) = (leg.clone(), core.clone());
    core.tracker.clone().spawn(async move {
        let may = !session.is_running() && session.is_shared() == lease.is_some();
        if !may || !is_at_work(&session, &leg).await.unwrap_or(false) {
            return;
        }
        let (lease, watch) = lease.map(Lease::new).unzip();
        if let Some(lease) = &lease {
            announce(&session, &lease.who(), &leg);
        }
        let Some(turn) = session.begin_turn(leg.id(), lease, None) else { return };
        if let Some(watch) = watch {
            watch.start(&core, &session);
        }
        if session.turn_taken(turn, None) {
            ask_until_done(&core, session, &leg);
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
    says(session, leg, "session.metadata.isProcessing", "processing").await
}

/// Whether it processes something or is about to: between the two it says so only here.
async fn is_at_work(session: &Session, leg: &Leg) -> Result<bool, Refusal> {
    Ok(says(session, leg, "session.metadata.activity", "hasActiveWork").await?
        || is_processing(session, leg).await?)
}

async fn says(session: &Session, leg: &Leg, method: &str, what: &str) -> Result<bool, Refusal> {
    let answer = leg.call(method, &named(session)).await?;
    // A CLI server that does not know, or does not have the session, runs nothing of it that Jetway began.
    let Ok(answer) = answer else { return Ok(false) };
    Ok(jetway_wire::Value::new(&answer).get(what).and_then(jetway_wire::Value::as_bool) == Some(true))
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
