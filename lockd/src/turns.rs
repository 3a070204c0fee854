//! Turns of a process's sessions: each session belongs to one process at a time, its *tenure*, which lasts
//! as long as the process holds the session's lease; within it a queue orders the turns, and a turn costs
//! no command to the store. Another process that waits for the session gets it when the turn ends.

use crate::{
    error::AcquireError,
    fence::Fence,
    keeper,
    key::Key,
    lease::Authority,
    lockd::Lockd,
    metrics::{self, Level},
    store::Place,
    watch::Cause,
};
use futures_util::future::BoxFuture;
use jetway_config::UserId;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a turn that would not wait waits for a session that no turn uses here: another process may
/// have it without using it.
const GRACE: Duration = Duration::from_secs(1);

/// Why a tenure ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Another process waits for the session.
    Wanted,
    /// There has been no turn for a while.
    Idle,
    /// [`Turns::release`] asked for it.
    Released,
    /// The process is shutting down.
    Closing,
    /// The lease was lost: another process may have the session by now.
    Lost(Cause),
}

/// What has to be done when a process no longer acts for a session.
pub trait Tenure: Send + Sync + 'static {
    /// Called once at the end of every tenure, after its last turn. Unless it is [`Ended::Lost`], the
    /// lease is kept until this completes, so it must bound its own time; no turn begins here meanwhile.
    fn ended(&self, key: &Key, fence: Fence, why: Ended) -> BoxFuture<'static, ()>;
}

/// The turns of a process; clones are the same.
#[derive(Clone)]
pub struct Turns(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) lockd: Lockd,
    pub(crate) tenure: Arc<dyn Tenure>,
    /// How long a session without turns is kept.
    pub(crate) idle: Duration,
    max_waiters: usize,
    seq: AtomicU64,
    rooms: Mutex<HashMap<Key, Room>>,
    /// One task for every session that is had or waited for here.
    keepers: TaskTracker,
    pub(crate) closed: CancellationToken,
}

/// A session that is had or waited for here. There while its keeper runs.
struct Room {
    line: VecDeque<Entry>,
    running: Option<Running>,
    fence: Option<Fence>,
    release: bool,
    changed: Arc<Notify>,
}

pub(crate) struct Entry {
    id: u64,
    pub(crate) who: UserId,
    since: Instant,
    pub(crate) reply: oneshot::Sender<Result<Turn, AcquireError>>,
}

struct Running {
    who: UserId,
    since: Instant,
    /// Held by the turn: its end shows here before the keeper has come to it.
    alive: Weak<()>,
}

/// The right to run a turn; no other turn of the session runs anywhere until it is dropped, or the lease
/// is lost. It [is the authority](Deref) that the frames of the turn need.
#[must_use = "a turn that is dropped is over"]
#[derive(Debug)]
pub struct Turn {
    authority: Authority,
    since: Instant,
    _alive: Arc<()>,
    /// Dropped with the turn: the keeper waits for it.
    _done: oneshot::Sender<()>,
}

impl Turn {
    pub(crate) fn new(authority: Authority, alive: Arc<()>, done: oneshot::Sender<()>) -> Self {
        metrics::holding(Level::Turn, 1.0);
        Self { authority, since: Instant::now(), _alive: alive, _done: done }
    }

    /// The right that the turn has.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl Deref for Turn {
    type Target = Authority;

    fn deref(&self) -> &Authority {
        &self.authority
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        metrics::holding(Level::Turn, -1.0);
        metrics::held(Level::Turn, self.since.elapsed());
    }
}

/// A session of [`Turns::status`].
#[derive(Debug, Clone)]
pub struct RoomStatus {
    /// Which.
    pub key: Key,
    /// The lease's number, if this process has it.
    pub fence: Option<Fence>,
    /// Whose turn it is, and for how long.
    pub running: Option<(UserId, Duration)>,
    /// Whose turns wait, first to last, and for how long.
    pub waiting: Vec<(UserId, Duration)>,
}

