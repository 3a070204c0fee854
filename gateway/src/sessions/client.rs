//! A client: a connection of somebody's application, or a part of Jetway that acts as one, and its legs to CLI
//! servers.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::warn;

use jetway_config::{Identity, SessionId};
use jetway_pool::{PoolError, ServerId, Whose};
use jetway_wire::{Envelope, Id};

use super::{
    asked::{Asked, Question},
    bounds, kept,
    leg::Leg,
    outlet::Outlet,
    pending::{Answer, Waiting},
    registry::{Registry, Session},
    relay,
    revival::{self, Route, Told},
    turn::Outcome,
    waiting::Calls,
};
use crate::{
    app::Core,
    auth::Caller,
    directory::{Entry, Key, UnixMs},
    net::writer::Backlog,
    stack::{Limit, RETRY_AFTER, Refusal, Wish},
};

/// How often a home is looked for when the CLI process turns out to be gone.
const HOME_TRIES: u32 = 5;
/// The pause between: an ended process is noticed within milliseconds.
const HOME_PAUSE: Duration = Duration::from_millis(20);

/// A connection of a known user.
pub(crate) struct Client {
    caller: Caller,
    /// The params of its `connect`, repeated on every leg.
    hello: Box<[u8]>,
    outlet: Outlet,
    core: Arc<Core>,
    legs: Mutex<Legs>,
    asked: Mutex<Asked>,
    pub(super) waiting: Calls,
    /// The sessions whose CLI process is gone, and what it takes to bring them back.
    dormant: Mutex<HashMap<SessionId, Route>>,
    /// Held while one is brought back.
    reviving: tokio::sync::Mutex<()>,
    /// Held while a leg is opened, so that two calls do not open two.
    opening: tokio::sync::Mutex<()>,
    /// What a new CLI process of its own must hear again.
    told: Mutex<Vec<Told>>,
    /// When it was last heard of, or its CLI server last spoke to it.
    used: Mutex<Instant>,
    gone: AtomicBool,
    /// What was to be sent since.
    missed: Mutex<Vec<u8>>,
    revoked: AtomicBool,
}

#[derive(Default)]
struct Legs {
    all: Vec<Arc<Leg>>,
    /// The one to the user's own CLI server.
    home: Option<Arc<Leg>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    pub(crate) fn new(
        caller: impl Into<Caller>,
        hello: Box<[u8]>,
        outlet: Outlet,
        core: Arc<Core>,
    ) -> Arc<Self> {
        let client = Arc::new(Self {
            caller: caller.into(),
            hello,
            outlet,
            core,
            legs: Mutex::default(),
            asked: Mutex::default(),
            waiting: Calls::default(),
            dormant: Mutex::default(),
            reviving: tokio::sync::Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            told: Mutex::default(),
            used: Mutex::new(Instant::now()),
            gone: AtomicBool::new(false),
            missed: Mutex::default(),
            revoked: AtomicBool::new(false),
        });
        client.core.clients.add(&client);
        client
    }

    /// Somebody uses it.
    pub(crate) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    pub(crate) fn used(&self) -> Instant {
        *lock(&self.used)
    }

    /// Whether its end is closed, though nobody has acted on that yet.
    pub(crate) fn has_hung_up(&self) -> bool {
        self.outlet.has_ended()
    }

    /// Its legs to that server.
    pub(crate) fn legs_to(&self, server: &ServerId) -> Vec<Arc<Leg>> {
        lock(&self.legs).all.iter().filter(|l| l.server().id() == server).cloned().collect()
    }

    /// How many of its sessions sleep until their next use.
    pub(crate) fn resting(&self) -> usize {
        lock(&self.dormant).len()
    }

