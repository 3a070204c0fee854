//! A client's own connection to one CLI server.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use tracing::warn;

use jetway_config::SessionId;
use jetway_pool::{Attachment, Gone, Server, ServerId};
use jetway_wire::{
    Envelope, Id, Kind, Value, catalogue,
    envelope::{self, Request},
    event::Turn,
    json,
};

use super::{
    client::Client,
    cloud::Early,
    kept,
    pending::{Answer, Origin, Pending, Then, Waiting},
    registry::{News, Session},
    relay,
    revival::Route,
    turn::{LegId, Outcome},
};
use crate::{
    directory::Place,
    metrics,
    net::{
        self,
        writer::{Backlog, Writer},
    },
    stack::{Limit, RETRY_AFTER, Refusal},
};

/// How long a CLI server may take to answer what Jetway itself asks: `connect` takes a runtime that has just
/// started 20 ms, `session.resume` of a long session on a busy host some seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client's connection to a CLI server. Nobody else's frames travel on it.
pub(crate) struct Leg {
    id: LegId,
    server: Attachment,
    /// Whether all that lives on the server is the client's own user's.
    exclusive: bool,
    writer: Writer,
    pending: Mutex<Pending>,
    /// The sessions that the client has attached here: whose events it may see.
    routes: Mutex<HashMap<SessionId, Route, ahash::RandomState>>,
    /// Another client takes it over.
    heir: Notify,
    /// What that one is to see once it has resumed a session; boxed, for it hardly ever happens.
    inheritance: Mutex<Option<Box<Inheritance>>>,
    inherited: AtomicBool,
    /// What came of sessions whose ids are still to be told; boxed, for it hardly ever happens.
    early: Mutex<Option<Box<Early>>>,
}

