//! What happens to a user's sessions, as server-sent events: whichever face made them, and at whichever gateway of those
//! that share a directory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use axum::{extract::State, http::HeaderMap, response::Response};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    time::{Instant, interval},
};
use tracing::warn;

use jetway_config::{Identity, TenantId, UserId, stores::DirectoryStore};

use super::{
    Face,
    caller::Admitted,
    events,
    fault::{Fault, Kind},
    hub::{
        EventId, Over, Pulse, Source, Subscription,
        hubs::Numbers,
        ring::{Event, Moved, Ring, Room},
    },
    rfc3339,
    welcome::Welcome,
};
use crate::directory::{Entry, Key, News, Told, UnixMs, What};

/// How many events are kept of a user's sessions, and how many bytes of them: an hour of a busy person.
const KEPT: Room = Room { events: 1024, bytes: 256 << 10 };
/// How long they are kept when nobody reads them.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How often those are looked for.
const LOOK: Duration = Duration::from_secs(60);
/// How many users' events are kept.
const USERS: usize = 10_000;

/// What happens to your sessions, and to those shared with you, from now on or from `Last-Event-ID` on.
#[utoipa::path(
    get, path = "/events", operation_id = "lifecycle_events", tag = "sessions",
    params(("last-event-id" = Option<String>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "`session.created`, `.updated`, `.deleted`, `.foreground` and `.background`, without an end",
        body = String, content_type = "text/event-stream")),
)]
pub(super) async fn subscribe(
    State(face): State<Arc<Face>>,
    Admitted(caller): Admitted,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let place = events::place(&headers)?;
    let feed = face.lifecycles.of(&caller.who)?;
    let subscription = Subscription::new(feed, place);
    Ok(events::of_all(subscription, Welcome::new(&face.core, caller, None)))
}

/// All users who read, or have read lately.
pub(super) struct Lifecycles {
    tenants: Mutex<HashMap<TenantId, HashMap<UserId, Held>>>,
    numbers: Numbers,
}

struct Held {
    feed: Arc<Feed>,
    used: Instant,
}

/// What happens to a user's sessions.
struct Feed {
    ring: Mutex<Ring>,
    pulse: watch::Sender<Pulse>,
}

impl Source for Feed {
    fn after(&self, place: EventId, most: usize) -> Result<Vec<Arc<Event>>, Moved> {
        self.ring().after(place, most)
    }

    fn snapshot(&self) -> (EventId, Value) {
        (self.ring().last(), json!({ "sessions_url": "/api/v1/sessions" }))
    }

    fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }
}

impl Feed {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is kept, and wakes readers.
    fn change(&self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.ring());
        self.pulse.send_modify(|_| ());
    }
}

