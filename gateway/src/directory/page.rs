//! Lists in pages. A cursor is a position in the order, not a count: what is added or removed elsewhere
//! moves nothing.

use std::fmt::Write as _;

use super::{
    entry::{Entry, Key, Status},
    error::ListError,
};

/// The longest page.
pub const MAX_PAGE: usize = 500;

/// By what a list is sorted; ties by owner and id, so that the order is total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sort {
    /// By [`Entry::created`], which never changes: what is there from the first page to the last is listed
    /// exactly once.
    #[default]
    Started,
    /// By [`Entry::updated`]: a session that is used while it is listed moves to the young end, so it comes
    /// twice when the oldest come first, and may be passed over when the youngest do.
    Updated,
}

/// Which end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// The oldest.
    Ascending,
    /// The youngest.
    #[default]
    Descending,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Only those.
    pub status: Option<Status>,
    /// By what.
    pub sort: Sort,
    /// Which end first.
    pub order: Order,
    /// How many at most; at least 1 and at most [`MAX_PAGE`] are given.
    pub limit: usize,
    /// Where the last page ended; of the same sort and order.
    pub cursor: Option<String>,
}

impl Default for List {
    /// The youngest sessions.
    fn default() -> Self {
        Self { status: None, sort: Sort::Started, order: Order::Descending, limit: 100, cursor: None }
    }
}

/// Some entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order that was asked for.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// The entry that a page ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) at: u64,
    pub(super) owner: String,
    pub(super) id: String,
}

impl List {
    /// The limit, inside its bounds.
    pub(super) fn limit(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE)
    }

    pub(super) fn position(&self) -> Result<Option<Position>, ListError> {
        self.cursor.as_deref().map(|c| self.decode(c).ok_or(ListError::BadCursor)).transpose()
    }

    /// Of one entry more than asked for, if there is one.
    pub(super) fn page(&self, mut entries: Vec<Entry>) -> Page {
        let more = entries.len() > self.limit();
        entries.truncate(self.limit());
        let next = entries.last().filter(|_| more).map(|last| self.encode(last));
        Page { entries, next }
    }

    fn kind(&self) -> &'static str {
        match (self.sort, self.order) {
            (Sort::Started, Order::Ascending) => "sa",
            (Sort::Started, Order::Descending) => "sd",
            (Sort::Updated, Order::Ascending) => "ua",
            (Sort::Updated, Order::Descending) => "ud",
        }
    }

    /// Hexadecimal: fit for a URL, and nobody builds one by hand.
    fn encode(&self, last: &Entry) -> String {
        let at = match self.sort {
            Sort::Started => last.created,
            Sort::Updated => last.updated,
        };
        let Key { owner, id } = &last.key;
        let text = format!("{} {} {} {id}", self.kind(), at.0, owner.user);
        text.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    fn decode(&self, cursor: &str) -> Option<Position> {
        let digits = cursor.as_bytes().chunks(2);
        let bytes = digits.map(|d| {
            let both = str::from_utf8(d).ok().filter(|d| d.len() == 2 && !d.starts_with('+'))?;
            u8::from_str_radix(both, 16).ok()
        });
        let text = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
        let mut words = text.strip_prefix(self.kind())?.strip_prefix(' ')?.split(' ');
        let at = words.next()?.parse().ok()?;
        let (owner, id) = (words.next()?.to_owned(), words.next()?.to_owned());
        (words.next().is_none() && at <= super::MAX_NUMBER).then_some(Position { at, owner, id })
    }
}
