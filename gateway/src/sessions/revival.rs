//! Bringing a session back when its CLI process is gone, unseen by its client.
//!
//! The CLI keeps a session's history and little else: provider, tools, hooks and the like must be told again.
//! So what told them is kept, in memory only, since it may hold keys.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use jetway_config::SessionId;
use jetway_pool::ServerId;
use jetway_wire::{Value, json};

use super::{
    client::Client, idle, leg::Leg, pending::Answer, placing, registry::Session, relay, requests::Requests,
    stranded::Hope, tools, turn::Outcome, unfinished,
};
use crate::{
    metrics,
    stack::{Limit, RETRY_AFTER, Refusal},
};

/// Requests about a session whose effect its CLI process forgets. The latest of each is told again.
const FORGOTTEN: [&str; 8] = [
    "session.agent.select",
    "session.mode.set",
    "session.model.setReasoningEffort",
    "session.model.switchTo",
    "session.options.update",
    "session.permissions.setApproveAll",
    "session.permissions.setMode",
    "session.tools.set",
];

/// Tells a CLI process that somebody listens for events of one kind, which changes what it does. Each kind is told
/// again, once.
const INTEREST: &str = "session.eventLog.registerInterest";

/// How many kinds: the schema names eight that change anything.
const INTERESTS: usize = 32;

/// Requests about a client's whole CLI server that a new process must hear again.
const FORGOTTEN_AT_HOME: [&str; 3] =
    ["llmInference.setProvider", "plugins.builtin.set", "sessionFs.setProvider"];

/// How long a turn whose CLI process was lost may take to go on before its client hears that it is lost.
const TOLD_WITHIN: Duration = Duration::from_millis(1500);

/// A request that is told again: its method and params.
pub(crate) type Told = (&'static str, Box<[u8]>);

/// Whether a new process must hear this request about its client again.
pub(crate) fn forgotten_at_home(method: &str) -> bool {
    FORGOTTEN_AT_HOME.contains(&method)
}

/// Notes a request to be told again, in place of an earlier one of the same method.
pub(crate) fn note(told: &mut Vec<Told>, method: &'static str, params: &[u8]) {
    told.retain(|(earlier, _)| *earlier != method);
    told.push((method, params.into()));
}

/// The same for a kind of event, beside those of other kinds.
fn note_interest(told: &mut Vec<Told>, params: &[u8]) {
    let kind = |params| Value::new(params).get("eventType").map(Value::text);
    let interests = || told.iter().filter(|(method, _)| *method == INTEREST);
    if interests().count() < INTERESTS && !interests().any(|(_, earlier)| kind(earlier) == kind(params)) {
        told.push((INTEREST, params.into()));
    }
}

/// A session that a client has attached, and what it takes to attach it again.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) session: Arc<Session>,
    /// The params of the `session.create` or `session.resume` that attached it.
    params: Arc<[u8]>,
    /// What was changed since, and asked of its people.
    since: Arc<Mutex<Since>>,
}

#[derive(Default)]
struct Since {
    told: Vec<Told>,
    /// Tools that it brought are left out: others have their names.
    withheld: bool,
    /// An idle that its client has not heard, for a prompt of its own waits.
    idle: Option<Box<[u8]>>,
    requests: Requests,
    /// Its client has lost a turn, which may go on yet.
    hope: Option<Arc<Hope>>,
}

