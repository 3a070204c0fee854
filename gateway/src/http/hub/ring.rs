//! The latest events of a session, numbered, within bounds. Reads no clock and does no I/O.

use std::{collections::VecDeque, fmt, str::FromStr, sync::Arc};

use bytes::Bytes;

/// How many events of a session are kept, and how many bytes of them: some long turns' worth of deltas. A reader that
/// was away comes back within seconds, not hours.
pub(crate) const OF_SESSION: Room = Room { events: 8192, bytes: 2 << 20 };
/// What an event takes beside its data.
const OVERHEAD: usize = 96;

/// An event as subscribers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: EventId,
    /// The CLI's own type, or one of Jetway's, which begin with `jetway.`.
    pub(crate) kind: Box<str>,
    /// JSON without line breaks.
    pub(crate) data: Bytes,
}

/// Names an event: which life of this gateway, and which of its events. It only grows within that life,
/// whatever becomes of the buffer in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    pub(crate) boot: u32,
    pub(crate) n: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.boot, self.n)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (boot, n) = text.split_once('-').ok_or(())?;
        let boot = u32::from_str_radix(boot, 16).map_err(drop)?;
        Ok(Self { boot, n: n.parse().map_err(drop)? })
    }
}

/// The events after a place are not all here any more, or the place is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Ring {
    room: Room,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The latest event that was here and is not any more.
    floor: EventId,
    last: EventId,
}

impl Ring {
    /// An empty one, whose events will come after `last`.
    pub(crate) fn new(last: EventId, room: Room) -> Self {
        Self { room, events: VecDeque::new(), bytes: 0, floor: last, last }
    }

    /// The latest event, or what comes before the first one.
    pub(crate) fn last(&self) -> EventId {
        self.last
    }

    /// Adds an event, which must be later than all before; the oldest make way.
    pub(crate) fn push(&mut self, event: Event) {
        self.last = event.id;
        self.bytes += size(&event);
        self.events.push_back(Arc::new(event));
        // The latest stays, however large it is.
        while self.events.len() > 1 && (self.events.len() > self.room.events || self.bytes > self.room.bytes)
        {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.floor = oldest.id;
        }
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.last, self.room);
    }

    /// Something may have happened by `at` that is not told here: whoever reads has to look for themselves.
    pub(crate) fn interrupt(&mut self, at: EventId) {
        *self = Self::new(at, self.room);
    }

    /// At most `most` of the events after `place`, oldest first.
    pub(crate) fn after(&self, place: EventId, most: usize) -> Result<Vec<Arc<Event>>, Moved> {
        if place < self.floor || place > self.last || place.boot != self.last.boot {
            return Err(Moved);
        }
        let from = self.events.partition_point(|event| event.id <= place);
        Ok(self.events.iter().skip(from).take(most).cloned().collect())
    }
}

fn size(event: &Event) -> usize {
    OVERHEAD + event.kind.len() + event.data.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> EventId {
        EventId { boot: 7, n }
    }

    fn event(n: u64, len: usize) -> Event {
        Event { id: id(n), kind: "x".into(), data: vec![b'x'; len].into() }
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = EventId { boot: 0xab, n: 12 };
        assert_eq!((id.to_string().as_str(), id.to_string().parse()), ("000000ab-12", Ok(id)));
        for bad in ["", "-", "1", "x-1", "1-x", "1--1", "100000000-1"] {
            assert_eq!(bad.parse::<EventId>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn another_life_is_no_place() {
        let mut ring = Ring::new(id(0), OF_SESSION);
        ring.push(event(1, 1));
        assert_eq!(ring.after(EventId { boot: 6, n: 0 }, 9), Err(Moved));
        assert_eq!(ring.after(EventId { boot: 8, n: 0 }, 9), Err(Moved));
        assert_eq!(ring.after(id(2), 9), Err(Moved), "it has not happened yet");
    }

    proptest! {
        /// Whatever is read after a place is all that came after it; or it says that it is not.
        #[test]
        fn nothing_is_missing_unsaid(sizes in prop::collection::vec(0_usize..400_000, 1..60), at in 0_u64..60, most in 1_usize..70) {
            let mut ring = Ring::new(id(0), OF_SESSION);
            let mut all = Vec::new();
            for (n, size) in (1..).zip(sizes) {
                ring.push(event(n, size));
                all.push(id(n));
                prop_assert!(ring.bytes <= OF_SESSION.bytes || ring.events.len() == 1);
            }
            let expected: Vec<_> = all.iter().copied().filter(|i| i.n > at).take(most).collect();
            match ring.after(id(at), most) {
                Ok(found) => prop_assert_eq!(found.iter().map(|e| e.id).collect::<Vec<_>>(), expected),
                Err(Moved) => prop_assert!(at < ring.floor.n || at > ring.last.n),
            }
        }
    }
}
