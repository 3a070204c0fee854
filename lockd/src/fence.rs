//! The number that tells a later holder from an earlier one.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Epochs are in the high bits.
const EPOCH_SHIFT: u32 = 21;

/// Epochs count seconds, at least, from 2025 on.
const EPOCH_ZERO: Duration = Duration::from_secs(1_735_689_600);

/// A lease's number: later leases of a session have larger ones, for ever. Whoever acts for a session
/// keeps the largest it has seen and refuses what carries a smaller one.
///
/// An epoch and a counter in one integer below 2⁵³, so that Lua counts exactly. The counter is the store's;
/// a store that may have forgotten some begins an epoch: above all that anybody knows, and not below the
/// second it is, so that even what nobody knows any more is not repeated. A counter that runs over goes on
/// in the next epoch, and cannot overtake the clock at less than two million leases a second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence(u64);

impl Fence {
    /// Below every fence: no lease is known.
    pub const NONE: Self = Self(0);

    /// The `counter`th fence of an epoch.
    pub fn new(epoch: u32, counter: u32) -> Self {
        Self((u64::from(epoch) << EPOCH_SHIFT) + u64::from(counter))
    }

    /// The beginning of the epoch of a second.
    pub fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH + EPOCH_ZERO).unwrap_or_default();
        Self::new(u32::try_from(since.as_secs()).unwrap_or(u32::MAX), 0)
    }

    /// As kept and sent: the order of the integers is that of the fences.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// What [`to_u64`](Self::to_u64) gave.
    pub fn from_u64(n: u64) -> Self {
        Self(n)
    }

    /// Since when the store remembers: an older store's fences have a smaller one.
    pub fn epoch(self) -> u32 {
        (self.0 >> EPOCH_SHIFT) as u32
    }

    /// Which lease of the epoch.
    pub fn counter(self) -> u32 {
        (self.0 & ((1 << EPOCH_SHIFT) - 1)) as u32
    }

    /// The one after this.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// What a counter is set to that may have missed some fences after this one.
    pub(crate) fn next_epoch(self) -> Self {
        Self((u64::from(self.epoch()) + 1) << EPOCH_SHIFT)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.counter())
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_above_all_of_the_one_before() {
        let last = Fence::new(3, (1 << EPOCH_SHIFT) - 1);
        assert!(last < last.next_epoch() && last.next_epoch() < last.next_epoch().next());
        assert_eq!(last.next_epoch(), Fence::new(4, 0));
        assert_eq!((last.epoch(), last.counter()), (3, (1 << EPOCH_SHIFT) - 1));
        assert_eq!(last.next(), Fence::new(4, 0));
        assert!(Fence::new(u32::MAX, 0).next_epoch().to_u64() <= 1 << 53);
        assert_eq!(Fence::at(UNIX_EPOCH), Fence::NONE);
        assert_eq!(Fence::at(UNIX_EPOCH + EPOCH_ZERO + Duration::from_secs(9)), Fence::new(9, 0));
        assert_eq!(Fence::from_u64(last.to_u64()), last);
        assert_eq!(Fence::NONE.next_epoch().to_string(), "1.0");
    }
}
