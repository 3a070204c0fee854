//! What a session's turns wait for, and what becomes of them when their CLI process is lost: in a new one they may go
//! on if all that is known of them, by whichever connection, is that they wait for their people.
//!
//! Reads no clock and does no I/O.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many requests are kept in mind that wait or were answered: far more than a turn makes at once, and than come
/// by one connection before another tells of the first of them.
const MAX_KNOWN: usize = 256;

/// What a client waits for whose CLI process is lost: whether its turn goes on.
#[derive(Debug, Default)]
pub(crate) struct Hope(AtomicBool);

impl Hope {
    fn give_up(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Stranded {
    hope: Arc<Hope>,
    /// All connections by which it was attached are lost. One alone may be lost by itself.
    by_all: bool,
}

/// What is known of a session's running turns.
#[derive(Debug, Default)]
pub(crate) struct Stand {
    /// What their people are asked and have not answered.
    open: VecDeque<Box<str>>,
    /// What they have answered: other connections may yet tell that it was asked.
    answered: VecDeque<Box<str>>,
    /// Something else was on its way to the CLI by a connection that is lost.
    acting: bool,
    stranded: Option<Stranded>,
}

impl Stand {
    /// A connection tells that people are asked.
    pub(super) fn asked(&mut self, id: &str) {
        if !holds(&self.open, id) && !holds(&self.answered, id) {
            note(&mut self.open, id);
        }
    }

    /// An answer is sent on, or a connection tells of one: what it leads to may be under way.
    pub(super) fn answered(&mut self, id: &str) {
        self.open.retain(|open| **open != *id);
        if !holds(&self.answered, id) {
            note(&mut self.answered, id);
        }
    }

    /// A connection is lost by which something else was on its way to the CLI, which may act.
    pub(super) fn acting(&mut self) {
        self.acting = true;
    }

    /// Whether the turns wait for their people, and may outlive their process.
    pub(super) fn waits(&self) -> bool {
        !self.acting && !self.open.is_empty()
    }

    /// A connection is lost whose client brings the session back; `last`: it was the last that had it attached.
    pub(super) fn strand(&mut self, last: bool) -> Arc<Hope> {
        let stranded = self.stranded.get_or_insert_with(|| Stranded { hope: Arc::default(), by_all: false });
        stranded.by_all |= last;
        stranded.hope.clone()
    }

    /// The last connection is lost or left. Returns whether others wait for the turns to go on.
    pub(super) fn left_by_all(&mut self) -> bool {
        let waits = self.waits();
        let stranded = self.stranded.as_mut().filter(|_| waits);
        stranded.map(|stranded| stranded.by_all = true).is_some()
    }

    /// Whether the turns have lost all their connections, and it is not known yet what becomes of them.
    pub(super) fn is_stranded(&self) -> bool {
        self.stranded.as_ref().is_some_and(|stranded| stranded.by_all)
    }

    /// Whether somebody waits with that hope.
    pub(super) fn is_hoped_for(&self, hope: &Arc<Hope>) -> bool {
        self.stranded.as_ref().is_some_and(|stranded| Arc::ptr_eq(&stranded.hope, hope))
    }

    /// Whether a journal by which those requests wait agrees with what was seen.
    pub(super) fn agrees(&self, open: &[Box<str>]) -> bool {
        self.waits() && self.open.len() == open.len() && open.iter().all(|id| holds(&self.open, id))
    }

    /// They go on. Returns whether they were still to.
    pub(super) fn go_on(&mut self) -> bool {
        self.stranded.take().is_some()
    }

    /// They do not, for those who lost their connections.
    pub(super) fn give_up(&mut self) {
        if let Some(stranded) = self.stranded.take() {
            stranded.hope.give_up();
        }
    }

    /// No turn runs any more.
    pub(super) fn end(&mut self) {
        self.give_up();
        *self = Self::default();
    }
}

fn holds(ids: &VecDeque<Box<str>>, id: &str) -> bool {
    ids.iter().any(|known| **known == *id)
}

fn note(ids: &mut VecDeque<Box<str>>, id: &str) {
    if ids.len() == MAX_KNOWN {
        ids.pop_front();
    }
    ids.push_back(id.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<Box<str>> {
        ids.iter().map(|id| (*id).into()).collect()
    }

    fn waiting(asked: &[&str]) -> Stand {
        let mut stand = Stand::default();
        asked.iter().for_each(|id| stand.asked(id));
        stand
    }

    #[test]
    fn turns_go_on_if_they_wait_for_what_the_journal_says() {
        let mut stand = waiting(&["a", "b"]);
        assert!(stand.agrees(&ids(&["b", "a"])));
        assert!(!stand.agrees(&ids(&["a"])) && !stand.agrees(&ids(&["a", "b", "c"])));
        stand.answered("a");
        assert!(!stand.agrees(&ids(&["a", "b"])) && stand.agrees(&ids(&["b"])));
        // Another connection tells later that it was asked.
        stand.asked("a");
        assert!(stand.agrees(&ids(&["b"])));
        stand.answered("b");
        assert!(!stand.waits());
    }

    #[test]
    fn one_connection_that_acts_is_enough_to_lose_them() {
        let mut stand = waiting(&["a"]);
        let hope = stand.strand(false);
        stand.acting();
        assert!(!stand.left_by_all() && !stand.is_stranded());
        stand.end();
        assert!(hope.is_given_up() && !stand.is_hoped_for(&hope));
    }

    #[test]
    fn they_are_stranded_once_the_last_connection_is_lost() {
        let mut stand = waiting(&["a"]);
        let hope = stand.strand(false);
        assert!(!stand.is_stranded() && stand.is_hoped_for(&hope));
        assert!(Arc::ptr_eq(&hope, &stand.strand(true)) && stand.is_stranded());
        assert!(stand.go_on() && !stand.go_on() && !hope.is_given_up());
        // Whoever leaves last for good leaves them to those who come back.
        stand.strand(false);
        assert!(stand.left_by_all() && stand.is_stranded());
    }

    #[test]
    fn those_without_anybody_who_comes_back_are_not() {
        assert!(!waiting(&["a"]).left_by_all());
        let mut stand = waiting(&[]);
        assert!(!stand.waits());
        stand.strand(true);
        assert!(!stand.left_by_all());
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut stand = Stand::default();
        for n in 0..2 * MAX_KNOWN {
            stand.asked(&n.to_string());
        }
        assert_eq!(stand.open.len(), MAX_KNOWN);
        for n in 0..2 * MAX_KNOWN {
            stand.answered(&n.to_string());
        }
        assert!(stand.open.is_empty() && stand.answered.len() == MAX_KNOWN);
    }
}
