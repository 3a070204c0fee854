use proptest::prelude::*;

use super::*;
use jetway_config::ByteSize;

const WAIT: Duration = Duration::from_secs(60);

fn rules() -> Recycle {
    Recycle { max_turns: Some(10), restart_wait: WAIT, ..Recycle::default() }
}

fn worn() -> Vitals {
    Vitals { turns: 10, open: true, ..Vitals::default() }
}

/// The vitals of servers numbered from 0, after the shell has done what the steps say.
fn done(servers: &mut [(usize, Vitals)], steps: &[Step<usize>]) {
    for step in steps {
        match step {
            Step::Leave(n, _) => {
                (servers[*n].1.draining, servers[*n].1.open) = (Some(DrainReason::Recycle), false)
            }
            Step::Spare(n, _) => (servers[*n].1.draining, servers[*n].1.open) = (None, true),
        }
    }
}

#[test]
fn every_rule_counts_and_what_is_not_given_does_not() {
    let all = Recycle {
        max_age: Some(Duration::from_secs(100)),
        max_sessions: Some(50),
        max_turns: Some(10),
        max_rss: Some(ByteSize(1000)),
        latency_factor: Some(4.0),
        ..Recycle::default()
    };
    let fine = Vitals {
        memory: Some(1000),
        slower: Some(4.0),
        age: Duration::from_secs(99),
        turns: 9,
        sessions: 49,
        open: true,
        ..Vitals::default()
    };
    let beyond = [
        (Some(Cause::Hung), Vitals { hung: true, ..fine }),
        (Some(Cause::Memory), Vitals { memory: Some(1001), ..fine }),
        (Some(Cause::Latency), Vitals { slower: Some(4.1), ..fine }),
        (Some(Cause::Age), Vitals { age: Duration::from_secs(100), ..fine }),
        (Some(Cause::Turns), Vitals { turns: 10, ..fine }),
        (Some(Cause::Sessions), Vitals { sessions: 50, ..fine }),
        (None, fine),
    ];
    for (expected, vitals) in beyond {
        let steps = Recycler::of_processes(&all).look(&[(0, vitals)], Instant::now());
        assert_eq!(steps, expected.map(|cause| Step::Leave(0, cause)).into_iter().collect::<Vec<_>>());
        let steps = Recycler::of_processes(&Recycle::default()).look(&[(0, vitals)], Instant::now());
        assert_eq!(steps.len(), usize::from(vitals.hung), "only what is hung goes unasked");
    }
}

#[test]
fn the_urgent_first_then_those_whom_nobody_uses() {
    let used = Vitals { used: true, ..worn() };
    let servers = [(0, used), (1, worn()), (2, Vitals { hung: true, ..used }), (3, worn())];
    let now = Instant::now();
    let mut recycler = Recycler::of_processes(&rules());
    assert_eq!(recycler.look(&servers, now), [Step::Leave(2, Cause::Hung)]);
    recycler.replaced(2);
    assert_eq!(recycler.look(&[servers[0], servers[1]], now), [Step::Leave(1, Cause::Turns)]);
}

#[test]
fn a_fleets_server_that_nobody_restarts_is_spared_until_it_is_fresh() {
    let mut now = Instant::now();
    let mut servers = [(0, worn()), (1, worn())];
    let mut recycler = Recycler::of_fleet(&rules());
    let steps = recycler.look(&servers, now);
    assert_eq!(steps, [Step::Leave(0, Cause::Turns)]);
    done(&mut servers, &steps);
    assert_eq!(recycler.look(&servers, now), [], "the other one is needed meanwhile");
    now += WAIT;
    let steps = recycler.look(&servers, now);
    assert_eq!(steps, [Step::Spare(0, Cause::Turns)]);
    done(&mut servers, &steps);
    let steps = recycler.look(&servers, now);
    assert_eq!((&steps[..], recycler.cause(0)), (&[Step::Leave(1, Cause::Turns)][..], Some(Cause::Turns)));
    done(&mut servers, &steps);
    (servers[0].1.turns, servers[1].1) = (0, Vitals { turns: 0, ..worn() });
    recycler.replaced(0);
    recycler.replaced(1);
    assert_eq!((recycler.look(&servers, now), recycler.cause(0), recycler.cause(1)), (vec![], None, None));
}

