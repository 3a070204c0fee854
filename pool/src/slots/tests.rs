use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MAX: usize = 3;
/// So many start at a time.
const STARTS: usize = 2;
/// Of the one tenant that has fewer.
const OF_TENANT: usize = 2;
const TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(1);

fn tenant_of(n: usize) -> &'static str {
    if n.is_multiple_of(2) { "acme" } else { "umbrella" }
}

fn most_of(tenant: &str) -> usize {
    if tenant == "acme" { OF_TENANT } else { MAX }
}

fn user(n: usize) -> Identity {
    Identity { tenant: tenant_of(n).parse().unwrap(), user: format!("user-{n}").parse().unwrap() }
}

/// What a naive reader of the rules keeps about a user. Servers are numbers, tickets are users.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Waiting,
    Starting { since: Instant },
    Running { server: usize, attachments: usize, used: Instant, fresh: bool, draining: bool },
    Stopping,
}

impl Model {
    fn is_live(&self) -> bool {
        matches!(self, Model::Starting { .. } | Model::Running { .. })
    }
}

proptest! {
    #[test]
    fn laws(steps in prop::collection::vec((0..12_u8, 0..6_usize, 0..50_u64), 0..300)) {
        let mut now = Instant::now();
        let mut slots: Slots<usize, usize> = Slots::new(MAX, STARTS);
        let mut model: BTreeMap<usize, Model> = BTreeMap::new();
        let mut line: Vec<usize> = Vec::new();
        // Those for whom nobody waits any more.
        let mut left = BTreeSet::new();
        let mut servers = 0;
        for (what, n, seconds) in steps {
            let who = user(n);
            match what {
                0 | 1 => match (slots.want(&who, most_of(tenant_of(n)), now, LONGEST, || n), model.get_mut(&n)) {
                    (Want::Attached(s), Some(Model::Running { server, attachments, used, fresh, .. })) => {
                        prop_assert_eq!(s, *server);
                        *attachments += 1;
                        (*used, *fresh) = (now, false);
                    }
                    (Want::Wait(_), Some(Model::Waiting | Model::Starting { .. } | Model::Stopping)) => {
                        left.remove(&n);
                    }
                    (Want::Wait(_), None) => {
                        line.push(n);
                        left.remove(&n);
                        model.insert(n, Model::Waiting);
                    }
                    (Want::Backoff { remaining, .. }, None) => prop_assert!(remaining > LONGEST),
                    (_, expected) => prop_assert!(false, "expected {:?}", expected),
                },
                9 | 10 => {
                    line.retain(|m| !left.contains(m));
                    model.retain(|m, state| *state != Model::Waiting || line.contains(m));
                    let idlest = |tenant: Option<&str>| model.iter().filter_map(|(m, state)| match state {
                        Model::Running { attachments: 0, used, fresh, .. }
                            if (!fresh || now.duration_since(*used) >= FRESH)
                                && tenant.is_none_or(|tenant| tenant_of(*m) == tenant) => Some((*used, user(*m), *m)),
                        _ => None,
                    }).min().map(|(_, _, m)| m);
                    let starts = |tenant: Option<&str>| model.iter().filter(|(m, s)| {
                        matches!(s, Model::Starting { since } if now.duration_since(*since) < LONG_START)
                            && tenant.is_none_or(|tenant| tenant_of(**m) == tenant)
                    }).count();
                    let starting = starts(None);
                    let of = |count: usize| line.iter().copied().filter(move |m| starts(Some(tenant_of(*m))) == count);
                    let order: Vec<_> = (0..=STARTS).flat_map(of).collect();
                    // Who could start, and who makes room; or of whom nobody can make room.
                    let mut lacking = Vec::new();
                    let waits = |m: &usize| slots.delay(&user(*m), now);
                    let due = order.iter().filter(|m| starting < STARTS && !waits(m).is_zero()).map(|m| now + waits(m)).min();
                    let first = order.iter().filter(|m| starting < STARTS && waits(m).is_zero()).find_map(|m| {
                        let live = |own: bool| model.iter().filter(|(o, s)| {
                            s.is_live() && (!own || tenant_of(**o) == tenant_of(*m))
                        }).count();
                        let among = if live(true) >= most_of(tenant_of(*m)) {
                            Some(tenant_of(*m))
                        } else if live(false) >= MAX {
                            None
                        } else {
                            return Some((*m, None));
                        };
                        let idlest = idlest(among);
                        if idlest.is_none() && !lacking.contains(&among) {
                            lacking.push(among);
                        }
                        idlest.map(|idlest| (*m, Some(idlest)))
                    });
                    match (slots.next(now, |m| !left.contains(m), || n), first) {
                        (Next::Start { who, evicted, .. }, Some((m, idlest))) => {
                            prop_assert_eq!(who, user(m));
                            prop_assert_eq!(evicted.is_some(), idlest.is_some());
                            if let Some(idlest) = idlest {
                                let stopping = model.insert(idlest, Model::Stopping);
                                let same = matches!(stopping, Some(Model::Running { server, .. }) if Some(server) == evicted);
                                prop_assert!(same);
                            }
                            line.retain(|o| *o != m);
                            model.insert(m, Model::Starting { since: now });
                        }
                        (Next::Nothing(lack), None) => {
                            let short: Vec<_> = lack.short.iter().map(|t| t.as_ref().map(|t| t.as_str())).collect();
                            prop_assert_eq!((short, lack.due), (lacking, due));
                        }
                        (_, expected) => prop_assert!(false, "expected {:?}", expected),
                    }
                }
                11 => {
                    left.insert(n);
                }
                2 => if let Some(Model::Starting { .. }) = model.get(&n) {
                    servers += 1;
                    prop_assert!(slots.started(&who, servers, now).is_some());
                    let fresh = Model::Running { server: servers, attachments: 0, used: now, fresh: true, draining: false };
                    model.insert(n, fresh);
                },
                // Whose process has not been started cannot lose it.
                3 => if let Some(state) = model.get(&n).cloned().filter(|s| *s != Model::Waiting) {
                    model.remove(&n);
                    if state != Model::Stopping {
                        slots.died(&who, Duration::ZERO, now);
                    }
                    let told = slots.ended(&who).is_some();
                    prop_assert_eq!(told, !matches!(state, Model::Running { .. }));
                },
                4 => if let Some(Model::Running { server, attachments: count @ 1.., used, draining, .. }) = model.get_mut(&n) {
                    let stopped = slots.release(&who, now, |s| s == server, || n);
                    (*count, *used) = (*count - 1, now);
                    let last = *count == 0 && *draining;
                    prop_assert_eq!(stopped.is_some(), last);
                    if last {
                        model.insert(n, Model::Stopping);
                    }
                } else {
                    // The end of an attachment to a server that is gone.
                    prop_assert!(slots.release(&who, now, |s| *s == usize::MAX, || n).is_none());
                },
                7 => {
                    let drained = slots.drain(&who, DrainReason::Operator, || n);
                    match model.get_mut(&n) {
                        Some(Model::Running { server, attachments: 1.., draining, .. }) => {
                            prop_assert_eq!(drained, Some((*server, Drained::Later)));
                            *draining = true;
                        }
                        Some(running @ Model::Running { .. }) => {
                            prop_assert!(matches!(drained, Some((_, Drained::Now))));
                            *running = Model::Stopping;
                        }
                        _ => prop_assert_eq!(drained, None),
                    }
                }
                8 => if let Some(Model::Running { server, draining, .. }) = model.get_mut(&n) {
                    prop_assert_eq!(slots.undrain(&who), Some(*server));
                    *draining = false;
                },
                5 => {
                    let mut expected = Vec::new();
                    for state in model.values_mut() {
                        if let Model::Running { server, attachments: 0, used, .. } = *state
                            && now.duration_since(used) >= TIMEOUT
                        {
                            expected.push(server);
                            *state = Model::Stopping;
                        }
                    }
                    let mut stopped = slots.stop_idle(TIMEOUT, now, || n);
                    stopped.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(stopped, expected);
                    slots.forget(now);
                }
                _ => now += Duration::from_secs(seconds),
            }
            prop_assert!(model.values().filter(|m| m.is_live()).count() <= MAX);
            let acmes = model.iter().filter(|(n, m)| tenant_of(**n) == "acme" && m.is_live()).count();
            prop_assert!(acmes <= OF_TENANT);
            for n in 0..6 {
                prop_assert_eq!(slots.held(&user(n)).is_some(), model.get(&n) == Some(&Model::Waiting));
            }
            prop_assert_eq!(slots.iter().count(), model.len());
        }
    }
}

#[test]
fn a_tenant_that_may_have_fewer_lets_go_of_its_own_idle_ones() {
    let now = Instant::now();
    let mut slots: Slots<usize, ()> = Slots::new(100, 100);
    for n in 0..8 {
        assert!(matches!(slots.want(&user(n), MAX + 1, now, LONGEST, || ()), Want::Wait(())));
        assert!(matches!(slots.next(now, |()| true, || ()), Next::Start { evicted: None, .. }));
        slots.started(&user(n), n, now);
        assert!(slots.attach(&user(n), now).is_some());
    }
    let most = |tenant: &TenantId| if tenant.as_str() == "acme" { 1 } else { 100 };
    let acme: TenantId = "acme".parse().unwrap();
    assert_eq!(slots.trim(most, now, || ()), (vec![], vec![(acme.clone(), 3)]));
    for n in [4, 1, 2] {
        slots.release(&user(n), now + Duration::from_secs(n as u64), |_| true, || ());
    }
    assert_eq!(
        slots.trim(most, now, || ()),
        (vec![2, 4], vec![(acme, 1)]),
        "the least recently used first, and no other's"
    );
}