impl Route {
    pub(crate) fn new(session: Arc<Session>, params: &[u8]) -> Self {
        Self { session, params: params.into(), since: Arc::default() }
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.session.key.id
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what its people have not answered.
    pub(crate) fn requests<T>(&self, look: impl FnOnce(&mut Requests) -> T) -> T {
        look(&mut self.since().requests)
    }

    /// Keeps a request in mind, if a new process would not know of it.
    pub(crate) fn remember(&self, method: &'static str, params: &[u8]) {
        if FORGOTTEN.contains(&method) {
            note(&mut self.since().told, method, params);
        } else if method == INTEREST {
            note_interest(&mut self.since().told, params);
        }
    }

    /// Keeps an idle back, in place of an earlier one.
    pub(crate) fn hold_idle(&self, frame: &[u8]) {
        self.since().idle = Some(frame.into());
    }

    /// The idle that was kept back.
    pub(crate) fn held_idle(&self) -> Option<Box<[u8]>> {
        self.since().idle.take()
    }

    /// Its client has lost a turn that may go on yet.
    pub(crate) fn hopes(&self, hope: Arc<Hope>) {
        self.since().hope = Some(hope);
    }

    /// Whether its client has lost a turn that may go on yet.
    pub(crate) fn is_hopeful(&self) -> bool {
        self.since().hope.is_some()
    }

    /// Notes whether tools that its client brought are left out.
    pub(crate) fn withhold(&self, withheld: bool) {
        self.since().withheld = withheld;
    }

    /// Whether tools that its client brought are left out.
    pub(crate) fn withholds(&self) -> bool {
        self.since().withheld
    }

    /// All the tools that its client brought, as JSON.
    pub(crate) fn tools(&self) -> Vec<u8> {
        let since = self.since();
        let told = since.told.iter().find(|(method, _)| *method == "session.tools.set");
        let params = told.map_or(&self.params[..], |(_, params)| params);
        Value::new(params).get("tools").map_or(&b"[]"[..], Value::text).to_vec()
    }

    /// Whether the CLI server was to go on with what was pending.
    pub(crate) fn continues(&self) -> bool {
        Value::new(&self.params).get("continuePendingWork").and_then(Value::as_bool) == Some(true)
    }

    fn told(&self) -> Vec<Told> {
        self.since().told.clone()
    }

    /// Attaches the session again on a leg that has never had it; its turn goes on there, or does not.
    async fn attach_again(&self, leg: &Leg, goes_on: bool) -> Result<(), Refusal> {
        let mut params = self.resume_params(goes_on);
        let mut answer = leg.call("session.resume", &params).await?;
        while let Some(less) = self.without_taken(&params, &answer) {
            self.withhold(true);
            params = less;
            answer = leg.call("session.resume", &params).await?;
        }
        // What has no message yet was never on disk; to create it is then what its client did. One in the cloud is
        // there, or is no more.
        let local = Value::new(&self.params).get("cloud").is_none();
        if local && answer.as_ref().is_err_and(|e| is_not_found(e)) {
            answer = leg.call("session.create", &self.params).await?;
        }
        if let Err(error) = answer {
            warn!(session = %self.id(), error = %message(&error), "a session could not be brought back");
            let gone = is_not_found(&error);
            return Err(if gone {
                Refusal::SessionNotFound
            } else {
                Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER)
            });
        }
        for (method, params) in self.told() {
            if let Err(error) = leg.call(method, &params).await? {
                warn!(session = %self.id(), method, error = %message(&error), "a change could not be told again");
            }
        }
        Ok(())
    }

    /// Params without the tools whose names others have, if it was refused for these.
    fn without_taken(&self, params: &[u8], answer: &Answer) -> Option<Vec<u8>> {
        let error = answer.as_ref().err().filter(|_| self.session.is_shared())?;
        tools::cut(Value::new(params), error)
    }

    /// The params that attached it, made into those of a resume.
    fn resume_params(&self, goes_on: bool) -> Vec<u8> {
        // `disableResume`: no `session.resume` event. With it 1.0.85 takes the answers to what was pending, and does
        // nothing with them. Where the client has heard that its turn was lost, what was pending is closed.
        let how: &[u8] = if goes_on {
            br#"{"continuePendingWork":true"#
        } else {
            br#"{"disableResume":true,"continuePendingWork":false"#
        };
        let mut out = how.to_vec();
        let replaced = ["cloud", "disableResume", "continuePendingWork"];
        for (name, value) in Value::new(&self.params).members() {
            if !replaced.iter().any(|r| name.is(r)) {
                out.push(b',');
                json::write_str(&mut out, &name.text());
                out.push(b':');
                out.extend_from_slice(value.text());
            }
        }
        out.push(b'}');
        out
    }
}

