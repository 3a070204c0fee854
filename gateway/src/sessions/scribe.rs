//! What the directory is told after the fact, in order: by those who must not wait for it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tracing::warn;

use super::{client::Client, cloud};
use crate::{
    directory::{ChangeError, ClaimError, Directory, Key, MoveError, New, Place, Status, UnixMs},
    stack::Wish,
};

/// How often it is noted which sessions were used.
const USED: Duration = Duration::from_secs(1);
/// How often a note is tried that the store did not take, and the pause between: a store that restarts is
/// back by then.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait for what was noted before.
const CATCHING_UP: Duration = Duration::from_secs(10);
/// The longest wait for what is still to be noted when the gateway stops.
const CLOSING: Duration = Duration::from_secs(1);

/// Something that has happened to a session.
#[derive(Debug)]
enum Note {
    /// Its CLI server has made what was claimed.
    Made(Key),
    /// It has not.
    NotMade(Key),
    /// It came to be without a claim; in the cloud, if somebody wished it so.
    Found(Key, New, Option<Box<Wish>>),
    /// It can be used, from now on or again.
    Runs(Key),
    /// It was stopped for that reason.
    Failed(Key, &'static str),
    /// It is no more, for that reason.
    Gone(Key, &'static str),
    /// It stays where it was before `epoch`.
    Back(Key, u64, Place),
    /// Somebody waits until all that was noted before is written down.
    CatchUp(oneshot::Sender<()>),
    /// Nothing more will happen.
    End,
}

/// Notes what happens, and has it written down.
///
/// The notes that wait are bounded by the requests that are in flight: each answers one.
#[derive(Debug)]
pub(crate) struct Scribe {
    notes: mpsc::UnboundedSender<Note>,
    used: Arc<Mutex<HashSet<Key>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scribe {
    pub(crate) fn start(directory: Arc<Directory>) -> Arc<Self> {
        let (notes, incoming) = mpsc::unbounded_channel();
        let used = Arc::default();
        let task = tokio::spawn(run(directory, incoming, Arc::clone(&used)));
        Arc::new(Self { notes, used, task: Mutex::new(Some(task)) })
    }

    /// The session is being used.
    pub(crate) fn used(&self, key: &Key) {
        let mut used = lock(&self.used);
        if !used.contains(key) {
            used.insert(key.clone());
        }
    }

    /// A session came to be without a claim: its CLI server chose its name.
    pub(crate) fn found(&self, key: &Key, new: New, wish: Option<&Wish>) {
        self.note(Note::Found(key.clone(), new, wish.cloned().map(Box::new)));
    }

    /// The session can be used, from now on or again.
    pub(crate) fn runs(&self, key: &Key) {
        self.note(Note::Runs(key.clone()));
    }

    /// The session was stopped; it can be resumed.
    pub(crate) fn failed(&self, key: &Key, why: &'static str) {
        self.note(Note::Failed(key.clone(), why));
    }

    /// Waits until what was noted is written down, or was given up.
    pub(crate) async fn caught_up(&self) {
        let (done, written) = oneshot::channel();
        self.note(Note::CatchUp(done));
        let _ = timeout(CATCHING_UP, written).await;
    }

    /// The session is no more, for some reason of its own or because somebody deleted it.
    pub(crate) fn gone(&self, key: &Key, why: Option<&'static str>) {
        self.note(Note::Gone(key.clone(), why.unwrap_or("deleted")));
    }

    /// The session was moved ahead and stays where it was: `epoch` is that of the move.
    pub(crate) fn back(&self, key: &Key, epoch: u64, place: Place) {
        self.note(Note::Back(key.clone(), epoch, place));
    }

    fn note(&self, note: Note) {
        // The task ends when the gateway does.
        let _ = self.notes.send(note);
    }

    /// Waits until all is written down.
    pub(crate) async fn close(&self) {
        self.note(Note::End);
        let task = lock(&self.task).take();
        if let Some(task) = task
            && timeout(CLOSING, task).await.is_err()
        {
            warn!("the session directory did not take all that was to be noted");
        }
    }
}

/// An id that was claimed for a session which its CLI server has not made yet. Dropped, it is given up.
pub(crate) struct Claimed {
    key: Key,
    client: Arc<Client>,
    made: bool,
}

impl Claimed {
    pub(crate) fn new(key: Key, client: Arc<Client>) -> Self {
        Self { key, client, made: false }
    }

    /// The CLI server has made the session.
    pub(crate) fn made(mut self) {
        self.made = true;
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let (key, core) = (self.key.clone(), self.client.core());
        if self.made {
            return core.scribe.note(Note::Made(key));
        }
        // First: once the id is another's, nobody is to find it here as one's own.
        core.registry.forget_unused(&key);
        core.scribe.note(Note::NotMade(key));
    }
}

async fn run(
    directory: Arc<Directory>,
    mut notes: mpsc::UnboundedReceiver<Note>,
    used: Arc<Mutex<HashSet<Key>>>,
) {
    let mut ticks = interval(USED);
    loop {
        let note = tokio::select! {
            note = notes.recv() => note,
            _ = ticks.tick() => {
                touch(&directory, &used).await;
                continue;
            }
        };
        match note {
            None | Some(Note::End) => break,
            Some(Note::CatchUp(done)) => {
                touch(&directory, &used).await;
                let _ = done.send(());
            }
            Some(note) => write(&directory, &note).await,
        }
    }
    touch(&directory, &used).await;
}

async fn touch(directory: &Directory, used: &Mutex<HashSet<Key>>) {
    let keys: Vec<_> = std::mem::take(&mut *lock(used)).into_iter().collect();
    if let Err(error) = directory.touch(&keys, UnixMs::now()).await {
        warn!(%error, sessions = keys.len(), "noting which sessions were used");
    }
}

async fn write(directory: &Directory, note: &Note) {
    for _ in 0..TRIES {
        match try_to_write(directory, note).await {
            Ok(()) => return,
            Err(error) => warn!(%error, ?note, "the session directory"),
        }
        sleep(PAUSE).await;
    }
}

/// Fails if another try may help.
async fn try_to_write(directory: &Directory, note: &Note) -> Result<(), crate::directory::StoreError> {
    let now = UnixMs::now();
    let changed = |outcome| match outcome {
        Err(ChangeError::Store(error)) => Err(error),
        // What is gone meanwhile needs no note.
        _ => Ok(()),
    };
    match note {
        Note::Made(key) => changed(directory.confirm(key, now).await),
        Note::NotMade(key) => directory.release(key).await.map(drop),
        Note::Found(key, new, wish) => match directory.claim(key, new, now).await {
            Err(ClaimError::Store(error)) => Err(error),
            Err(_) => Ok(()),
            Ok(_) => changed(make_known(directory, key, wish.as_deref(), now).await),
        },
        Note::Runs(key) => changed(directory.set_status(key, Status::Running, None, now).await),
        Note::Failed(key, why) => changed(directory.set_status(key, Status::Failed, Some(why), now).await),
        Note::Gone(key, why) => changed(directory.set_status(key, Status::Terminated, Some(why), now).await),
        Note::Back(key, epoch, place) => match directory.move_to(key, *epoch, place, now).await {
            Err(MoveError::Store(error)) => Err(error),
            _ => Ok(()),
        },
        Note::CatchUp(_) | Note::End => Ok(()),
    }
}

/// A session that was claimed after the fact; pending, if it is in the cloud.
async fn make_known(
    directory: &Directory,
    key: &Key,
    wish: Option<&Wish>,
    now: UnixMs,
) -> Result<(), ChangeError> {
    if let Some(wish) = wish {
        directory.rename(key, wish.name.as_ref(), now).await?;
        directory.set_members(key, &wish.members, now).await?;
        directory.set_status(key, Status::Pending, Some(cloud::AWAITED), now).await?;
    }
    directory.confirm(key, now).await
}