    /// How many questions of CLI servers it has not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        lock(&self.asked).len()
    }

    pub(crate) fn has_legs(&self) -> bool {
        !lock(&self.legs).all.is_empty()
    }

    /// Whether it waits for nothing and nothing waits for it. Who serves its whole CLI process, with files or
    /// models, always does.
    pub(crate) fn is_quiet(&self) -> bool {
        lock(&self.told).is_empty()
            && lock(&self.asked).len() == 0
            && self.waiting.is_empty()
            && lock(&self.legs).all.iter().all(|l| l.is_quiet())
    }

    /// Closes its legs, if it is quiet. Its sessions sleep until their next use. Returns whether it was.
    pub(crate) fn let_go(&self) -> bool {
        if !self.is_quiet() {
            return false;
        }
        let legs = lock(&self.legs).all.clone();
        for leg in legs {
            let Some(routes) = self.put_to_rest(|| leg.let_go()) else { return false };
            routes.iter().for_each(|r| r.session.detach(Outcome::Completed));
            self.leave(&leg);
        }
        true
    }

    /// Whether a session that it has attached on that leg does nothing.
    pub(crate) fn may_rest(&self, leg: &Arc<Leg>, session: &Arc<Session>) -> bool {
        leg.waits_for_nothing()
            && !session.is_running()
            && lock(&self.asked).of(leg) == 0
            && !self.waiting.is_about(session)
    }

    /// Holds a session that does nothing back from a leg, until it is brought back. Returns whether it did.
    pub(crate) fn rest(&self, leg: &Arc<Leg>, session: &Arc<Session>) -> bool {
        self.may_rest(leg, session)
            && self.put_to_rest(|| leg.rest(session).map(|route| vec![route])).is_some()
    }

    /// Closes a leg on which it has no session and waits for nothing. Returns whether it did.
    pub(crate) fn leave_if_unused(&self, leg: &Arc<Leg>) -> bool {
        let asked = lock(&self.asked).of(leg);
        if asked > 0 || !leg.close_if_unused() {
            return false;
        }
        self.leave(leg);
        true
    }

    pub(crate) fn who(&self) -> &Identity {
        &self.caller.who
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn hello(&self) -> &[u8] {
        &self.hello
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.core.tracker
    }

    fn registry(&self) -> &Registry {
        &self.core.registry
    }

    /// Sends whole frames to the client.
    pub(crate) fn send(&self, frames: &[u8]) -> Backlog {
        if self.is_gone() {
            let mut missed = lock(&self.missed);
            if missed.len() + frames.len() <= kept::MISSED_BYTES {
                missed.extend_from_slice(frames);
            }
            return Backlog::None;
        }
        self.outlet.send(frames)
    }

    /// Waits until the client has taken all.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        self.outlet.drained().await
    }

    /// Whether the caller takes part in a session of that name on the leg's server.
    pub(crate) fn knows(&self, id: &str, leg: &Leg) -> bool {
        self.known(id, leg).is_some()
    }

    /// The session of that name on the leg's server, if the caller takes part in it.
    pub(crate) fn known(&self, id: &str, leg: &Leg) -> Option<Arc<Session>> {
        self.registry().known(self.who(), id, leg.server().id())
    }

    /// The leg's server made a session for the caller, under a name of its own choice; in the cloud, if it was made
    /// as somebody wished.
    pub(crate) fn found(&self, id: &SessionId, leg: &Leg, wish: Option<&Wish>) -> Arc<Session> {
        let key = Key { owner: self.who().clone(), id: id.clone() };
        let mut new = self.core.new_session(leg.place());
        new.ephemeral = wish.is_some_and(|wish| wish.ephemeral);
        let mut entry = Entry::new(key.clone(), &new, UnixMs::now());
        let members = wish.map_or(&[][..], |wish| &wish.members);
        entry.members = members.iter().filter(|m| m.user != key.owner.user).cloned().collect();
        self.core.audit.shared(&key.owner, id, &entry.members);
        self.core.scribe.found(&key, new, wish);
        let session = self.registry().hold(self.who(), &entry);
        if wish.is_some() {
            session.await_agent();
        }
        session.made();
        session
    }

    /// Forgets a session that is no more.
    pub(crate) fn forget(&self, session: &Session) {
        self.registry().forget(&session.key);
        self.core.scribe.gone(&session.key, session.removal());
        bounds::on_end(&self.core, session);
    }

    /// Notes a server's question; `None` when too many wait already.
    pub(crate) fn ask(&self, question: Question) -> Option<Id> {
        let mut asked = lock(&self.asked);
        (asked.len() < self.core.live().limits.max_in_flight).then(|| asked.ask(question))
    }

    /// Sends the client's answer to whichever server asked. An answer to nothing goes nowhere.
    pub(crate) async fn answer(&self, id: &Id, answer: &Envelope<'_>) -> io::Result<()> {
        let question = lock(&self.asked).answered(id);
        // Past the lease's deadline it may be another's turn that it would go to.
        match question.filter(|q| !q.session.as_ref().is_some_and(|s| s.is_stale())) {
            // Boxed: an idle connection has no space for it.
            Some(q) if q.leg.answer(&q.id, answer) == Backlog::Some => Box::pin(q.leg.drained()).await,
            _ => Ok(()),
        }
    }

    /// Whether that leg asked something that the client has not answered.
    pub(crate) fn is_asked_by(&self, leg: &Arc<Leg>) -> bool {
        lock(&self.asked).of(leg) > 0
    }

    /// Drops what was asked in a session's turn that is lost.
    pub(crate) fn forget_questions(&self, session: &Session) {
        lock(&self.asked).lapse(session);
    }

    /// The leg that a call to this session, or home, would take, if it stands already.
    pub(crate) fn standing_leg(&self, session: Option<&Session>) -> Option<Arc<Leg>> {
        match session {
            Some(session) if self.dormant(&session.key.id).is_some() => None,
            Some(session) => self.leg_to(session),
            None => self.home_leg(),
        }
    }

    fn home_leg(&self) -> Option<Arc<Leg>> {
        // A home that is being left takes nothing new.
        lock(&self.legs).home.clone().filter(|l| !l.is_closed() && !l.server().is_draining())
    }

    /// The leg to the user's own CLI server; opened if there is none.
    pub(crate) async fn home(self: &Arc<Self>) -> Result<Arc<Leg>, Refusal> {
        self.go_home().await.map(|(leg, _)| leg)
    }

    /// Opens the first leg, home, and returns what the CLI server said to the client's `connect`.
    pub(crate) async fn introduce(self: &Arc<Self>) -> Result<Answer, Refusal> {
        self.core.clients.see_off(self.who()).await;
        let (_, answer) = self.go_home().await?;
        answer.ok_or(Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER))
    }

    /// The leg home, and what the server said to the client's `connect` if it was opened for that.
    async fn go_home(self: &Arc<Self>) -> Result<(Arc<Leg>, Option<Answer>), Refusal> {
        let _one = self.opening.lock().await;
        if let Some(leg) = self.home_leg() {
            return Ok((leg, None));
        }
        let mut tries = 1..HOME_TRIES;
        loop {
            let server = self.core.home(self.who()).await.map_err(|error| refused(&error))?;
            let (id, life) = (server.id().clone(), server.incarnation());
            // A process that was started anew has its predecessor's id.
            if let Some(leg) = self.leg(&id).filter(|l| l.server().incarnation() == life) {
                self.settle_at(&leg);
                return Ok((leg, None));
            }
            match self.open(server).await {
                Ok((leg, answer)) => {
                    self.tell_again(&leg).await?;
                    self.settle_at(&leg);
                    return Ok((leg, Some(answer)));
                }
                // The process was lost and nobody had noticed yet.
                Err(_) if tries.next().is_some() => sleep(HOME_PAUSE).await,
                Err(refusal) => return Err(refusal),
            }
        }
    }

    async fn tell_again(&self, leg: &Leg) -> Result<(), Refusal> {
        let told = lock(&self.told).clone();
        for (method, params) in told {
            if leg.call(method, &params).await?.is_err() {
                warn!(method, "a new CLI process refused what its predecessor took");
            }
        }
        Ok(())
    }

    /// Keeps in mind what a request changed about the client's own CLI server.
    pub(crate) fn remember(&self, method: &'static str, params: &[u8]) {
        if revival::forgotten_at_home(method) {
            revival::note(&mut lock(&self.told), method, params);
        }
    }

    /// Holds the sessions of a leg that `close` closes, until they are brought back. At no moment is a session
    /// neither on its leg nor here.
    pub(crate) fn put_to_rest(&self, close: impl FnOnce() -> Option<Vec<Route>>) -> Option<Vec<Route>> {
        let mut dormant = lock(&self.dormant);
        let routes = close()?;
        dormant.extend(routes.iter().map(|r| (r.id().clone(), r.clone())));
        Some(routes)
    }

    pub(crate) fn dormant(&self, id: &SessionId) -> Option<Route> {
        lock(&self.dormant).get(id).cloned()
    }

    pub(crate) fn all_dormant(&self) -> Vec<SessionId> {
        lock(&self.dormant).keys().cloned().collect()
    }

    /// Leaves a session that sleeps without waking it. Returns whether it did: nothing of it may be under way.
    pub(crate) fn leave_asleep(&self, session: &Arc<Session>) -> bool {
        // Whoever holds it brings a session back.
        let Ok(_one) = self.reviving.try_lock() else { return false };
        let sleeps = self.dormant(&session.key.id).is_some_and(|route| !route.is_hopeful());
        if !sleeps || session.is_running() {
            return false;
        }
        self.give_up(session);
        self.awake(&session.key.id);
        true
    }

    /// A session's client attaches it again itself.
    pub(crate) fn awake(&self, id: &SessionId) {
        forget(&mut lock(&self.dormant), id);
    }

    /// A session is attached again on that leg. Returns whether it still is: a leg that was lost in this very moment
    /// has put it to rest once more.
    pub(crate) fn awake_on(&self, leg: &Leg, session: &Session) -> bool {
        // The lock under which a leg gives its sessions back.
        let mut dormant = lock(&self.dormant);
        let there = leg.has(session);
        if there {
            forget(&mut dormant, &session.key.id);
        }
        there
    }

    pub(crate) fn reviving(&self) -> &tokio::sync::Mutex<()> {
        &self.reviving
    }

    fn settle_at(&self, home: &Arc<Leg>) {
        lock(&self.legs).home = Some(home.clone()).filter(|l| !l.is_closed());
    }

    /// The leg to the server on which a session lives; home, if that server is no more.
    pub(crate) async fn leg_of(self: &Arc<Self>, session: &Session) -> Result<Arc<Leg>, Refusal> {
        revival::revive(self, &session.key.id).await?;
        self.leg_at(session).await
    }

    /// The same, as it is attached there.
    pub(crate) async fn leg_at(self: &Arc<Self>, session: &Session) -> Result<Arc<Leg>, Refusal> {
        let mut tries = 1..HOME_TRIES;
        loop {
            if let Some(leg) = self.leg_to(session) {
                return Ok(leg);
            }
            let server = match self.core.pool.attach(&session.server()) {
                Ok(server) => server,
                // Another's process may have to be started first.
                Err(_) if self.core.exclusive() && !session.is_of(self.who()) => {
                    self.core.home(&session.key.owner).await.map_err(|e| refused(&e))?
                }
                Err(_) => return self.home().await,
            };
            match self.open(server).await {
                Ok((leg, _)) => return Ok(leg),
                // The process was lost and nobody had noticed yet.
                Err(_) if self.core.exclusive() && tries.next().is_some() => sleep(HOME_PAUSE).await,
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The leg to a given server; opened if there is none.
    pub(crate) async fn leg_on(
        self: &Arc<Self>,
        server: jetway_pool::Attachment,
    ) -> Result<Arc<Leg>, Refusal> {
        match self.leg(server.id()).filter(|leg| leg.server().incarnation() == server.incarnation()) {
            Some(leg) => Ok(leg),
            None => self.open(server).await.map(|(leg, _)| leg),
        }
    }

    fn leg(&self, server: &ServerId) -> Option<Arc<Leg>> {
        lock(&self.legs).all.iter().find(|l| l.server().id() == server && !l.is_closed()).cloned()
    }

    /// The leg for calls to a session: the one on which it is attached, else any to its server.
    fn leg_to(&self, session: &Session) -> Option<Arc<Leg>> {
        let server = session.server();
        let legs = lock(&self.legs);
        let mut there = legs.all.iter().filter(|l| *l.server().id() == server && !l.is_closed());
        let first = there.next()?;
        // There are two only when one was taken over.
        Some(there.find(|leg| leg.has(session)).unwrap_or(first).clone())
    }

    async fn open(self: &Arc<Self>, server: jetway_pool::Attachment) -> Result<(Arc<Leg>, Answer), Refusal> {
        let (leg, answer) = Leg::open(self, server).await?;
        lock(&self.legs).all.push(leg.clone());
        // It may have been lost before it was noted, or the client may have gone meanwhile.
        if leg.is_closed() || self.is_gone() {
            self.leave(&leg);
            leg.close();
        }
        Ok((leg, answer))
    }

    /// The leg on which it has that session attached.
    pub(crate) fn leg_with(&self, session: &Session) -> Option<Arc<Leg>> {
        lock(&self.legs).all.iter().find(|leg| leg.has(session)).cloned()
    }

    /// Drops a leg that is lost, and the questions that came by it.
    pub(crate) fn leave(&self, leg: &Arc<Leg>) {
        let mut legs = lock(&self.legs);
        legs.all.retain(|l| !Arc::ptr_eq(l, leg));
        legs.home.take_if(|l| Arc::ptr_eq(l, leg));
        drop(legs);
        lock(&self.asked).forget(leg);
    }

    /// Whether it has that session attached, or would bring it back unseen.
    pub(crate) fn has_attached(&self, id: &SessionId) -> bool {
        self.dormant(id).is_some()
            || lock(&self.legs).all.iter().any(|l| !l.is_closed() && l.route_to(id.as_str()).is_some())
    }

    /// How many sessions it has attached, on all its legs; those that rest are too, as far as it knows.
    pub(crate) fn sessions(&self) -> usize {
        let attached: usize = lock(&self.legs).all.iter().map(|l| l.sessions()).sum();
        attached + self.resting()
    }

    /// Nothing vouches for it any more: its connection ends, whatever it does.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.outlet.give_up();
        self.close();
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The client is done: its legs are closed, and with them its sessions, unless others hold them.
    pub(crate) fn close(&self) {
        for (_, routes) in self.end() {
            routes.iter().for_each(|r| r.session.detach(Outcome::Aborted));
        }
    }

    /// The client's socket has ended without a word. Turns of its own run on for a while.
    pub(crate) fn vanish(self: &Arc<Self>) {
        let keep = !self.core.config.pool.keep_turns.is_zero() && !self.core.drain.closing().is_cancelled();
        if !keep || !lock(&self.legs).all.iter().any(|leg| leg.runs_turns()) {
            return self.close();
        }
        self.gone.store(true, Ordering::Release);
        self.core.clients.remove(self);
        self.waiting.leave();
        for leg in std::mem::take(&mut *lock(&self.legs)).all {
            if leg.runs_turns() {
                self.core.kept.keep(self, leg);
            } else {
                lock(&self.asked).forget(&leg);
                leg.close().1.iter().for_each(|r| r.session.detach(Outcome::Aborted));
            }
        }
    }

    /// Goes on with a session of this user's whose client has vanished in the middle of a turn, if there is one.
    pub(crate) fn take_over(self: &Arc<Self>, session: &Session) {
        if let Some(leg) = self.core.kept.take(self.who(), session) {
            leg.bequeath(self.clone());
            lock(&self.legs).all.push(leg);
        }
    }

    /// What was to be sent since it is gone.
    pub(crate) fn missed(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.missed))
    }

    /// Gives up what that leg asked it.
    pub(crate) fn questions_of(&self, leg: &Arc<Leg>) -> Vec<Question> {
        lock(&self.asked).take_of(leg)
    }

    /// Jetway stops before the client does: it hears of what still runs.
    pub(crate) fn cut_off(&self) {
        for (waiting, routes) in self.end() {
            // It is the last that is sent, and waits for the socket as long as the drain allows.
            let _ = self.outlet.send(&relay::ended(waiting, &routes));
        }
    }

    /// Closes its legs and gives back what they carried.
    fn end(&self) -> Vec<(Vec<Waiting>, Vec<Route>)> {
        self.gone.store(true, Ordering::Release);
        self.core.clients.remove(self);
        self.waiting.leave();
        let legs = std::mem::take(&mut *lock(&self.legs));
        *lock(&self.asked) = Asked::default();
        legs.all.iter().map(|leg| leg.close()).collect()
    }
}

fn forget(dormant: &mut HashMap<SessionId, Route>, id: &SessionId) {
    dormant.remove(id);
    if dormant.is_empty() {
        dormant.shrink_to_fit();
    }
}

/// What a caller hears when the pool has no server for it.
fn refused(error: &PoolError) -> Refusal {
    let retry = error.retry_after().unwrap_or(RETRY_AFTER);
    warn!(%error, "no CLI server");
    match error {
        PoolError::ShuttingDown => Refusal::Draining(retry),
        PoolError::Full { whose: Whose::Tenant, .. } => Refusal::Overloaded(Limit::TenantProcesses, retry),
        PoolError::Full { .. } | PoolError::NoServer { .. } => Refusal::Overloaded(Limit::Servers, retry),
        _ => Refusal::Overloaded(Limit::ServerStart, retry),
    }
}