fn message(error: &[u8]) -> String {
    Value::new(error).get("message").and_then(Value::as_str).unwrap_or_default().chars().take(200).collect()
}

/// Whether a CLI server says that it has no such session.
pub(crate) fn is_not_found(error: &[u8]) -> bool {
    message(error).to_ascii_lowercase().contains("not found")
}

/// Brings a dormant session back; does nothing for any other.
pub(crate) async fn revive(client: &Arc<Client>, id: &SessionId) -> Result<(), Refusal> {
    // One at a time, so that two calls do not attach one session twice.
    let one = client.reviving().lock().await;
    let Some(route) = client.dormant(id) else { return Ok(()) };
    let (since, session) = (Instant::now(), route.session.clone());
    let back = attach_again(client, route).await;
    // Two clients that wake each other must not wait for each other.
    drop(one);
    metrics::resumed(if back.is_ok() { "resumed" } else { "failed" }, since.elapsed());
    let server = back?;
    info!(session = %id, backend = %server, took_ms = since.elapsed().as_millis() as u64, "session resumed");
    idle::wake_others(client, &session).await;
    Ok(())
}

async fn attach_again(client: &Arc<Client>, route: Route) -> Result<ServerId, Refusal> {
    let spot = placing::of(client, &route.session).await?;
    let (leg, id) = (&spot.leg, route.id().clone());
    // Its events come before the reply; they are let through from now on.
    leg.route(route.clone());
    let goes_on = unfinished::can_go_on(&route, leg).await;
    if !goes_on {
        give_up(client, &route);
    }
    if let Err(refusal) = route.attach_again(leg, goes_on).await {
        give_up(client, &route);
        // It may go on for others who have lost it; not for this client.
        tell_lost(client, &route);
        leg.unroute(&id, Outcome::Aborted);
        return Err(refusal);
    }
    if goes_on && !route.session.turns_go_on(leg.id()) {
        give_up(client, &route);
        // It took too long: the client has heard that its turn is lost. Awaited, for an abort drops what waits, and
        // the client may ask for the next.
        let named = serde_json::json!({ "sessionId": id }).to_string();
        let _ = leg.call("session.abort", named.as_bytes()).await;
    }
    route.since().hope = None;
    if !client.awake_on(leg, &route.session) {
        return Err(Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER));
    }
    Ok(leg.server().id().clone())
}

/// If a turn that the client has lost was to go on and has not yet, it does not any more. If it does not, by whomever
/// that was given up, the client hears so.
fn give_up(client: &Client, route: &Route) {
    let hope = route.since().hope.clone();
    if hope.is_some_and(|hope| route.session.give_up(&hope)) {
        tell_lost(client, route);
    }
}

/// Tells the client that its turn is lost, unless it has heard so.
fn tell_lost(client: &Client, route: &Route) {
    let mut since = route.since();
    if since.hope.take().is_some() {
        since.requests.lapse();
        drop(since);
        let mut out = Vec::new();
        relay::write_turn_lost(&route.session, &mut out);
        let _ = client.send(&out);
    }
}

/// Brings back all that a client had attached when its CLI process was lost, so that what other clients do in
/// those sessions reaches it. What fails stays dormant until it is used. What is `stranded` has turns that may go on.
pub(crate) fn revive_all(client: Arc<Client>, stranded: Vec<Route>) {
    let tracker = client.tracker().clone();
    if !stranded.is_empty() {
        let client = client.clone();
        tracker.spawn(async move {
            sleep(TOLD_WITHIN).await;
            stranded.iter().for_each(|route| give_up(&client, route));
        });
    }
    tracker.spawn(async move {
        for id in client.all_dormant() {
            if client.is_gone() || client.core().drain.is_draining() {
                return;
            }
            if let Err(refusal) = revive(&client, &id).await {
                warn!(session = %id, cause = crate::rescue::name(&refusal), "a session stays dormant");
            }
        }
    });
}
