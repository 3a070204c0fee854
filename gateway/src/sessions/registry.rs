//! The sessions that are in use here: whose each is, who else takes part, on which CLI server it lives.
//!
//! The [directory](crate::directory) has all of them; this is what of it is at hand without waiting.

mod turns;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use jetway_config::{Identity, SessionId, TenantId};
use jetway_lockd::Fence;
use jetway_pool::ServerId;

use super::{
    bounds::Terms,
    cloud::Agent,
    room::{Crowded, Live, Most, Room},
    stranded::Stand,
    turn::{Outcome, TurnId, Turns},
};
use crate::{
    admission::Permit,
    directory::{Entry, Key, Member, Place, Role},
    stack::Busy,
};

/// How long a gateway goes by what a directory that it shares with others said of a session's people.
const NEWS: Duration = Duration::from_secs(1);

/// What Jetway knows of a session that is in use.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Key,
    state: Mutex<State>,
    /// Held while it is decided where the session is to be attached, until it is, and while it is detached
    /// everywhere: so that it is on one CLI server at a time.
    placing: Arc<tokio::sync::Mutex<()>>,
    /// When it was last used, in milliseconds since the gateway's first look at a clock.
    used: AtomicU64,
    /// The answer of a turn has begun and no delta of it was seen.
    silent: AtomicBool,
    /// Somebody takes part no more, or a connection left a session that is shared or has a turn.
    left: AtomicBool,
    pub(super) agent: Agent,
    /// Whether a terminal shows it, once that was heard of.
    shown: Mutex<Option<bool>>,
    pub(super) terms: Terms,
    counters: Arc<Counters>,
}

/// What is counted from when somebody first asks what time it is.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn since_epoch() -> u64 {
    EPOCH.elapsed().as_millis() as u64
}

#[derive(Debug)]
struct State {
    server: ServerId,
    /// A CLI server has made it: until then nothing but what is being attached may be found under its name.
    made: bool,
    /// The same as the directory has it, and how often it was moved there.
    place: Place,
    epoch: u64,
    members: Arc<[Member]>,
    /// When the directory said so.
    heard: Instant,
    /// What becomes of prompts while a turn runs.
    busy: Busy,
    /// Under which it was used last, by this gateway.
    fence: Option<Fence>,
    /// Connections to the CLI server that are attached to it.
    attached: usize,
    /// How often one was attached to it.
    times: u64,
    /// Somebody had its CLI server close it, and nobody has attached it since.
    closed: bool,
    turns: Turns,
    stand: Stand,
    /// Room for the turns that run; one for all, since the CLI works them off one after the other.
    permit: Option<Arc<Permit>>,
    /// When its last turn ended.
    last_turn: Option<Instant>,
}

/// What an operator may see of a session.
#[derive(Debug, Clone)]
pub(crate) struct Glance {
    pub(crate) key: Key,
    pub(crate) server: ServerId,
    /// Connections to the CLI server that are attached to it.
    pub(crate) attached: usize,
    /// The turns that run, oldest first, and since when.
    pub(crate) turns: Vec<(TurnId, Instant)>,
    /// When its last turn ended.
    pub(crate) last_turn: Option<Instant>,
    /// When it was last used.
    pub(crate) used: Instant,
}

/// What an event of a session told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Nothing,
    /// A turn spoke for the first time, so long after its prompt.
    First(Duration),
    /// The CLI server must be asked about a turn.
    Doubt,
}

#[derive(Debug, Default)]
struct Counters {
    next_turn: AtomicU64,
    running_turns: AtomicUsize,
    /// Somebody left a session.
    left: AtomicBool,
    live: Arc<Live>,
}

