//! How many denials of one source are written down.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Instant,
};

use jetway_config::limits::AUDIT_DENIALS;

/// Sources are told apart by their hash, so that there is a bound to what is kept of them. Two that share a place
/// share what may be written down of them; which do, nobody can choose.
const PLACES: usize = 256;

/// A token bucket for each source.
#[derive(Debug)]
pub(super) struct Rates {
    places: Vec<Option<Bucket>>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Default for Rates {
    fn default() -> Self {
        Self { places: vec![None; PLACES], hasher: RandomState::new() }
    }
}

impl Rates {
    /// Whether one more may be written down now.
    pub(super) fn take(&mut self, source: &str, now: Instant) -> bool {
        let (rate, burst) = (f64::from(AUDIT_DENIALS.0), f64::from(AUDIT_DENIALS.1));
        let place = self.hasher.hash_one(source) as usize % PLACES;
        let bucket = self.places[place].get_or_insert(Bucket { left: burst, at: now });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        *bucket = Bucket { left: (bucket.left + earned).min(burst), at: now };
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_source_has_a_burst_and_then_a_rate() {
        let (rate, burst) = AUDIT_DENIALS;
        let (mut rates, start) = (Rates::default(), Instant::now());
        let taken = |rates: &mut Rates, now| (0..10 * burst).filter(|_| rates.take("acme", now)).count();
        assert_eq!(taken(&mut rates, start), burst as usize);
        assert_eq!(taken(&mut rates, start + Duration::from_secs(1)), rate as usize);
        assert_eq!(taken(&mut rates, start + Duration::from_secs(100)), burst as usize);
        // Time that runs backwards earns nothing.
        assert_eq!(taken(&mut rates, start), 0);
        // Of a hundred others hardly any shares its place.
        let others = (0..100).filter(|n| rates.take(&format!("tenant-{n}"), start)).count();
        assert!(others > 80, "{others}");
    }
}