impl Turns {
    /// Turns under leases of `lockd`. A session without turns is given up after `idle`; at most
    /// `max_waiters` turns of a session wait here.
    pub fn new(lockd: Lockd, tenure: Arc<dyn Tenure>, idle: Duration, max_waiters: usize) -> Self {
        Self(Arc::new(Shared {
            lockd,
            tenure,
            idle,
            max_waiters,
            seq: AtomicU64::new(1),
            rooms: Mutex::default(),
            keepers: TaskTracker::new(),
            closed: CancellationToken::new(),
        }))
    }

    /// Begins a turn when it is its turn: waits in line until `deadline`. If that has passed, it does not
    /// wait for another turn, only (shortly) for another process to hand the session over.
    /// Dropping the future leaves the line.
    ///
    /// # Errors
    /// See [`AcquireError`]; its place counts the turns in line before this one.
    pub async fn begin(&self, key: &Key, who: &UserId, deadline: Instant) -> Result<Turn, AcquireError> {
        let begun = Instant::now();
        let outcome = self.wait(key, who, begun, deadline).await;
        let name = outcome.as_ref().map_or_else(AcquireError::as_str, |_| "held");
        metrics::waited(Level::Turn, name, begun.elapsed());
        outcome
    }

    async fn wait(
        &self,
        key: &Key,
        who: &UserId,
        begun: Instant,
        deadline: Instant,
    ) -> Result<Turn, AcquireError> {
        let patient = deadline > begun;
        let (id, reply) = self.enqueue(key, who, patient)?;
        let place = Queued { shared: &self.0, key, id };
        let until = if patient { deadline } else { begun + GRACE };
        match timeout_at(until, reply).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => {
                let place = place.find();
                Err(if patient {
                    AcquireError::TimedOut { after: begun.elapsed(), place }
                } else {
                    AcquireError::Busy(place)
                })
            }
        }
    }

    fn enqueue(
        &self,
        key: &Key,
        who: &UserId,
        patient: bool,
    ) -> Result<(u64, oneshot::Receiver<Result<Turn, AcquireError>>), AcquireError> {
        if self.0.closed.is_cancelled() {
            return Err(AcquireError::Closed);
        }
        let id = self.0.seq.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let entry = Entry { id, who: who.clone(), since: Instant::now(), reply };
        let mut rooms = self.0.rooms();
        match rooms.get_mut(key) {
            Some(room) => {
                let runs = room.running.as_ref().is_some_and(|turn| turn.alive.strong_count() > 0);
                let busy = runs || !room.line.is_empty();
                let room_left = if patient { self.0.max_waiters } else { 0 };
                if busy && room.line.len() >= room_left {
                    return Err(AcquireError::Busy(room.place(room.line.len())));
                }
                room.line.push_back(entry);
                room.changed.notify_one();
            }
            None => {
                let changed = Arc::new(Notify::new());
                let (line, changed_too) = (VecDeque::from([entry]), Arc::clone(&changed));
                let room = Room { line, running: None, fence: None, release: false, changed };
                rooms.insert(key.clone(), room);
                // While the rooms are locked: a room has a keeper.
                self.0.keepers.spawn(keeper::keep(Arc::clone(&self.0), key.clone(), changed_too));
            }
        }
        metrics::waiting(Level::Turn, 1.0);
        Ok((id, answer))
    }

    /// Gives a session up as soon as no turn runs, because nothing of it is left to keep here.
    pub fn release(&self, key: &Key) {
        if let Some(room) = self.0.rooms().get_mut(key) {
            room.release = true;
            room.changed.notify_one();
        }
    }

    /// The sessions that are had or waited for here.
    pub fn status(&self) -> Vec<RoomStatus> {
        let rooms = self.0.rooms();
        let status = rooms.iter().map(|(key, room)| RoomStatus {
            key: key.clone(),
            fence: room.fence,
            running: room.running.as_ref().map(|turn| (turn.who.clone(), turn.since.elapsed())),
            waiting: room.line.iter().map(|entry| (entry.who.clone(), entry.since.elapsed())).collect(),
        });
        status.collect()
    }

    /// Begins no more turns, refuses those in line, lets those running end, gives all sessions up and
    /// waits for it. The leases' [`Lockd`] is to be shut down after.
    pub async fn shutdown(&self) {
        self.0.closed.cancel();
        self.0.keepers.close();
        self.0.keepers.wait().await;
    }
}

