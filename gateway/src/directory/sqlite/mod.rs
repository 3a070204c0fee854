//! The directory in a file, for one gateway. One thread makes the changes, another answers questions
//! meanwhile: each sees what was committed before it was asked.

mod marks;
mod read;
mod recent;
mod schema;
mod thread;
mod write;

use std::{path::Path, sync::Arc};

use rusqlite::Transaction;

use jetway_config::{Identity, SessionId};

use self::{recent::Recent, thread::Thread};
use super::{
    BATCH, Change, Claim, Mark, New,
    entry::{Entry, Key, Place, UnixMs},
    error::{ChangeError, ClaimError, FenceError, ListError, MoveError, OpenError, StoreError},
    page::{List, Page, Position},
    resolve::{Reference, Resolution},
};

#[derive(Debug)]
pub(super) struct Sqlite {
    changes: Thread,
    questions: Thread,
    recent: Arc<Recent>,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |cause| OpenError::File { path: path.to_owned(), cause };
        let (writer, reader) = (schema::open(path)?, schema::open_to_read(path)?);
        Ok(Self {
            changes: Thread::start("directory-write", writer).map_err(failed)?,
            questions: Thread::start("directory-read", reader).map_err(failed)?,
            recent: Arc::default(),
        })
    }

    /// Blocks until all that was asked for is done.
    pub(super) fn close(self) {
        self.questions.join();
        // Last, so that it is the one that moves the log into the file.
        self.changes.join();
    }

    /// Changes the entries of these keys, and no others.
    async fn change_of<T, F>(&self, keys: Vec<Key>, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &[Key]) -> Result<T, StoreError> + Send + 'static,
    {
        let (keys, recent) = (Arc::<[Key]>::from(keys), self.recent.clone());
        let changed = keys.clone();
        self.changes.run(move |c| job(c, &keys), move || recent.forget(&changed)).await
    }

    /// Changes the entry of that key, and no other.
    async fn change_one<T, F>(&self, key: Key, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &Key) -> Result<T, StoreError> + Send + 'static,
    {
        self.change_of(vec![key], move |c, keys| job(c, &keys[0])).await
    }

    /// Asks for entries; one's own that is found is kept at hand.
    async fn ask<T, F>(&self, who: Identity, job: F, found: fn(&T) -> Option<&Entry>) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>, &Identity) -> Result<T, StoreError> + Send + 'static,
    {
        let recent = self.recent.clone();
        let job = move |c: &Transaction<'_>| {
            // Before anything is read: the transaction sees what was committed by its first statement.
            let before = recent.before();
            let answer = job(c, &who)?;
            if let Some(entry) = found(&answer).filter(|entry| entry.key.owner == who) {
                recent.learn(before, entry);
            }
            Ok(answer)
        };
        self.questions.run(job, || ()).await
    }

    pub(super) async fn claim(&self, key: Key, new: New, at: UnixMs) -> Result<Claim, ClaimError> {
        self.change_one(key, move |c, key| write::claim(c, key, &new, at)).await?
    }

    pub(super) async fn release(&self, key: Key) -> Result<bool, StoreError> {
        self.change_one(key, |c, key| write::release(c, key)).await
    }

    pub(super) async fn release_orphans(&self, before: UnixMs) -> Result<usize, StoreError> {
        let recent = self.recent.clone();
        self.changes.run(move |c| write::release_orphans(c, before, BATCH), move || recent.forget_all()).await
    }

    pub(super) async fn move_to(
        &self,
        key: Key,
        epoch: u64,
        place: Place,
        at: UnixMs,
    ) -> Result<u64, MoveError> {
        self.change_one(key, move |c, key| write::move_to(c, key, epoch, &place, at)).await?
    }

    pub(super) async fn change(&self, key: Key, change: Change, at: UnixMs) -> Result<(), ChangeError> {
        self.change_one(key, move |c, key| write::change(c, key, &change, at)).await?
    }

    pub(super) async fn touch(&self, keys: Vec<Key>, at: UnixMs) -> Result<(), StoreError> {
        self.change_of(keys, move |c, keys| write::touch(c, keys, at, true)).await
    }

    pub(super) async fn forget(&self, key: Key) -> Result<bool, StoreError> {
        self.change_one(key, |c, key| write::forget(c, key)).await
    }

    /// What it notes, when they are given out again, is in no entry.
    pub(super) async fn take_due(
        &self,
        at: UnixMs,
        again: UnixMs,
        most: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.changes.run(move |c| write::take_due(c, at, again, most), || ()).await
    }

    pub(super) async fn record_fence(&self, key: Key, fence: u64) -> Result<(), FenceError> {
        self.change_one(key, move |c, key| write::record_fence(c, key, fence)).await?
    }

    pub(super) async fn mark(
        &self,
        who: Identity,
        name: String,
        mark: Mark,
        at: UnixMs,
    ) -> Result<Option<Mark>, StoreError> {
        self.changes.run(move |c| marks::put(c, &who, &name, &mark, at), || ()).await
    }

    pub(super) async fn complete_mark(
        &self,
        who: Identity,
        name: String,
        message: String,
    ) -> Result<(), StoreError> {
        self.changes.run(move |c| marks::complete(c, &who, &name, &message), || ()).await
    }

    pub(super) async fn unmark(&self, who: Identity, name: String) -> Result<(), StoreError> {
        self.changes.run(move |c| marks::remove(c, &who, &name), || ()).await
    }

    pub(super) async fn find(&self, who: Identity, id: SessionId) -> Result<Option<Entry>, StoreError> {
        let own = Key { owner: who, id };
        if let Some(entry) = self.recent.get(&own) {
            return Ok(Some(entry));
        }
        let Key { owner, id } = own;
        self.ask(owner, move |c, who| read::find(c, who, id.as_str()), Option::as_ref).await
    }

    pub(super) async fn resolve(
        &self,
        who: Identity,
        reference: Reference,
    ) -> Result<Resolution, StoreError> {
        if let Reference::Text { id: Some(id), .. } = &reference
            && let Some(entry) = self.recent.get(&Key { owner: who.clone(), id: id.clone() })
        {
            return Ok(Resolution::One(Box::new(entry)));
        }
        self.ask(who, move |c, who| read::resolve(c, who, &reference), Resolution::one).await
    }

    pub(super) async fn list(
        &self,
        who: Identity,
        list: List,
        after: Option<Position>,
    ) -> Result<Page, ListError> {
        Ok(self.questions.run(move |c| read::list(c, &who, &list, after), || ()).await?)
    }
}
