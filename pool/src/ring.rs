//! Who belongs where: a consistent hash ring over the fleet's servers, with bounded load.
//!
//! Several gateways must agree on the ring without talking to each other, so nothing here depends on the
//! process, the platform or the version of a library's hasher: names are digested by [`digest`]. The crate
//! says who owns which arc of the ring; here that is laid out for fast look-ups.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use consistent_hash_ring::RingBuilder;

/// Points on the ring per unit of weight. Measured with `cargo run --release -p jetway-pool --example
/// ring_quality`: so many keep the fullest of 100 servers within 1.10 of the mean, before any bound on load
/// (128 points: 1.25, 640: 1.10, barely), and cost 2 ms to build for 10 servers, 25 ms for 100.
pub const POINTS_PER_WEIGHT: usize = 1024;

/// No server is given more than this many per cent of its fair share.
pub const MAX_LOAD_PERCENT: u64 = 125;

/// Servers' places on the ring. Building it takes milliseconds; it never changes.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Where each arc ends, ascending; the last is `u64::MAX` unless the ring is empty.
    ends: Vec<u64>,
    /// The server of each arc, by its index in the list that the ring was built from.
    owners: Vec<u16>,
    /// For each value of a position's leading bits, the first arc that can hold it: a look-up is one jump
    /// and, on average, less than one step.
    starts: Vec<u32>,
    shift: u32,
}

/// One of a server's points on the ring, at `finish(state)`.
#[derive(Clone, PartialEq, Eq)]
struct Point {
    state: u64,
    owner: u16,
}

impl Hash for Point {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.state);
    }
}

/// [`digest`] in the crate's terms.
#[derive(Default)]
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = absorb(self.0, bytes);
    }

    fn write_u64(&mut self, state: u64) {
        self.0 = state;
    }

    fn finish(&self) -> u64 {
        finish(self.0)
    }
}

impl Ring {
    /// A ring of servers by name and weight; at most 65,535 of them, and weight 0 owns nothing.
    pub fn new<'a>(servers: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut points = Vec::new();
        for (owner, (name, weight)) in (0..u16::MAX).zip(servers) {
            let name = digest([name]);
            let count = (weight as usize).saturating_mul(POINTS_PER_WEIGHT) as u64;
            points.extend((0..count).map(|n| Point { state: absorb(name, &n.to_le_bytes()), owner }));
        }
        // The crate inserts into a sorted vector: in order, that is an append instead of a shift.
        points.sort_unstable_by_key(|p| finish(p.state));
        let ring =
            RingBuilder::new(BuildHasherDefault::<Digest>::default()).vnodes(1).nodes_iter(points).build();
        let mut ends = Vec::with_capacity(ring.len());
        let mut owners: Vec<u16> = Vec::with_capacity(ring.len());
        for arc in ring.resident_ranges() {
            let (end, owner) = (*arc.keys().end(), arc.node().owner);
            if owners.last() == Some(&owner) {
                // Two points of one server next to each other are one arc to us.
                ends.pop();
                owners.pop();
            }
            ends.push(end);
            owners.push(owner);
        }
        let bits = (ends.len() * 2).next_power_of_two().trailing_zeros().max(1);
        let shift = u64::BITS - bits;
        let first = |slot: u64| ends.partition_point(|end| *end < slot << shift) as u32;
        Self { starts: (0..1 << bits).map(first).collect(), ends, owners, shift }
    }

    /// The server at home at `position`, or the next one along the ring that `takes` it; `None` when none does.
    ///
    /// `takes` may be asked about one server several times.
    pub fn place(&self, position: u64, mut takes: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut at = self.starts[(position >> self.shift) as usize] as usize;
        while self.ends.get(at).is_some_and(|end| *end < position) {
            at += 1;
        }
        let (before, from) = self.owners.split_at_checked(at)?;
        from.iter().chain(before).map(|owner| usize::from(*owner)).find(|owner| takes(*owner))
    }
}

/// How much load a server of `weight` may carry once one more is placed, given the `total` load and weight of
/// all servers that can be used. Over all of them this is more than `total`, so one always has room.
pub fn bound(total_load: u64, weight: u32, total_weight: u64) -> u64 {
    let fair = u128::from(total_load + 1) * u128::from(weight) * u128::from(MAX_LOAD_PERCENT);
    fair.div_ceil(100 * u128::from(total_weight.max(1))) as u64
}

/// A position on the ring for a name in parts: the same in every process, on every platform, for good.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    finish(parts.into_iter().fold(SEED, |state, part| absorb(state, part.as_bytes())))
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const STEP: u64 = 0xd6e8_feb8_6659_fd93;

