//! The directory in a file, for one gateway. One thread makes the changes, another answers questions
//! meanwhile: each sees what was committed before it was asked.

mod read;
mod schema;
mod thread;
mod write;

use std::path::Path;

use jetway_config::{Identity, SessionId};

use self::thread::Thread;
use super::{
    BATCH, Change, Claim, New,
    entry::{Entry, Key, Place, UnixMs},
    error::{ChangeError, ClaimError, FenceError, ListError, MoveError, OpenError, StoreError},
    page::{List, Page, Position},
    resolve::{Reference, Resolution},
};

#[derive(Debug)]
pub(super) struct Sqlite {
    changes: Thread,
    questions: Thread,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |cause| OpenError::File { path: path.to_owned(), cause };
        let (writer, reader) = (schema::open(path)?, schema::open_to_read(path)?);
        Ok(Self {
            changes: Thread::start("directory-write", writer).map_err(failed)?,
            questions: Thread::start("directory-read", reader).map_err(failed)?,
        })
    }

    /// Blocks until all that was asked for is done.
    pub(super) fn close(self) {
        self.questions.join();
        // Last, so that it is the one that moves the log into the file.
        self.changes.join();
    }

    pub(super) async fn claim(&self, key: Key, new: New, at: UnixMs) -> Result<Claim, ClaimError> {
        self.changes.run(move |c| write::claim(c, &key, &new, at)).await?
    }

    pub(super) async fn release(&self, key: Key) -> Result<bool, StoreError> {
        self.changes.run(move |c| write::release(c, &key)).await
    }

    pub(super) async fn release_orphans(&self, before: UnixMs) -> Result<usize, StoreError> {
        self.changes.run(move |c| write::release_orphans(c, before, BATCH)).await
    }

    pub(super) async fn move_to(
        &self,
        key: Key,
        epoch: u64,
        place: Place,
        at: UnixMs,
    ) -> Result<u64, MoveError> {
        self.changes.run(move |c| write::move_to(c, &key, epoch, &place, at)).await?
    }

    pub(super) async fn change(&self, key: Key, change: Change, at: UnixMs) -> Result<(), ChangeError> {
        self.changes.run(move |c| write::change(c, &key, &change, at)).await?
    }

    pub(super) async fn touch(&self, keys: Vec<Key>, at: UnixMs) -> Result<(), StoreError> {
        self.changes.run(move |c| write::touch(c, &keys, at, true)).await
    }

    pub(super) async fn forget(&self, key: Key) -> Result<bool, StoreError> {
        self.changes.run(move |c| write::forget(c, &key)).await
    }

    pub(super) async fn take_due(
        &self,
        at: UnixMs,
        again: UnixMs,
        most: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.changes.run(move |c| write::take_due(c, at, again, most)).await
    }

    pub(super) async fn record_fence(&self, key: Key, fence: u64) -> Result<(), FenceError> {
        self.changes.run(move |c| write::record_fence(c, &key, fence)).await?
    }

    pub(super) async fn find(&self, who: Identity, id: SessionId) -> Result<Option<Entry>, StoreError> {
        self.questions.run(move |c| read::find(c, &who, id.as_str())).await
    }

    pub(super) async fn resolve(
        &self,
        who: Identity,
        reference: Reference,
    ) -> Result<Resolution, StoreError> {
        self.questions.run(move |c| read::resolve(c, &who, &reference)).await
    }

    pub(super) async fn list(
        &self,
        who: Identity,
        list: List,
        after: Option<Position>,
    ) -> Result<Page, ListError> {
        Ok(self.questions.run(move |c| read::list(c, &who, &list, after)).await?)
    }
}