#[test]
fn a_fleet_of_one_stays() {
    let mut recycler = Recycler::of_fleet(&rules());
    assert_eq!(recycler.look(&[(0, worn())], Instant::now()), []);
    assert_eq!(recycler.cause(0), Some(Cause::Turns), "and it is known why it should not");
}

#[derive(Debug, Clone)]
enum Event {
    /// A server becomes worn, or recovers.
    Wear(usize, bool),
    /// An operator drains one, or takes any drain back.
    Operator(usize, bool),
    /// One that is drained is replaced.
    Fresh(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..SERVERS, prop::bool::weighted(0.8)).prop_map(|(n, worn)| Event::Wear(n, worn)),
        1 => (0..SERVERS, any::<bool>()).prop_map(|(n, drains)| Event::Operator(n, drains)),
        2 => (0..SERVERS).prop_map(Event::Fresh),
        2 => (0..40_u64).prop_map(Event::Pass),
    ]
}

const SERVERS: usize = 8;

proptest! {
    /// Against what a naive reader of the rules keeps: who leaves is worn and nobody's else; never more than the share,
    /// never the last one that is open; what is spared stays until it is fresh; nobody who may leave is kept waiting.
    #[test]
    fn laws(fleet: bool, percent in 1..=50_u8, events in prop::collection::vec(event(), 0..200)) {
        let share = jetway_config::Share::percent(percent);
        let rules = Recycle { share, ..rules() };
        let most = share.of(SERVERS);
        let mut recycler =
            if fleet { Recycler::of_fleet(&rules) } else { Recycler::of_processes(&rules) };
        let mut now = Instant::now();
        let mut servers: Vec<_> = (0..SERVERS).map(|n| (n, Vitals { open: true, ..Vitals::default() })).collect();
        let mut since: [Option<Instant>; SERVERS] = [None; SERVERS];
        let mut spared = [false; SERVERS];
        for event in events {
            match event {
                Event::Wear(n, worn) => servers[n].1.turns = if worn { 10 } else { 0 },
                Event::Operator(n, drains) => {
                    servers[n].1.draining = drains.then_some(DrainReason::Operator);
                    servers[n].1.open = !drains;
                    spared[n] |= since[n].take().is_some();
                }
                Event::Fresh(n) if servers[n].1.draining == Some(DrainReason::Recycle) => {
                    recycler.replaced(n);
                    servers[n].1 = Vitals { open: true, ..Vitals::default() };
                    (since[n], spared[n]) = (None, false);
                }
                Event::Fresh(_) => {}
                Event::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            let before = servers.clone();
            let steps = recycler.look(&servers, now);
            for step in &steps {
                match *step {
                    Step::Spare(n, cause) => {
                        prop_assert!(fleet && cause == Cause::Turns);
                        prop_assert!(since[n].take().is_some_and(|at| now >= at + WAIT));
                        spared[n] = true;
                    }
                    Step::Leave(n, cause) => {
                        let Vitals { turns, draining, .. } = before[n].1;
                        prop_assert!(turns == 10 && cause == Cause::Turns && draining.is_none() && !spared[n]);
                        prop_assert_eq!(since[n].replace(now), None);
                    }
                }
            }
            done(&mut servers, &steps);
            let leaving = since.iter().flatten().filter(|at| now < **at + WAIT).count();
            let open = servers.iter().filter(|(_, v)| v.open).count();
            prop_assert!(leaving <= most, "{leaving} leave");
            let left = steps.iter().filter(|s| matches!(s, Step::Leave(..))).count();
            prop_assert!(left == 0 || !fleet || open > 0, "the last one was left");
            let waits = (0..SERVERS).any(|n| {
                servers[n].1.turns == 10 && servers[n].1.draining.is_none() && !spared[n]
            });
            // What is spared just now counts as open from the next look on.
            let open = open - steps.iter().filter(|s| matches!(s, Step::Spare(..))).count();
            let may = leaving < most && (!fleet || open > 1);
            prop_assert!(!(waits && may), "{servers:?}");
            for n in 0..SERVERS {
                prop_assert_eq!(recycler.cause(n).is_some(), since[n].is_some() || spared[n] || servers[n].1.turns == 10);
            }
        }
    }
}
