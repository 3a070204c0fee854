//! Random operations beside a list that is searched from end to end, and the rules that it must show.

use super::*;
use proptest::prelude::*;

const WAIT: Duration = Duration::from_secs(10);

fn who(tenant: usize, user: usize) -> Identity {
    Identity { tenant: format!("t{tenant}").parse().unwrap(), user: format!("u{user}").parse().unwrap() }
}

fn room(all: usize, tenant: usize, user: usize) -> Room {
    let waiting = Bounds { all: 12, tenant: 6, user: 4 };
    Room { running: Bounds { all, tenant, user }, waiting, wait: WAIT }
}

#[derive(Debug, Clone)]
enum Op {
    Ask(usize, usize),
    /// Of those that run, or that wait, the one at this place.
    End(usize),
    Leave(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_usize, 0..3_usize).prop_map(|(t, u)| Op::Ask(t, u)),
        3 => any::<usize>().prop_map(Op::End),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => (0..8_u64).prop_map(Op::Pass),
    ]
}

/// Everything in lists.
struct Naive {
    room: Room,
    running: Vec<Identity>,
    waiting: Vec<(Ticket, Identity, Instant)>,
}

impl Naive {
    fn runs(&self, of: impl Fn(&Identity) -> bool) -> usize {
        self.running.iter().filter(|who| of(who)).count()
    }

    fn waits(&self, of: impl Fn(&Identity) -> bool) -> usize {
        self.waiting.iter().filter(|(_, who, _)| of(who)).count()
    }

    fn has_room(&self, who: &Identity) -> bool {
        self.running.len() < self.room.running.all
            && self.runs(|w| w.tenant == who.tenant) < self.room.running.tenant
            && self.runs(|w| w == who) < self.room.running.user
    }

    /// What began must have been first of its user, with the fewest running of those who could begin.
    fn begin(&mut self, ticket: Ticket, now: Instant) {
        let at = self.waiting.iter().position(|(t, ..)| *t == ticket).expect("it waits");
        let (_, who, until) = self.waiting[at].clone();
        assert!(until > now, "its time is over");
        assert!(self.has_room(&who));
        assert!(self.waiting[..at].iter().all(|(_, earlier, _)| *earlier != who), "first come, first served");
        for (_, other, _) in self.waiting.iter().filter(|(_, other, _)| self.has_room(other)) {
            let (own, others) =
                (self.runs(|w| w.tenant == who.tenant), self.runs(|w| w.tenant == other.tenant));
            assert!(own <= others, "{who:?} has {own}, {other:?} {others}");
            if who.tenant == other.tenant {
                assert!(self.runs(|w| *w == who) <= self.runs(|w| w == other));
            }
        }
        self.waiting.remove(at);
        self.running.push(who);
    }

    fn check(&self, table: &Table, now: Instant) {
        assert_eq!((table.running, table.waiting), (self.running.len(), self.waiting.len()));
        assert!(table.tenants.len() <= self.running.len() + self.waiting.len(), "nobody else is remembered");
        // Those whose time is over go when they are looked at.
        let idle = self.waiting.iter().find(|(_, who, until)| *until > now && self.has_room(who));
        assert!(idle.is_none(), "{idle:?} waits though there is room");
    }
}