/// What a client that takes a leg over comes into.
enum Inheritance {
    /// Nothing yet: the relay hands it over between two reads, so that nothing is lost or doubled.
    Of(Arc<Client>),
    /// Frames that wait for the reply to its `session.resume`.
    Frames(Vec<u8>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leg {
    /// Dials the server and introduces the client. Returns what the server said to that.
    pub(crate) async fn open(
        client: &Arc<Client>,
        server: Attachment,
    ) -> Result<(Arc<Self>, Answer), Refusal> {
        let unreachable = || Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER);
        let core = client.core();
        let stream = server.dial().await.map_err(|error| {
            warn!(backend = %server.id(), %error, "dialling");
            unreachable()
        })?;
        net::prepare(&stream);
        let (read, write) = stream.into_split();
        static LAST: AtomicU64 = AtomicU64::new(0);
        let leg = Arc::new(Self {
            id: LegId(LAST.fetch_add(1, Ordering::Relaxed)),
            exclusive: core.exclusive() && *server.id() == ServerId::of_user(client.who()),
            server,
            writer: Writer::new(write, core.live().limits.stalled_write_timeout),
            pending: Mutex::default(),
            routes: Mutex::default(),
            heir: Notify::new(),
            inheritance: Mutex::default(),
            inherited: AtomicBool::new(false),
            early: Mutex::default(),
        });
        relay::spawn(leg.clone(), client.clone(), read);
        let answer = leg.introduce(client).await.map_err(|_| unreachable())?;
        Ok((leg, answer))
    }

    /// Repeats the client's `connect`, with the server's token in place of the client's.
    async fn introduce(&self, client: &Client) -> Result<Answer, Refusal> {
        let mut params = Vec::with_capacity(256);
        params.push(b'{');
        if let Some(token) = self.server.token() {
            params.extend_from_slice(b"\"token\":");
            json::write_str(&mut params, token.expose());
        }
        for (name, value) in Value::new(client.hello()).members().filter(|(name, _)| !name.is("token")) {
            if params.len() > 1 {
                params.push(b',');
            }
            json::write_str(&mut params, &name.text());
            params.push(b':');
            params.extend_from_slice(value.text());
        }
        params.push(b'}');
        self.call("connect", &params).await
    }

    /// Asks the server on Jetway's own account. A server that does not answer in time is given up.
    pub(crate) async fn call(&self, method: &str, params: &[u8]) -> Result<Answer, Refusal> {
        let (tx, rx) = oneshot::channel();
        let answer = &catalogue::Answer::AsIs;
        let waiting = Waiting { origin: Origin::Jetway(tx), then: Then::Nothing, answer, sent: None };
        let id = lock(&self.pending).insert(waiting).map_err(|_| lost())?;
        let mut out = Vec::with_capacity(params.len() + 96);
        envelope::write_request(&mut out, &id, method, params);
        let answered = async {
            if self.writer.send(&out) == Backlog::Some {
                let _ = self.writer.drained().await;
            }
            rx.await.map_err(|_| lost())
        };
        match timeout(CALL_TIMEOUT, answered).await {
            Ok(answer) => answer,
            Err(_) => {
                self.writer.give_up();
                Err(lost())
            }
        }
    }

    pub(crate) fn id(&self) -> LegId {
        self.id
    }

    /// The server at its other end.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Waits until the server is gone, and tells why.
    pub(crate) async fn gone(&self) -> Gone {
        self.server.closed().await
    }

    /// Whether all that lives on the server is the client's own user's.
    pub(crate) fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// The server as the directory knows it.
    pub(crate) fn place(&self) -> Place {
        let group = self.server.state().map(|state| state.as_str().to_owned());
        Place { server: self.server.id().to_string(), group, exclusive: self.exclusive }
    }

    /// Sends a request on, unless `limit` of them wait already. The reply goes to who waits by way of the
    /// relay. What was not sent is given back; so is what is about a session that was put to rest meanwhile.
    pub(crate) fn forward(
        &self,
        request: &Request,
        about: Option<&SessionId>,
        waiting: Waiting,
        limit: usize,
    ) -> Result<Backlog, Box<Unsent>> {
        let unsent = |why, Waiting { origin, then, .. }| Err(Box::new(Unsent { why, origin, then }));
        let id = {
            let mut pending = lock(&self.pending);
            if about.is_some_and(|session| pending.rests(session)) {
                return unsent(None, waiting);
            }
            if pending.len() >= limit {
                return unsent(Some(Refusal::Overloaded(Limit::InFlight, RETRY_AFTER)), waiting);
            }
            if pending.has(request.id()) {
                let why = "a request of this id still awaits its reply".into();
                return unsent(Some(Refusal::Invalid(envelope::code::INVALID_REQUEST, why)), waiting);
            }
            match pending.insert(waiting) {
                Ok(id) => id,
                Err(waiting) => return unsent(None, waiting),
            }
        };
        let mut out = Vec::with_capacity(request.len() + 64);
        request.write_as(&id, &mut out);
        Ok(self.writer.send(&out))
    }

    /// Sends a client's answer on, under the id that the server gave its question.
    pub(crate) fn answer(&self, id: &Id, answer: &Envelope<'_>) -> Backlog {
        let mut out = Vec::with_capacity(answer.body().len() + 64);
        answer.write_as(id, &mut out);
        self.writer.send(&out)
    }

    /// Asks something else on behalf of who waits. Gives it back when the leg is lost.
    pub(crate) fn ask_instead(&self, request: &Request, waiting: Waiting) -> Result<(), Waiting> {
        let id = lock(&self.pending).insert(waiting)?;
        let mut out = Vec::with_capacity(request.len() + 64);
        request.write_as(&id, &mut out);
        // One request for another: the bound on what waits for the server holds.
        let _ = self.writer.send(&out);
        Ok(())
    }

    /// Tells the server that nobody answers what it asked.
    pub(crate) fn refuse(&self, id: &Id) -> Backlog {
        let mut out = Vec::new();
        envelope::write_error(
            &mut out,
            Some(id),
            envelope::code::METHOD_NOT_FOUND,
            "no client for this request",
            None,
        );
        self.writer.send(&out)
    }

    /// Waits until the server has taken all.
    pub(crate) async fn drained(&self) -> std::io::Result<()> {
        self.writer.drained().await
    }

    /// The request that a reply of the server answers.
    pub(crate) fn replied(&self, id: &Id) -> Option<Waiting> {
        lock(&self.pending).remove(id)
    }

    /// Whether that session is attached here.
    pub(crate) fn has(&self, session: &Session) -> bool {
        lock(&self.routes).get(&session.key.id).is_some_and(|route| std::ptr::eq(&*route.session, session))
    }

    /// Says something to the server on Jetway's own account; whatever it answers, nobody waits for it.
    pub(crate) fn tell(&self, method: &str, params: &[u8]) {
        let origin = Origin::Jetway(oneshot::channel().0);
        let waiting = Waiting { origin, then: Then::Nothing, answer: &catalogue::Answer::AsIs, sent: None };
        let Ok(id) = lock(&self.pending).insert(waiting) else { return };
        let mut out = Vec::with_capacity(params.len() + 96);
        envelope::write_request(&mut out, &id, method, params);
        let _ = self.writer.send(&out);
    }

    /// Lets a session's events through. Returns whether they were not let through before.
    pub(crate) fn route(&self, route: Route) -> bool {
        let session = route.session.clone();
        lock(&self.pending).wake(route.id());
        let before = lock(&self.routes).insert(route.id().clone(), route.clone());
        // What is open stays open.
        if let Some(before) = &before {
            before.requests(|old| route.requests(|new| std::mem::swap(old, new)));
        }
        let new = before.is_none();
        if new {
            if session.attach() {
                self.server.served_session();
            }
            metrics::sessions_attached(1);
        }
        new
    }

    /// Lets them through no longer.
    pub(crate) fn unroute(&self, id: &SessionId, why: Outcome) {
        let route = lock(&self.routes).remove(id);
        if let Some(route) = route {
            route.session.detach(why);
            metrics::sessions_attached(-1);
        }
    }

    /// Follows a session's turn by one of its messages.
    pub(crate) fn follow<'a>(
        &self,
        id: &str,
        turn: Turn,
        params: impl FnOnce() -> Option<Value<'a>>,
    ) -> Followed {
        let routes = lock(&self.routes);
        let Some(route) = routes.get(id) else { return Followed::Strange };
        match route.session.follow(turn, self.id, params) {
            News::Nothing => Followed::Attached,
            News::First(after) => {
                self.server.spoke_after(after);
                Followed::Attached
            }
            News::Doubt => Followed::Doubtful(route.session.clone()),
        }
    }