/// A turn in line; dropping it leaves the line.
struct Queued<'a> {
    shared: &'a Shared,
    key: &'a Key,
    id: u64,
}

impl Queued<'_> {
    /// Where it stands.
    fn find(&self) -> Place {
        let rooms = self.shared.rooms();
        let room = rooms.get(self.key);
        let before = room.and_then(|room| room.line.iter().position(|entry| entry.id == self.id));
        let here = room.map_or(NOWHERE, |room| room.place(before.unwrap_or(0)));
        if room.is_some_and(|room| room.fence.is_some()) {
            return here;
        }
        // Another process has the session.
        let lease = self.shared.lockd.place(self.key).unwrap_or(NOWHERE);
        Place { ahead: here.ahead + lease.ahead, ..lease }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        metrics::waiting(Level::Turn, -1.0);
        let mut rooms = self.shared.rooms();
        if let Some(room) = rooms.get_mut(self.key) {
            room.line.retain(|entry| entry.id != self.id);
            room.changed.notify_one();
        }
    }
}

const NOWHERE: Place = Place { ahead: 0, holder: None, left: Duration::ZERO };

impl Room {
    fn place(&self, ahead: usize) -> Place {
        Place { ahead, holder: self.running.as_ref().map(|turn| turn.who.clone()), left: Duration::ZERO }
    }
}

/// For the keeper.
impl Shared {
    fn rooms(&self) -> MutexGuard<'_, HashMap<Key, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room<T>(&self, key: &Key, look: impl FnOnce(&mut Room) -> T) -> Option<T> {
        self.rooms().get_mut(key).map(look)
    }

    /// On whose behalf the first in line waits.
    pub(crate) fn first(&self, key: &Key) -> Option<UserId> {
        self.room(key, |room| room.line.front().map(|entry| entry.who.clone())).flatten()
    }

    /// Takes the first in line for its turn, which is to hold what comes with it.
    pub(crate) fn next(&self, key: &Key) -> Option<(Entry, Arc<()>)> {
        self.room(key, |room| {
            let (entry, alive) = (room.line.pop_front()?, Arc::new(()));
            let (who, since) = (entry.who.clone(), Instant::now());
            room.running = Some(Running { who, since, alive: Arc::downgrade(&alive) });
            Some((entry, alive))
        })
        .flatten()
    }

    pub(crate) fn turn_over(&self, key: &Key) {
        self.room(key, |room| room.running = None);
    }

    /// Whether the session was asked to be given up since this was last asked.
    pub(crate) fn take_release(&self, key: &Key) -> bool {
        self.room(key, |room| std::mem::take(&mut room.release)).unwrap_or_default()
    }

    pub(crate) fn set_fence(&self, key: &Key, fence: Option<Fence>) {
        self.room(key, |room| room.fence = fence);
    }

    /// Refuses all in line.
    pub(crate) fn refuse(&self, key: &Key, error: &AcquireError) {
        for entry in self.room(key, |room| std::mem::take(&mut room.line)).unwrap_or_default() {
            let _ = entry.reply.send(Err(error.clone()));
        }
    }

    /// Removes the room if nobody is in line; the keeper must end then.
    pub(crate) fn retire(&self, key: &Key) -> bool {
        let mut rooms = self.rooms();
        let empty = rooms.get(key).is_none_or(|room| room.line.is_empty());
        if empty {
            rooms.remove(key);
        }
        empty
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("sessions", &self.0.rooms().len()).finish_non_exhaustive()
    }
}
