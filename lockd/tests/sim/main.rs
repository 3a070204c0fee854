//! Leases under simulated faults, by seed: delays, losses, stopped and killed processes, stores that come
//! back empty or older, clocks that jump. `LOCKD_SEED=n` replays one seed, `LOCKD_SEEDS=n` runs that many.

mod history;
mod process;
mod world;

use history::{Violation, What, check};
use process::Bug;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};
use world::{recovered, run};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is wrong with a seed's history, if anything.
fn violation(seed: u64, bug: Bug) -> Option<Violation> {
    let world = run(seed, bug);
    check(&world.history, !world.jumps).err()
}

/// Check 13, and 14 by simulation.
#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = variable("LOCKD_SEED") {
        let world = run(seed, Bug::None);
        println!("seed {seed}: {:#?}", world.faults);
        world.history.iter().for_each(|record| println!("{record:?}"));
        check(&world.history, !world.jumps).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        assert!(recovered(&world), "seed {seed}: not every session had turns again");
        return;
    }
    let seeds = variable("LOCKD_SEEDS").unwrap_or(400);
    let begun = Instant::now();
    let (next, turns, grants, faults, jumps) = Default::default();
    let counters: (&AtomicU64, [&AtomicU64; 4]) = (&next, [&turns, &grants, &faults, &jumps]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| work(seeds, counters));
        }
    });
    let [turns, grants, faults, jumps] = counters.1.map(|n| n.load(Ordering::Relaxed));
    println!(
        "check 13: {seeds} seeds, {faults} faults, {grants} grants, {turns} turns ended, 0 violations, in {:?}\n\
         check 14 (simulated): {jumps} of the seeds with clocks that jump by 30 s, 0 fence violations",
        begun.elapsed()
    );
    assert!(turns > seeds * 5, "turns are had at all");
}

fn work(seeds: u64, (next, [turns, grants, faults, jumps]): (&AtomicU64, [&AtomicU64; 4])) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds {
            return;
        }
        let world = run(seed, Bug::None);
        let replay = format!("replay with LOCKD_SEED={seed}; faults: {:#?}", world.faults);
        check(&world.history, !world.jumps).unwrap_or_else(|e| panic!("{e:?}; {replay}"));
        assert!(recovered(&world), "not every session had turns again; {replay}");
        let count = |what| world.history.iter().filter(|record| record.what == what).count() as u64;
        turns.fetch_add(count(What::Ended), Ordering::Relaxed);
        grants.fetch_add(count(What::Granted), Ordering::Relaxed);
        faults.fetch_add(world.faults.len() as u64, Ordering::Relaxed);
        jumps.fetch_add(u64::from(world.jumps), Ordering::Relaxed);
    }
}

/// Check 12: what does not find these finds nothing.
#[test]
fn the_checker_finds_seeded_bugs() {
    for bug in [Bug::GetThenDelete, Bug::NoRenewal, Bug::NoLastHop] {
        let begun = Instant::now();
        let found = (0..).take_while(|_| begun.elapsed() < Duration::from_secs(60)).find_map(|seed| {
            let violation = violation(seed, bug)?;
            // The bug's, not the checker's.
            assert_eq!(self::violation(seed, Bug::None), None, "seed {seed}");
            Some((seed, violation))
        });
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} not found in 60 s"));
        println!("check 12: {bug:?} caught at seed {seed} after {:?}: {violation:?}", begun.elapsed());
        match bug {
            Bug::NoLastHop => assert!(matches!(violation, Violation::Stale(..))),
            _ => assert!(matches!(violation, Violation::Overlap(..))),
        }
    }
}

#[test]
fn a_seed_is_replayed_exactly() {
    for seed in 0..20 {
        let [one, two] = [run(seed, Bug::None), run(seed, Bug::None)];
        assert_eq!(format!("{:?}", one.history), format!("{:?}", two.history), "seed {seed}");
    }
}