    /// Keeps in mind what a request changed about a session, for when it must be attached again.
    pub(crate) fn remember(&self, id: &SessionId, method: &'static str, params: &[u8]) {
        if let Some(route) = lock(&self.routes).get(id) {
            route.remember(method, params);
        }
    }

    /// The session of that name that is attached here.
    pub(crate) fn route_to(&self, id: &str) -> Option<Route> {
        lock(&self.routes).get(id).cloned()
    }

    /// The sessions with a turn that would go with this leg.
    pub(crate) fn running(&self) -> Vec<Arc<Session>> {
        let routes = lock(&self.routes);
        routes.values().map(|r| &r.session).filter(|s| s.runs_on(self.id)).cloned().collect()
    }

    /// Whether a turn runs that would go with it.
    pub(crate) fn runs_turns(&self) -> bool {
        !self.is_closed() && lock(&self.routes).values().any(|route| route.session.runs_on(self.id))
    }

    /// Its client is gone: nobody waits for replies any more.
    pub(crate) fn orphan(&self) {
        lock(&self.pending).orphan();
        self.inherited.store(false, Ordering::Release);
    }

    /// Gives it to another client, from the relay's next look on.
    pub(crate) fn bequeath(&self, heir: Arc<Client>) {
        *lock(&self.inheritance) = Some(Box::new(Inheritance::Of(heir)));
        self.inherited.store(true, Ordering::Release);
        self.heir.notify_one();
    }

    /// Whether another client has taken it.
    pub(crate) fn was_inherited(&self) -> bool {
        self.inherited.load(Ordering::Acquire)
    }

    /// Waits until another client takes it.
    pub(crate) async fn bequeathed(&self) {
        self.heir.notified().await;
    }

    /// Hands what `old` missed, and what it was asked and has not answered, to the client that takes over.
    pub(crate) fn hand_over(self: &Arc<Self>, old: &Client) -> Option<Arc<Client>> {
        let heir = match lock(&self.inheritance).take().map(|i| *i) {
            Some(Inheritance::Of(heir)) => heir,
            _ => return None,
        };
        let mut frames = old.missed();
        lock(&self.routes).values().for_each(|r| r.requests(|requests| requests.take_over(&mut frames)));
        for question in old.questions_of(self) {
            let (body, leg) = (question.body.clone(), question.leg.clone());
            match (Envelope::trusted(&body), heir.ask(question)) {
                (Ok(message), Some(seen)) => message.write_as(&seen, &mut frames),
                (Ok(Envelope { kind: Kind::Request { id, .. }, .. }), None) => drop(leg.refuse(&id)),
                _ => {}
            }
        }
        *lock(&self.inheritance) = Some(Box::new(Inheritance::Frames(frames)));
        Some(heir)
    }