/// Each word is folded in by a full multiplication, so that names which differ only in their last character
/// end up far apart (FNV, the crate's default, leaves them neighbours).
fn absorb(mut state: u64, bytes: &[u8]) -> u64 {
    let mut fold = |word: u64| {
        let product = u128::from(state ^ word) * u128::from(STEP);
        state = (product as u64) ^ ((product >> 64) as u64);
    };
    // The length first: ("ab", "c") is not ("a", "bc").
    fold(bytes.len() as u64 ^ SEED);
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| fold(u64::from_le_bytes(*word)));
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        fold(u64::from_le_bytes(word));
    }
    state
}

/// Spreads every bit of the state over all bits of the position.
fn finish(mut state: u64) -> u64 {
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: u64 = 100_000;

    fn names(n: usize, sequential: bool) -> Vec<String> {
        let name = |i| if sequential { format!("cli-{i}:4321") } else { format!("{:x}:4321", finish(i)) };
        (1..=n as u64).map(name).collect()
    }

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn positions() -> impl Iterator<Item = u64> {
        (0..USERS).map(|i| digest(["acme", &format!("user-{i}")]))
    }

    fn max_over_mean(ring: &Ring, n: usize) -> f64 {
        let mut loads = vec![0_u64; n];
        positions().for_each(|at| loads[ring.place(at, |_| true).unwrap()] += 1);
        *loads.iter().max().unwrap() as f64 * n as f64 / USERS as f64
    }

    /// Names are placed the same by every version of Jetway: these numbers may never change.
    #[test]
    fn digests_are_for_good() {
        assert_eq!(digest(["acme", "ada"]), 8708643269288716003);
        assert_eq!(digest(["local", "a-name-longer-than-eight-bytes"]), 5669704409820219748);
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_ne!(digest(["a", ""]), digest(["a"]));
    }

    #[test]
    fn even_for_sequential_names_as_for_random_ones() {
        for n in [3, 10, 100] {
            // A hundred thousand users on a hundred servers scatter by 3 % each by themselves.
            let goal = if n == 100 { 1.15 } else { 1.10 };
            for sequential in [true, false] {
                let evenness = max_over_mean(&ring(&names(n, sequential)), n);
                assert!(evenness <= goal, "{n} servers, sequential {sequential}: {evenness}");
            }
        }
    }

    #[test]
    fn a_server_that_joins_takes_its_share_and_nothing_else_moves() {
        for n in [3, 10, 100] {
            let names = names(n + 1, true);
            let (before, after) = (ring(&names[..n]), ring(&names));
            let mut moved = 0;
            for at in positions() {
                let (old, new) = (before.place(at, |_| true), after.place(at, |_| true));
                assert!(new == old || new == Some(n));
                moved += u64::from(new != old);
            }
            let share = moved as f64 * (n + 1) as f64 / USERS as f64;
            assert!((0.85..=1.15).contains(&share), "{n}: {share}");
        }
    }

    #[test]
    fn a_server_that_is_down_loses_its_users_to_all_others() {
        let ring = ring(&names(10, true));
        let mut heirs = [0; 10];
        for at in positions() {
            let (home, refuge) = (ring.place(at, |_| true), ring.place(at, |server| server != 4));
            if home == Some(4) { heirs[refuge.unwrap()] += 1 } else { assert_eq!(home, refuge) }
        }
        assert!(heirs.iter().enumerate().all(|(heir, users)| (heir == 4) == (*users == 0)), "{heirs:?}");
        assert!(*heirs.iter().max().unwrap() < heirs.iter().sum::<i32>() / 4, "{heirs:?}");
    }

    #[test]
    fn weights_and_nobody() {
        let weighted = Ring::new([("a", 1), ("b", 3), ("none", 0)]);
        let at_b = positions().filter(|at| weighted.place(*at, |_| true) == Some(1)).count();
        assert!((0.72..0.78).contains(&(at_b as f64 / USERS as f64)), "{at_b}");
        assert_eq!(weighted.place(7, |_| false), None);
        for empty in [Ring::new([]), Ring::new([("none", 0)])] {
            assert_eq!(empty.place(0, |_| true), None);
            assert_eq!(empty.place(u64::MAX, |_| true), None);
        }
        let alone = Ring::new([("a", 1)]);
        assert!([0, 1, u64::MAX].iter().all(|at| alone.place(*at, |_| true) == Some(0)));
    }

    #[test]
    fn bounds_leave_room() {
        for weights in [vec![1], vec![1, 1, 1], vec![1, 2, 100], vec![7; 100]] {
            let total_weight = weights.iter().map(|w| u64::from(*w)).sum();
            for load in [0, 1, 2, 99, 1_000_000] {
                let room: u64 = weights.iter().map(|w| bound(load, *w, total_weight)).sum();
                assert!(room > load, "{weights:?} {load}");
            }
        }
        assert_eq!(bound(999, 1, 10), 125);
    }
}