/// Every session that is in use.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: Mutex<Tables>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Tables {
    by_key: HashMap<Key, Arc<Session>>,
    /// What members call the sessions that are shared with them.
    by_member: HashMap<Key, Arc<Session>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What that name means to the caller, if it is at hand: a session of one's own, or one that is shared.
    pub(crate) fn find(&self, who: &Identity, id: &SessionId) -> Option<Arc<Session>> {
        let key = Key { owner: who.clone(), id: id.clone() };
        let tables = self.lock();
        if let Some(own) = tables.by_key.get(&key).filter(|s| s.is_there()) {
            return Some(own.clone());
        }
        tables.by_member.get(&key).filter(|s| s.role_of(who).is_some()).cloned()
    }

    /// The session of that name on that server, if the caller takes part in it. On another server it is another one.
    pub(crate) fn known(&self, who: &Identity, id: &str, server: &ServerId) -> Option<Arc<Session>> {
        self.find(who, &id.parse().ok()?).filter(|session| session.server() == *server)
    }

    /// Has at hand what the directory says of a session, for `who`, who was found to take part in it.
    pub(crate) fn hold(&self, who: &Identity, entry: &Entry) -> Arc<Session> {
        let mut tables = self.lock();
        let session = tables.by_key.entry(entry.key.clone()).or_insert_with(|| {
            let state = State {
                server: ServerId::new(entry.place.server.as_str()),
                made: entry.confirmed,
                place: entry.place.clone(),
                epoch: entry.epoch,
                members: entry.members.clone().into(),
                heard: Instant::now(),
                busy: Busy::default(),
                fence: None,
                attached: 0,
                times: 0,
                closed: false,
                turns: Turns::default(),
                stand: Stand::default(),
                last_turn: None,
                permit: None,
            };
            Arc::new(Session {
                key: entry.key.clone(),
                state: Mutex::new(state),
                placing: Arc::default(),
                used: AtomicU64::new(since_epoch()),
                silent: AtomicBool::new(false),
                left: AtomicBool::new(false),
                agent: Agent::of(entry),
                shown: Mutex::default(),
                terms: Terms::default(),
                counters: self.counters.clone(),
            })
        });
        let session = session.clone();
        session.learn(entry);
        if entry.key.owner != *who {
            let name = Key { owner: who.clone(), id: entry.key.id.clone() };
            tables.by_member.insert(name, session.clone());
        }
        session
    }

    /// The directory knows nothing of that name for `who`, any more.
    pub(crate) fn unlearn(&self, who: &Identity, id: &SessionId) {
        let key = Key { owner: who.clone(), id: id.clone() };
        let mut tables = self.lock();
        if tables.by_key.remove(&key).is_none() {
            tables.by_member.remove(&key);
        }
    }

    /// Lets go of a session that is no more.
    pub(crate) fn forget(&self, key: &Key) {
        let mut tables = self.lock();
        tables.by_key.remove(key);
        tables.by_member.retain(|_, session| session.key != *key);
    }

    /// Lets go of a session that came to nothing, unless somebody has attached it meanwhile.
    pub(crate) fn forget_unused(&self, key: &Key) {
        if self.lock().by_key.get(key).is_some_and(|session| session.is_detached()) {
            self.forget(key);
        }
    }

    /// Lets go of what nobody has attached; the directory has it still.
    pub(crate) fn sweep(&self) {
        let mut tables = self.lock();
        // Whoever holds one just now is about to attach it.
        let Tables { by_key, by_member } = &mut *tables;
        let idle = |s: &Arc<Session>, held: usize| s.is_detached() && Arc::strong_count(s) <= held;
        by_member.retain(|_, session| !session.is_detached());
        by_key.retain(|_, session| !idle(session, 1));
        by_key.shrink_to_fit();
    }

    /// A look at every session that is attached somewhere; in no order.
    pub(crate) fn glance(&self) -> Vec<Glance> {
        // Not under the lock: it is every call's.
        let sessions: Vec<_> = self.lock().by_key.values().cloned().collect();
        sessions.iter().map(|s| s.glance()).filter(|g| g.attached > 0).collect()
    }

    /// The sessions that somebody has left since this was last asked.
    pub(crate) fn take_left(&self) -> Vec<Arc<Session>> {
        if !self.counters.left.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let sessions: Vec<_> = self.lock().by_key.values().cloned().collect();
        sessions.into_iter().filter(|s| s.left.swap(false, Ordering::AcqRel)).collect()
    }

    /// The sessions that are attached somewhere; in no order.
    pub(crate) fn live(&self) -> Vec<Arc<Session>> {
        let sessions: Vec<_> = self.lock().by_key.values().cloned().collect();
        sessions.into_iter().filter(|session| !session.is_detached()).collect()
    }

    /// The sessions that are attached on that server; in no order.
    pub(crate) fn on(&self, server: &ServerId) -> Vec<Arc<Session>> {
        let sessions: Vec<_> = self.lock().by_key.values().cloned().collect();
        sessions.into_iter().filter(|s| s.is_attached_on(server)).collect()
    }

    /// The sessions of a tenant's users that are attached somewhere; in no order.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Vec<Arc<Session>> {
        let sessions: Vec<_> = self.lock().by_key.values().cloned().collect();
        sessions.into_iter().filter(|s| s.key.owner.tenant == *tenant && !s.is_detached()).collect()
    }

    /// Room for one more session of that tenant on that server, while there are fewer than `most`.
    pub(crate) fn reserve(&self, server: &ServerId, tenant: &TenantId, most: Most) -> Result<Room, Crowded> {
        self.counters.live.reserve(server, tenant, most)
    }

    /// How many turns have begun and not ended.
    pub(crate) fn running_turns(&self) -> usize {
        self.counters.running_turns.load(Ordering::Relaxed)
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CLI server on which it lives, or lived last.
    pub(crate) fn server(&self) -> ServerId {
        self.lock().server.clone()
    }

    /// A CLI server has attached it: there it lives, by the directory's `epoch`.
    pub(crate) fn moved(&self, place: Place, epoch: u64) {
        let mut state = self.lock();
        let server = ServerId::new(place.server.as_str());
        let from = std::mem::replace(&mut state.server, server);
        (state.place, state.epoch) = (place, epoch);
        if state.attached > 0 {
            self.counters.live.moved(&from, &state.server);
        }
    }

    /// Where the directory has it, and how often it was moved there.
    pub(crate) fn place(&self) -> (Place, u64) {
        let state = self.lock();
        (state.place.clone(), state.epoch)
    }

    /// What the directory says of it now. Where it lives is known better here while it is attached here.
    fn learn(&self, entry: &Entry) {
        self.shared_with(entry.members.clone().into());
        self.agent.learn(entry);
        self.terms.learn(entry);
        let mut state = self.lock();
        if state.attached == 0 {
            state.made |= entry.confirmed;
            state.server = ServerId::new(entry.place.server.as_str());
            (state.place, state.epoch) = (entry.place.clone(), entry.epoch);
        }
    }

    /// A CLI server has made it.
    pub(crate) fn made(&self) {
        self.lock().made = true;
    }

    /// Whether its name stands for it. One that came to nothing may be another's by now.
    fn is_there(&self) -> bool {
        let state = self.lock();
        state.made || state.attached > 0
    }

    /// With whom it is shared.
    pub(crate) fn shared_with(&self, members: Arc<[Member]>) {
        let mut state = self.lock();
        let stays = |old: &Member| members.iter().any(|new| new.user == old.user);
        if !state.members.iter().all(stays) {
            self.note_left();
        }
        (state.members, state.heard) = (members, Instant::now());
    }

    /// Whether others may have changed by now who takes part: gateways that share a directory are not told.
    pub(crate) fn is_old_news(&self) -> bool {
        self.lock().heard.elapsed() > NEWS
    }

    /// Whether others than its owner take part.
    pub(crate) fn is_shared(&self) -> bool {
        !self.lock().members.is_empty()
    }

    /// What becomes of prompts while a turn runs.
    pub(crate) fn busy(&self) -> Busy {
        self.lock().busy
    }

    pub(crate) fn set_busy(&self, busy: Busy) {
        self.lock().busy = busy;
    }

    /// The fence under which this gateway used it last.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.lock().fence
    }

    pub(crate) fn set_fence(&self, fence: Fence) {
        self.lock().fence = Some(fence);
    }

    /// What `who` may do in it.
    pub(crate) fn role_of(&self, who: &Identity) -> Option<Role> {
        crate::directory::role(&self.key, &self.lock().members, who)
    }

    /// How often a connection to a CLI server was attached to it.
    pub(crate) fn times_attached(&self) -> u64 {
        self.lock().times
    }

    /// Whether somebody had its CLI server close it, whoever has it attached.
    pub(crate) fn was_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether a turn runs whose prompt its CLI server took.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().turns.any_taken()
    }

    /// Whether it is `who`'s own.
    pub(crate) fn is_of(&self, who: &Identity) -> bool {
        self.key.owner == *who
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.lock().attached == 0
    }

    fn is_attached_on(&self, server: &ServerId) -> bool {
        let state = self.lock();
        state.attached > 0 && state.server == *server
    }

    /// Everybody who takes part.
    pub(crate) fn people(&self) -> Vec<Identity> {
        let Identity { tenant, user } = &self.key.owner;
        let members = self.lock().members.clone();
        let users = std::iter::once(user).chain(members.iter().map(|m| &m.user));
        users.map(|user| Identity { tenant: tenant.clone(), user: user.clone() }).collect()
    }

    /// See [`Session::placing`].
    pub(crate) fn placing(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.placing.clone()
    }

    /// A CLI server tells, to each of its connections, that a terminal shows it or does not. Returns whether that is
    /// new.
    pub(crate) fn shows(&self, shown: bool) -> bool {
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        known.replace(shown) != Some(shown)
    }

    /// Somebody uses it.
    pub(crate) fn touch(&self) {
        self.used.store(since_epoch(), Ordering::Relaxed);
    }

    /// When it was last used; of two sessions the smaller one was longer ago.
    pub(crate) fn used(&self) -> Instant {
        *EPOCH + Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    /// One more connection to the CLI server is attached. Returns whether none was.
    pub(crate) fn attach(&self) -> bool {
        let mut state = self.lock();
        state.attached += 1;
        state.times += 1;
        state.closed = false;
        let first = state.attached == 1;
        if first {
            self.counters.live.more(&state.server, &self.key.owner.tenant);
        }
        first
    }

    /// One less is. When none is left the CLI stops the session, and its turns with it; unless these are to go on.
    pub(crate) fn detach(&self, why: Outcome) {
        let mut state = self.lock();
        if state.attached == 0 {
            return;
        }
        state.attached -= 1;
        if state.attached == 0 {
            self.counters.live.less(&state.server, &self.key.owner.tenant);
            if !state.stand.left_by_all() {
                let ended = state.turns.end_all(why, Instant::now());
                self.report(&mut state, ended);
            }
        } else if !state.turns.is_idle() || !state.members.is_empty() {
            self.note_left();
        }
    }

    fn note_left(&self) {
        self.left.store(true, Ordering::Release);
        self.counters.left.store(true, Ordering::Release);
    }

    /// One connection less is attached, unless a turn is running. Returns whether that is so.
    pub(crate) fn detach_if_idle(&self) -> bool {
        let mut state = self.lock();
        if state.attached == 0 || !state.turns.is_idle() {
            return false;
        }
        state.attached -= 1;
        if state.attached == 0 {
            self.counters.live.less(&state.server, &self.key.owner.tenant);
        }
        true
    }

    fn glance(&self) -> Glance {
        let state = self.lock();
        Glance {
            key: self.key.clone(),
            server: state.server.clone(),
            attached: state.attached,
            turns: state.turns.running().collect(),
            last_turn: state.last_turn,
            used: self.used(),
        }
    }
}