proptest! {
    #[test]
    fn keeps_its_bounds_and_is_fair(
        ops in proptest::collection::vec(op(), 1..120),
        all in 1..5_usize, tenant in 1..4_usize, user in 1..3_usize,
    ) {
        let mut now = Instant::now();
        let room = room(all, tenant, user);
        let mut table = Table::default();
        let mut naive = Naive { room, running: Vec::new(), waiting: Vec::new() };
        for op in ops {
            match op {
                Op::Ask(t, u) => {
                    let who = who(t, u);
                    let free = naive.has_room(&who) && naive.waits(|w| *w == who) == 0;
                    match table.ask(&who, room, now) {
                        Asked::Begins => {
                            prop_assert!(free);
                            naive.running.push(who);
                        }
                        Asked::Waits(ticket, until) => {
                            prop_assert!(!free && until == now + WAIT);
                            naive.waiting.push((ticket, who, until));
                        }
                        Asked::Refused(full) => {
                            let crowded = naive.waiting.len() >= room.waiting.all
                                || naive.waits(|w| w.tenant == who.tenant) >= room.waiting.tenant
                                || naive.waits(|w| *w == who) >= room.waiting.user;
                            prop_assert!(!free && crowded == (full.why == Why::Queue));
                        }
                    }
                }
                Op::End(at) if !naive.running.is_empty() => {
                    let who = naive.running.remove(at % naive.running.len());
                    let mut effects = Vec::new();
                    table.end(&who, Duration::from_secs(1), now, &mut effects);
                    for effect in effects {
                        match effect {
                            Effect::Begins(ticket) => naive.begin(ticket, now),
                            Effect::Expired(ticket) => {
                                let at = naive.waiting.iter().position(|(t, ..)| *t == ticket).unwrap();
                                prop_assert!(naive.waiting.remove(at).2 <= now);
                            }
                        }
                    }
                }
                Op::Leave(at) if !naive.waiting.is_empty() => {
                    let (ticket, who, _) = naive.waiting.remove(at % naive.waiting.len());
                    table.leave(&who, ticket);
                    table.leave(&who, ticket);
                }
                Op::Pass(seconds) => now += Duration::from_secs(seconds),
                Op::End(_) | Op::Leave(_) => {}
            }
            naive.check(&table, now);
        }
        for (ticket, who, _) in naive.waiting {
            table.leave(&who, ticket);
        }
        for who in naive.running {
            table.end(&who, Duration::ZERO, now, &mut Vec::new());
        }
        prop_assert!(table.tenants.is_empty() && table.running == 0 && table.waiting == 0);
    }
}

/// Equal tenants that always want more get equal parts, whatever else they do; so do equal users.
#[test]
fn turn_about() {
    let now = Instant::now();
    let mut table = Table::default();
    let waiting = Bounds { all: 999, tenant: 999, user: 999 };
    let room = Room { waiting, wait: WAIT * 100, ..room(1, 9, 9) };
    let mut names = HashMap::new();
    let mut served = HashMap::<Identity, usize>::new();
    let mut running = who(0, 0);
    assert_eq!(table.ask(&running, room, now), Asked::Begins);
    // One user of the first tenant asks for much more than anybody.
    let asks = (0..60).map(|_| who(0, 0)).chain((0..20).flat_map(|_| [who(0, 1), who(1, 0), who(2, 0)]));
    for who in asks {
        let Asked::Waits(ticket, _) = table.ask(&who, room, now) else { panic!("there is room to wait") };
        names.insert(ticket, who);
    }
    for _ in 0..24 {
        let mut effects = Vec::new();
        table.end(&running, Duration::ZERO, now, &mut effects);
        let [Effect::Begins(ticket)] = effects[..] else { panic!("{effects:?}") };
        running = names[&ticket].clone();
        *served.entry(running.clone()).or_default() += 1;
    }
    let served = [who(0, 0), who(0, 1), who(1, 0), who(2, 0)].map(|who| served[&who]);
    assert_eq!(served, [4, 4, 8, 8]);
}

#[test]
fn says_in_how_long_there_will_be_room() {
    let now = Instant::now();
    let mut table = Table::default();
    let room = Room { wait: Duration::from_secs(3), ..room(2, 2, 2) };
    let ada = who(0, 0);
    assert_eq!((table.ask(&ada, room, now), table.ask(&ada, room, now)), (Asked::Begins, Asked::Begins));
    // Turns take four seconds; with two at a time there is room every two.
    for _ in 0..200 {
        table.end(&ada, Duration::from_secs(4), now, &mut Vec::new());
        assert_eq!(table.ask(&ada, room, now), Asked::Begins);
    }
    let seconds = |d: Duration| d.as_secs_f64().round();
    assert_eq!(seconds(table.clears_in(&ada)), 2.0);
    let Asked::Waits(first, _) = table.ask(&ada, room, now) else { panic!("nobody is before it") };
    let Asked::Waits(..) = table.ask(&ada, room, now) else {
        panic!("one is before it, and has two seconds")
    };
    let Asked::Refused(full) = table.ask(&ada, room, now) else { panic!("two are before it") };
    assert_eq!((full.why, seconds(full.clears_in)), (Why::Wait, 6.0));
    table.leave(&ada, first);
    assert!(matches!(table.ask(&ada, room, now), Asked::Waits(..)));
}
