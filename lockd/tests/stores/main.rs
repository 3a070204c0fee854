//! What holds for leases and turns, whichever store keeps them: one suite, run for both.

#[path = "../common/mod.rs"]
mod common;
mod leases;
mod turns;

use common::{Redis, locks, ms};
use jetway_lockd::{Floors, Lockd, no_floors, store::MemoryStore};
use std::time::Duration;
use tokio::time::Instant;

pub(crate) const TTL: Duration = Duration::from_secs(2);

pub(crate) enum Store {
    Memory(MemoryStore),
    Redis(Redis),
}

impl Store {
    fn memory() -> Self {
        Self::Memory(MemoryStore::new(TTL))
    }

    /// A Redis whose first pause is over.
    async fn redis() -> Self {
        let redis = Redis::start(&[]);
        redis.lockd(TTL, no_floors()).await.shutdown().await;
        redis.settled().await;
        Self::Redis(redis)
    }

    pub(crate) async fn process(&self, floors: Floors) -> Lockd {
        match self {
            Self::Memory(store) => Lockd::over(store, &locks(TTL), floors),
            Self::Redis(redis) => redis.lockd(TTL, floors).await,
        }
    }

    pub(crate) async fn commands(&self) -> Option<u64> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => Some(redis.scripts_called().await),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }
}

macro_rules! suite {
    ($($part:ident::$test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$part::$test(crate::Store::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$part::$test(crate::Store::redis().await).await;
            })*
        }
    };
}

suite!(
    leases::contended_turns_never_overlap_and_fences_grow,
    leases::a_hundred_waiters_are_served_first_come_first_served,
    leases::who_leaves_the_line_is_skipped,
    leases::busy_and_timed_out_say_where_one_stood,
    leases::the_holder_hears_that_another_process_waits,
    leases::fences_are_above_what_is_stored_durably,
    leases::shutdown_waits_for_what_was_dropped,
    turns::a_session_is_handed_over_at_the_end_of_the_turn,
    turns::turns_under_a_held_lease_cost_no_command,
    turns::a_session_without_turns_is_given_up,
    turns::a_turn_that_would_not_wait,
    turns::who_waits_no_more_is_skipped,
    turns::a_tenure_ends_before_another_begins,
);

pub(crate) async fn waiting(lockd: &Lockd, n: usize) {
    eventually(|| lockd.status().waiting.iter().filter(|w| w.place.is_some()).count() == n).await;
}

pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain");
        tokio::time::sleep(ms(2)).await;
    }
}
