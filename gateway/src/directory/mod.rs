//! The session directory: who owns which session, who else may use it, where it lives, its status and name; and which turn
//! a request stands for whose caller gave it a name.
//! It is the durable truth behind what the gateway knows of running sessions, and holds no more than that:
//! never a prompt, an answer or a secret.
//!
//! * An owner's ids are the owner's own. On a CLI server that several users share an id is one session,
//!   whoever asks: there a claim also takes the id within the server, or within the state that servers share.
//! * An id is claimed before the CLI server hears of it, and confirmed or released when that has answered.
//! * Nobody finds what is neither theirs nor shared with them, and what they do not find might not exist: it
//!   is one question with one answer.
//! * A terminated session's entry is a record for its owner. Only a new claim or [`Directory::forget`]
//!   changes it.
//!
//! Two stores do the same: a file (`sqlite`) for one gateway, `redis` for several. `entry`, `page` and
//! `resolve` hold what does no I/O. All operations are atomic and may be cancelled: then they are done wholly
//! or not at all. None waits for longer than a few seconds.

mod entry;
mod error;
mod news;
mod page;
mod redis;
mod resolve;
mod sqlite;
mod stored;

use jetway_config::{Identity, SessionId, UserId, stores};
use std::time::Duration;
use tokio::sync::broadcast;
use tracing::info;

pub use self::{
    entry::{
        Entry, Key, Lifetime, Member, NAME_CHARS, Name, NameError, Place, Role, Status, UnixMs, Unknown, role,
    },
    error::{ChangeError, ClaimError, FenceError, ListError, MoveError, OpenError, StoreError},
    news::{News, Told, What},
    page::{List, MAX_PAGE, Order, Page, Sort},
    resolve::{Resolution, SHOWN},
};
use self::{news::Teller, redis::Redis, resolve::Reference, sqlite::Sqlite};

/// How many records of terminated sessions are kept of an owner: the latest.
pub const MAX_RECORDS: usize = 1000;

/// How many members a session may have: each use of it is noted in the list of each of them.
pub const MAX_MEMBERS: usize = 100;

/// The longest reason, in bytes; what is longer is cut.
pub const REASON_BYTES: usize = 256;

/// The longest note, in bytes: a few settings, and a text of some pages. A list reads the notes of all it lists.
pub const NOTE_BYTES: usize = 16 << 10;

/// How long a claim may wait for its session: far longer than any CLI server takes to start and answer.
pub const ORPHANED_AFTER: Duration = Duration::from_secs(300);

/// How many requests' names are kept of a user: the latest.
pub const MAX_MARKS: usize = 256;

/// For how long they are: as long as any client tries again.
pub const MARKED_FOR: Duration = Duration::from_secs(24 * 3600);

/// How many entries one step changes; larger batches are several steps.
const BATCH: usize = 500;

/// The largest time or fence: what Redis' Lua counts exactly.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// The session directory.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    teller: Teller,
}

#[derive(Debug)]
enum Store {
    Sqlite(Sqlite),
    Redis(Redis),
}

/// The same of either store.
macro_rules! either {
    ($self:ident.$op:ident($($arg:expr),*)) => {
        match &$self.store {
            Store::Sqlite(store) => store.$op($($arg),*).await,
            Store::Redis(store) => store.$op($($arg),*).await,
        }
    };
}

/// What a session that is not there yet is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Where it shall live.
    pub place: Place,
    /// It goes with its last user.
    pub ephemeral: bool,
    /// How many sessions its owner may have that are not terminated, this one included.
    pub most: usize,
}

/// An id that is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it stands for. If it is not fresh, it may live elsewhere than where it was claimed for.
    pub entry: Entry,
    /// There was no such session. If there was, its CLI server may have been told to make it already.
    pub fresh: bool,
}

/// What a request came to whose caller gave it a name, so that it is done once: nothing of what it said or was
/// answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What tells it from another request under the same name.
    pub digest: String,
    /// The turn that it began.
    pub turn: String,
    /// As which message the CLI server took its prompt, once it has.
    pub message: Option<String>,
}

/// A change of an entry that no store has to think about.
#[derive(Debug, Clone)]
enum Change {
    Confirm,
    Status(Status, Option<String>),
    Name(Option<Name>),
    Share(Vec<Member>),
    Unshare(UserId),
    Note(Option<String>, Lifetime),
}

