//! How fast a server answers, against how fast it was at first. Pure.

use std::{collections::VecDeque, time::Duration};

/// So many answers tell how fast a server was at first: enough for those of a cold start not to count.
const FIRST: usize = 15;
/// So many tell how fast it is now.
const LAST: usize = 9;
/// What is faster than this nobody notices, by whatever factor it was faster once.
const FLOOR: Duration = Duration::from_millis(100);

/// The times of one kind of answer. Medians, so that neither a slow model nor a busy moment is an ageing server.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    first: Option<Duration>,
    /// The first ones until there are enough of them, then the last ones.
    times: VecDeque<Duration>,
}

impl Pace {
    /// One more answer took so long.
    pub(crate) fn note(&mut self, took: Duration) {
        if self.first.is_some() && self.times.len() == LAST {
            self.times.pop_front();
        }
        self.times.push_back(took);
        if self.first.is_none() && self.times.len() == FIRST {
            self.first = median(&self.times);
            self.times.clear();
        }
    }

    /// By which factor it is slower than at first; `None` until that is known.
    pub(crate) fn slower(&self) -> Option<f64> {
        let first = self.first?.max(FLOOR);
        let last = median(&self.times).filter(|_| self.times.len() == LAST)?;
        Some(last.as_secs_f64() / first.as_secs_f64())
    }
}

fn median(times: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<_> = times.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(times: impl IntoIterator<Item = u64>) -> Option<f64> {
        let mut pace = Pace::default();
        times.into_iter().for_each(|ms| pace.note(Duration::from_millis(ms)));
        pace.slower()
    }

    #[test]
    fn what_grows_slow_is_seen_and_what_is_slow_at_times_is_not() {
        let steady = || std::iter::repeat_n(1000, FIRST);
        assert_eq!(paced(steady()), None);
        assert_eq!(paced(steady().chain([9000; LAST - 1])), None);
        assert_eq!(paced(steady().chain([9000; LAST])), Some(9.0));
        assert_eq!(paced(steady().chain([9000, 1000].repeat(LAST))), Some(1.0));
        assert_eq!(paced(steady().chain([60_000; LAST]).chain([1500; LAST])), Some(1.5), "it recovers");
        // A cold start does not make it look fast afterwards, nor a lone quick answer slow.
        assert_eq!(paced([20_000; 3].into_iter().chain([1000; FIRST - 3]).chain([1000; LAST])), Some(1.0));
        // 30 times as slow, and still nothing to notice.
        assert_eq!(paced([1; FIRST].into_iter().chain([30; LAST])), Some(0.3));
    }
}