impl Lifecycles {
    pub(super) fn new() -> Self {
        Self { tenants: Mutex::default(), numbers: Numbers::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, HashMap<UserId, Held>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to the user's sessions. It is kept from the first time on that somebody asks.
    fn of(&self, who: &Identity) -> Result<Arc<Feed>, Fault> {
        let now = Instant::now();
        let mut tenants = self.lock();
        let held: usize = tenants.values().map(HashMap::len).sum();
        let users = tenants.entry(who.tenant.clone()).or_default();
        if let Some(held) = users.get_mut(&who.user) {
            held.used = now;
            return Ok(held.feed.clone());
        }
        if held >= USERS {
            let why = "Too many users follow their sessions";
            return Err(Fault::new(Kind::Overloaded, why).retry_after(Duration::from_secs(10)));
        }
        let ring = Mutex::new(Ring::new(self.numbers.latest(), KEPT));
        let feed = Arc::new(Feed { ring, pulse: watch::Sender::default() });
        users.insert(who.user.clone(), Held { feed: feed.clone(), used: now });
        Ok(feed)
    }

    /// Whether anybody of the tenant would hear of it.
    fn anybody_of(&self, tenant: &TenantId) -> bool {
        self.lock().contains_key(tenant)
    }

    /// Tells those of `users` who read.
    fn tell<'a>(
        &self,
        tenant: &TenantId,
        users: impl IntoIterator<Item = &'a UserId>,
        kind: &str,
        data: &Value,
    ) {
        let tenants = self.lock();
        let Some(known) = tenants.get(tenant) else { return };
        let feeds: Vec<_> =
            users.into_iter().filter_map(|user| known.get(user)).map(|h| h.feed.clone()).collect();
        if feeds.is_empty() {
            return;
        }
        let data = bytes::Bytes::from(data.to_string());
        let event = Event { id: self.numbers.next(), kind: kind.into(), data };
        feeds.iter().for_each(|feed| feed.change(|ring| ring.push(event.clone())));
    }

    /// Something may have happened that nobody can tell of.
    fn lost(&self) {
        let at = self.numbers.next();
        for held in self.lock().values().flat_map(HashMap::values) {
            held.feed.change(|ring| ring.interrupt(at));
        }
    }

    fn sweep(&self, now: Instant) {
        let mut tenants = self.lock();
        for users in tenants.values_mut() {
            users.retain(|_, held| {
                if held.feed.pulse.receiver_count() > 0 {
                    held.used = now;
                }
                now - held.used <= REMEMBERED
            });
        }
        tenants.retain(|_, users| !users.is_empty());
    }

    fn close(&self) {
        for held in self.lock().drain().flat_map(|(_, users)| users.into_values()) {
            held.feed.pulse.send_replace(Pulse { over: Some(Over::Stopping) });
        }
    }
}

/// Tells what the directory tells, until connections are to be closed.
pub(super) async fn follow(face: Arc<Face>) {
    let closing = face.core.drain.closing().clone();
    let mut news = face.core.directory.listen();
    let mut looks = interval(LOOK);
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            _ = looks.tick() => face.lifecycles.sweep(Instant::now()),
            told = news.recv() => match told {
                Ok(Told::News(news)) => face.spread(&news).await,
                Ok(Told::Lost) | Err(RecvError::Lagged(_)) => face.lifecycles.lost(),
                Err(RecvError::Closed) => break,
            },
        }
    }
    face.lifecycles.close();
}

impl Face {
    async fn spread(&self, news: &News) {
        let several = self.core.config.directory.store == DirectoryStore::Redis;
        for key in &news.keys {
            // Another gateway may have changed who takes part in what is read here.
            let read = several && self.hubs.held(&key.owner, &key.id).is_some_and(|hub| hub.is_read());
            if !self.lifecycles.anybody_of(&key.owner.tenant) && !read {
                continue;
            }
            if news.what == What::Deleted {
                let owner = [key.owner.user.clone()];
                let to = news.to.as_deref().unwrap_or(&owner);
                self.lifecycles.tell(&key.owner.tenant, to, name(news.what), &gone(news.what, key));
                continue;
            }
            match self.core.directory.find(&key.owner, &key.id).await {
                // What is not made yet may never be.
                Ok(Some(entry)) if entry.key == *key && entry.confirmed => {
                    if let Some(session) = self.core.registry.find(&key.owner, &key.id).filter(|_| read) {
                        session.shared_with(entry.members.clone().into());
                    }
                    self.announce(news, &entry);
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "looking up a session that something happened to");
                    self.lifecycles.lost();
                }
            }
        }
    }

    fn announce(&self, news: &News, entry: &Entry) {
        let owner = &entry.key.owner;
        let people = || std::iter::once(&owner.user).chain(entry.members.iter().map(|m| &m.user));
        // Who was to hear of it may take part no more.
        let to: Vec<_> =
            people().filter(|user| news.to.as_ref().is_none_or(|to| to.contains(user))).collect();
        self.lifecycles.tell(&owner.tenant, to, name(news.what), &there(news.what, entry));
    }
}

/// The CLI's own name for it.
fn name(what: What) -> &'static str {
    match what {
        What::Created => "session.created",
        What::Updated => "session.updated",
        What::Deleted => "session.deleted",
        What::Foreground => "session.foreground",
        What::Background => "session.background",
    }
}

/// As the CLI tells of what is there, and whose it is.
fn there(what: What, entry: &Entry) -> Value {
    let time = |at: UnixMs| rfc3339(UNIX_EPOCH + Duration::from_millis(at.0));
    let mut event = gone(what, &entry.key);
    let mut metadata = json!({ "startTime": time(entry.created), "modifiedTime": time(entry.updated) });
    if let Some(name) = &entry.name {
        metadata["summary"] = json!(name.as_str());
    }
    event["metadata"] = metadata;
    event
}

/// As the CLI tells of what is not there any more.
fn gone(what: What, key: &Key) -> Value {
    json!({ "type": name(what), "sessionId": key.id, "user": key.owner.user })
}