impl Directory {
    /// Opens the store that is configured, and releases what a gateway that died left claimed.
    ///
    /// # Errors
    /// If the file cannot be had or is a later Jetway's; if Redis cannot be reached or may evict keys.
    pub async fn open(config: &stores::Directory, redis: &stores::Redis) -> Result<Self, OpenError> {
        let (store, teller) = match config.store {
            stores::DirectoryStore::Sqlite => {
                let path = config.path.clone();
                let open = tokio::task::spawn_blocking(move || Sqlite::open(&path));
                (Store::Sqlite(open.await.map_err(|_| StoreError::Closed)??), Teller::here())
            }
            stores::DirectoryStore::Redis => {
                let (teller, outgoing) = Teller::beyond();
                (Store::Redis(Redis::open(redis, outgoing).await?), teller)
            }
        };
        let directory = Self { store, teller };
        let age = u64::try_from(ORPHANED_AFTER.as_millis()).unwrap_or(u64::MAX);
        let released = directory.release_orphans(UnixMs(UnixMs::now().0.saturating_sub(age))).await?;
        if released > 0 {
            info!(released, "released session ids that were claimed and never used");
        }
        Ok(directory)
    }

    /// Waits until all that was asked for is done. Without it that is done as well, if the process lives.
    pub async fn close(self) {
        if let Store::Sqlite(store) = self.store {
            let _ = tokio::task::spawn_blocking(move || store.close()).await;
        }
    }

    /// What happens to sessions from now on, here and at all gateways that share the store.
    pub fn listen(&self) -> broadcast::Receiver<Told> {
        self.teller.listen()
    }

    /// Tells those who listen what has happened to a session beside what is changed here.
    pub fn tell(&self, what: What, key: &Key) {
        self.tell_to(what, key, None);
    }

    fn tell_to(&self, what: What, key: &Key, to: Option<Vec<UserId>>) {
        self.teller.tell(News { what, keys: vec![key.clone()], to });
    }

    /// Gives the owner the id: the session that it stands for already, or a new, unconfirmed one.
    /// Of several at once one is fresh. Each claim on a session that is not confirmed yet must be confirmed
    /// or released.
    ///
    /// A terminated session's record makes way for the new one, which goes on from its epoch and fence.
    ///
    /// # Errors
    /// If the id is another's at that place, or the owner has too many sessions.
    pub async fn claim(&self, key: &Key, new: &New, at: UnixMs) -> Result<Claim, ClaimError> {
        either!(self.claim(key.clone(), new.clone(), sane(at)))
    }

    /// The CLI server has made the session: its status becomes `running` if it was `pending` for no reason.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`] if the claim was given up meanwhile ([`ORPHANED_AFTER`]).
    pub async fn confirm(&self, key: &Key, at: UnixMs) -> Result<(), ChangeError> {
        self.change(key, Change::Confirm, at).await?;
        self.tell(What::Created, key);
        Ok(())
    }