    /// Keeps frames back until the client that took over has resumed. Gives them back if it has, or need not.
    pub(crate) fn keep_back<'a>(&self, more: &'a [u8]) -> Option<&'a [u8]> {
        match lock(&self.inheritance).as_deref_mut() {
            Some(Inheritance::Frames(frames)) => {
                if frames.len() + more.len() <= kept::MISSED_BYTES {
                    frames.extend_from_slice(more);
                }
                None
            }
            _ => Some(more),
        }
    }

    /// The client that took over has resumed, or cannot: what was kept back.
    pub(crate) fn inheritance(&self) -> Vec<u8> {
        match lock(&self.inheritance).take().map(|i| *i) {
            Some(Inheritance::Frames(frames)) => frames,
            _ => Vec::new(),
        }
    }

    /// Keeps an event of a session that is not known, if the server is about to tell an id. Returns whether it did.
    pub(super) fn keep_early(&self, raw: &[u8], body: &[u8]) -> bool {
        let learns = lock(&self.pending).learns();
        if learns {
            lock(&self.early).get_or_insert_default().keep(raw, body);
        }
        learns
    }

    /// Takes what was kept; and whether the server is to tell more ids.
    pub(super) fn take_early(&self) -> (Early, bool) {
        let early = lock(&self.early).take().map_or_else(Early::default, |early| *early);
        (early, lock(&self.pending).learns())
    }

    /// Keeps it further.
    pub(super) fn put_early(&self, early: Early) {
        if !early.is_empty() {
            *lock(&self.early) = Some(Box::new(early));
        }
    }

    /// Whether nothing waits for the server.
    pub(crate) fn waits_for_nothing(&self) -> bool {
        lock(&self.pending).len() == 0
    }

    /// Lets a session's events through no longer and gives back what it takes to attach it again; if no turn of it
    /// runs and nothing waits for the server. A call about it that comes too late is not sent.
    pub(crate) fn rest(&self, session: &Session) -> Option<Route> {
        let mut pending = lock(&self.pending);
        if pending.is_closed() || pending.len() > 0 {
            return None;
        }
        let mut routes = lock(&self.routes);
        if !routes.contains_key(&session.key.id) || !session.detach_if_idle() {
            return None;
        }
        pending.rest(&session.key.id);
        metrics::sessions_attached(-1);
        routes.remove(&session.key.id)
    }

    /// The server has let go of a session without a word: what is known of it here goes to rest. Gives back what it
    /// takes to attach it again.
    pub(crate) fn forget(&self, session: &Session) -> Option<Route> {
        let mut pending = lock(&self.pending);
        let route = lock(&self.routes).remove(&session.key.id)?;
        pending.rest(&session.key.id);
        metrics::sessions_attached(-1);
        Some(route)
    }

    /// Whether a session was put to rest here.
    pub(crate) fn rests(&self, session: &Session) -> bool {
        lock(&self.pending).rests(&session.key.id)
    }

    /// Ends it. Whoever reads from it tells its client.
    pub(crate) fn give_up(&self) {
        self.writer.give_up();
    }

    /// How many sessions the client has attached here.
    pub(crate) fn sessions(&self) -> usize {
        lock(&self.routes).len()
    }

    /// Whether it is lost or left.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.pending).is_closed()
    }

    /// Whether nothing waits for the server and no turn runs on it.
    pub(crate) fn is_quiet(&self) -> bool {
        let pending = lock(&self.pending);
        pending.len() == 0 && lock(&self.routes).values().all(|route| !route.session.is_running())
    }

    /// Closes it if it is quiet, and gives back what was attached. A call that comes too late is not sent.
    pub(crate) fn let_go(&self) -> Option<Vec<Route>> {
        {
            let mut pending = lock(&self.pending);
            let quiet = pending.len() == 0 && lock(&self.routes).values().all(|r| !r.session.is_running());
            if !quiet {
                return None;
            }
            pending.close().for_each(drop);
        }
        Some(self.close().1)
    }

    /// Closes it if nothing waits for the server and no session is attached here. A call that comes too late is
    /// not sent. Returns whether it did.
    pub(crate) fn close_if_unused(&self) -> bool {
        {
            let mut pending = lock(&self.pending);
            if pending.len() > 0 || !lock(&self.routes).is_empty() {
                return false;
            }
            pending.close().for_each(drop);
        }
        self.close();
        true
    }

    /// Takes what waits for the server, and the sessions attached here. Nothing can be added afterwards.
    pub(crate) fn close(&self) -> (Vec<Waiting>, Vec<Route>) {
        self.writer.give_up();
        let waiting = lock(&self.pending).close().collect();
        let routes: Vec<_> = std::mem::take(&mut *lock(&self.routes)).into_values().collect();
        routes.iter().for_each(|_| metrics::sessions_attached(-1));
        (waiting, routes)
    }
}

/// Whose a session's message is.
pub(crate) enum Followed {
    /// The client does not have the session attached here.
    Strange,
    /// It does.
    Attached,
    /// It does, and the CLI server is to be asked about its turns.
    Doubtful(Arc<Session>),
}

fn lost() -> Refusal {
    Refusal::Indeterminate { session: None, turn: None }
}

/// A request that was not sent.
pub(crate) struct Unsent {
    /// Why not; `None`: the leg is closed, and another may take it.
    pub(crate) why: Option<Refusal>,
    pub(crate) origin: Origin,
    pub(crate) then: Then,
}