    /// The CLI server has not made the session: gives up one claim, and with the last of them the id, unless
    /// it was confirmed. Whether the id was given up.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn release(&self, key: &Key) -> Result<bool, StoreError> {
        either!(self.release(key.clone()))
    }

    /// Gives up what was claimed and neither confirmed nor touched since `before`. How many.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn release_orphans(&self, before: UnixMs) -> Result<usize, StoreError> {
        let mut released = 0;
        loop {
            let step = either!(self.release_orphans(sane(before)))?;
            released += step;
            if step < BATCH {
                return Ok(released);
            }
        }
    }

    /// The session that `id` means to `who`: one's own; else, of those shared, the one that was shared first.
    /// `None` for what is another's as for what never was, and for what is terminated.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn find(&self, who: &Identity, id: &SessionId) -> Result<Option<Entry>, StoreError> {
        either!(self.find(who.clone(), id.clone()))
    }

    /// What a person means by `reference`: `latest` (one's own that was used last); an id; a name, whatever
    /// its case; the beginning of ids. The first of these that means anything decides. Records are found by
    /// their full id, by their owner.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn resolve(&self, who: &Identity, reference: &str) -> Result<Resolution, StoreError> {
        match Reference::parse(reference) {
            Some(reference) => either!(self.resolve(who.clone(), reference)),
            None => Ok(Resolution::None),
        }
    }

    /// The sessions of `who`, and those shared with `who`; records of one's own included.
    ///
    /// # Errors
    /// If the cursor is not one of such a list.
    pub async fn list(&self, who: &Identity, list: &List) -> Result<Page, ListError> {
        let after = list.position()?;
        either!(self.list(who.clone(), list.clone(), after))
    }

    /// The session lives at `place` now. Returns its new epoch.
    ///
    /// # Errors
    /// If its epoch is not `epoch` any more, or its id is another's at that place.
    pub async fn move_to(&self, key: &Key, epoch: u64, place: &Place, at: UnixMs) -> Result<u64, MoveError> {
        either!(self.move_to(key.clone(), epoch, place.clone(), sane(at)))
    }

    /// The sessions were used; those that are unknown or terminated are passed over. In several steps if they
    /// are many.
    ///
    /// # Errors
    /// If the store does not answer as it should; some steps may have been done.
    pub async fn touch(&self, keys: &[Key], at: UnixMs) -> Result<(), StoreError> {
        for batch in keys.chunks(BATCH) {
            either!(self.touch(batch.to_vec(), sane(at)))?;
            self.teller.tell(News { what: What::Updated, keys: batch.to_vec(), to: None });
        }
        Ok(())
    }

    /// How the session is, and why. `terminated` makes the entry a record: its members, its name for
    /// [`resolve`](Self::resolve) and its hold on the id go, and the owner's oldest records beyond
    /// [`MAX_RECORDS`].
    ///
    /// # Errors
    /// If there is no such session.
    pub async fn set_status(
        &self,
        key: &Key,
        status: Status,
        reason: Option<&str>,
        at: UnixMs,
    ) -> Result<(), ChangeError> {
        let reason = reason.filter(|r| !r.is_empty());
        let cut = |reason: &str| reason[..reason.floor_char_boundary(REASON_BYTES)].to_owned();
        // Its record has no members any more.
        let people = if status == Status::Terminated { self.people(key).await? } else { None };
        self.change(key, Change::Status(status, reason.map(cut)), at).await?;
        match status {
            Status::Terminated => self.tell_to(What::Deleted, key, people),
            _ => self.tell(What::Updated, key),
        }
        Ok(())
    }

    /// Who takes part in a session.
    async fn people(&self, key: &Key) -> Result<Option<Vec<UserId>>, StoreError> {
        // Where it is gone, its name may mean another that is shared with its owner.
        let entry = self.find(&key.owner, &key.id).await?.filter(|entry| entry.key == *key);
        let members = |entry: Entry| entry.members.into_iter().map(|m| m.user);
        Ok(entry.map(|entry| std::iter::once(key.owner.user.clone()).chain(members(entry)).collect()))
    }

    /// What people call the session.
    ///
    /// # Errors
    /// If there is no such session.
    pub async fn rename(&self, key: &Key, name: Option<&Name>, at: UnixMs) -> Result<(), ChangeError> {
        self.change(key, Change::Name(name.cloned()), at).await?;
        self.tell(What::Updated, key);
        Ok(())
    }

    /// How a session that is claimed and not made yet is called, and with whom it is shared: nobody else has heard
    /// of it.
    ///
    /// # Errors
    /// As [`rename`](Self::rename) and [`set_members`](Self::set_members).
    pub async fn prepare(
        &self,
        key: &Key,
        name: Option<&Name>,
        members: &[Member],
        at: UnixMs,
    ) -> Result<(), ChangeError> {
        if name.is_some() {
            self.change(key, Change::Name(name.cloned()), at).await?;
        }
        if members.is_empty() { Ok(()) } else { self.share(key, members, at).await }
    }

    /// Shares the session with these too, or gives them these roles. The owner stays the owner.
    ///
    /// # Errors
    /// If there is no such session, or it would have too many members: then nobody is added.
    pub async fn set_members(&self, key: &Key, members: &[Member], at: UnixMs) -> Result<(), ChangeError> {
        let before = self.people(key).await?.unwrap_or_default();
        self.share(key, members, at).await?;
        let new = members.iter().map(|m| m.user.clone()).filter(|user| !before.contains(user)).collect();
        self.tell_to(What::Created, key, Some(new));
        self.tell_to(What::Updated, key, Some(before));
        Ok(())
    }

    async fn share(&self, key: &Key, members: &[Member], at: UnixMs) -> Result<(), ChangeError> {
        let mut each: Vec<Member> = Vec::new();
        for member in members.iter().filter(|m| m.user != key.owner.user) {
            // The last word on somebody counts; no more are looked at than can be added.
            if let Some(known) = each.iter_mut().find(|m| m.user == member.user) {
                known.role = member.role;
            } else if each.len() < MAX_MEMBERS {
                each.push(member.clone());
            } else {
                return Err(ChangeError::Full);
            }
        }
        self.change(key, Change::Share(each), at).await
    }

    /// Shares the session with that user no more.
    ///
    /// # Errors
    /// If there is no such session, or no such member.
    pub async fn remove_member(&self, key: &Key, user: &UserId, at: UnixMs) -> Result<(), ChangeError> {
        self.change(key, Change::Unshare(user.clone()), at).await?;
        self.tell_to(What::Deleted, key, Some(vec![user.clone()]));
        self.tell(What::Updated, key);
        Ok(())
    }

    /// Removes the entry, of whatever status, and all trace of it. Whether there was one.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn forget(&self, key: &Key) -> Result<bool, StoreError> {
        either!(self.forget(key.clone()))
    }

    /// The session is being used under `fence`, which is below 2⁵³.
    ///
    /// # Errors
    /// [`FenceError::Superseded`] if it was used under a higher one before.
    pub async fn record_fence(&self, key: &Key, fence: u64) -> Result<(), FenceError> {
        either!(self.record_fence(key.clone(), fence.min(MAX_NUMBER)))
    }

    /// Gives the caller's name of a request to it, unless it is another's already: then that one's mark is returned.
    /// Names are kept for [`MARKED_FOR`], the latest [`MAX_MARKS`] of each user.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn mark(
        &self,
        who: &Identity,
        name: &str,
        mark: &Mark,
        at: UnixMs,
    ) -> Result<Option<Mark>, StoreError> {
        either!(self.mark(who.clone(), name.to_owned(), mark.clone(), sane(at)))
    }

    /// The CLI server took that request's prompt.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn complete_mark(&self, who: &Identity, name: &str, message: &str) -> Result<(), StoreError> {
        either!(self.complete_mark(who.clone(), name.to_owned(), message.to_owned()))
    }

    /// That request came to nothing, and may be made again.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn unmark(&self, who: &Identity, name: &str) -> Result<(), StoreError> {
        either!(self.unmark(who.clone(), name.to_owned()))
    }

    /// Up to `most` sessions whose [`Lifetime`] is over, those that are longest over first. Whoever takes them sees to
    /// their end; what is still there at `again` is given out once more.
    ///
    /// # Errors
    /// If the store does not answer as it should.
    pub async fn take_due(&self, at: UnixMs, again: UnixMs, most: usize) -> Result<Vec<Entry>, StoreError> {
        either!(self.take_due(sane(at), sane(again), most.min(BATCH)))
    }

    /// What the face that made the session keeps of it, text of its own and never a secret; and when the session ends
    /// by itself.
    ///
    /// # Errors
    /// If there is no such session, or the note is longer than [`NOTE_BYTES`].
    pub async fn set_note(
        &self,
        key: &Key,
        note: Option<&str>,
        lifetime: Lifetime,
        at: UnixMs,
    ) -> Result<(), ChangeError> {
        if note.is_some_and(|note| note.len() > NOTE_BYTES) {
            return Err(ChangeError::Full);
        }
        let note = note.filter(|note| !note.is_empty()).map(str::to_owned);
        let Lifetime { ends, unused_for } = lifetime;
        let lifetime = Lifetime { ends: ends.map(sane), unused_for: unused_for.map(|ms| ms.min(MAX_NUMBER)) };
        self.change(key, Change::Note(note, lifetime), at).await
    }

    async fn change(&self, key: &Key, change: Change, at: UnixMs) -> Result<(), ChangeError> {
        either!(self.change(key.clone(), change, sane(at)))
    }
}

fn sane(at: UnixMs) -> UnixMs {
    UnixMs(at.0.min(MAX_NUMBER))
}
