//! The lease table against a naive model: one flat list of who waits for what, searched anew each time.

mod common;

use common::{key, ms, who};
use jetway_lockd::{
    Fence, Key, Moment, Rules,
    store::{Answer, Enter, Leave, Node, Place, Renew, Renewed, Ticket},
    table::Table,
};
use proptest::prelude::*;
use std::cell::Cell;

#[derive(Debug, Clone)]
enum Op {
    Enter { key: usize, ticket: usize, max: usize, floor: u32 },
    Leave { key: usize, ticket: usize },
    Renew { key: usize, ticket: usize },
    Seed { floor: u32, life: u64 },
    Wait(u64),
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    let (key, ticket) = (|| 0..2_usize, || 0..9_usize);
    prop_oneof![
        10 => (key(), ticket(), 0..6_usize, 0..3_u32)
            .prop_map(|(key, ticket, max, floor)| Op::Enter { key, ticket, max, floor }),
        4 => (key(), ticket()).prop_map(|(key, ticket)| Op::Leave { key, ticket }),
        4 => (key(), ticket()).prop_map(|(key, ticket)| Op::Renew { key, ticket }),
        1 => (0..4_u32, 0..2_u64).prop_map(|(floor, life)| Op::Seed { floor, life }),
        5 => (0..1200_u64).prop_map(Op::Wait),
        1 => Just(Op::Lose),
    ]
}

/// Tickets of three nodes; who is who is in the number.
fn ticket(n: usize) -> Ticket {
    Ticket { node: Node(n as u64 % 3), seq: n as u64 }
}

/// One flat list of everything; the first word of a line says what is meant.
struct Naive {
    rules: Rules,
    now: Moment,
    counter: Option<u64>,
    quarantine: Moment,
    life: u64,
    held: Vec<(usize, usize, u64, Moment)>,
    offers: Vec<(usize, usize, Moment)>,
    /// Key, ticket, whether its offer lapsed unless there is one.
    line: Vec<(usize, usize, bool)>,
}

impl Naive {
    fn new(rules: Rules) -> Self {
        let (held, offers, line) = Default::default();
        Self {
            rules,
            now: Moment::ZERO,
            counter: None,
            quarantine: Moment::ZERO,
            life: 0,
            held,
            offers,
            line,
        }
    }

    fn expire(&mut self) {
        self.held.retain(|lease| lease.3 > self.now);
        self.offers.retain(|offer| offer.2 > self.now);
    }

    fn floor(&mut self, floor: u64) {
        if let Some(counter) = self.counter.filter(|counter| *counter < floor) {
            assert!(counter < floor);
            self.counter = Some(((floor >> 21) + 1) << 21);
        }
    }

    fn seed(&mut self, floor: u64, birth: u64, life: u64) {
        let forgetful = self.counter.is_none() || life != self.life;
        if forgetful {
            let pause = self.counter.map_or(self.rules.ttl, |_| self.rules.settle);
            self.quarantine = self.quarantine.max(self.now + pause);
            let highest = [self.counter.unwrap_or(0), floor, birth].into_iter().max().unwrap();
            self.counter = Some(((highest >> 21) + 1) << 21);
        }
        self.life = life;
        self.floor(floor);
    }

    fn ahead(&self, key: usize, ticket: usize) -> Option<usize> {
        self.line.iter().filter(|w| w.0 == key).position(|w| w.1 == ticket)
    }

    fn in_line(&self, key: usize) -> usize {
        self.line.iter().filter(|w| w.0 == key).count()
    }

    fn first(&self, key: usize) -> Option<(usize, bool)> {
        self.line.iter().find(|w| w.0 == key).map(|w| (w.1, w.2))
    }

    fn bury(&mut self, key: usize, caller: usize) {
        while let Some((dead, true)) = self.first(key) {
            let kin = |w: &(usize, usize, bool)| w.1 % 3 == dead % 3 && dead % 3 != caller % 3;
            self.line.retain(|w| w.0 != key || !(w.1 == dead || kin(w)));
        }
    }

    fn offer(&mut self, key: usize) {
        if let Some(first) = self.line.iter_mut().find(|w| w.0 == key) {
            first.2 = true;
            self.offers.push((key, first.1, self.now + self.rules.offer));
        }
    }

    fn enter(&mut self, key: usize, me: usize, max: usize, floor: u64) -> Answer {
        if self.counter.is_none() {
            return Answer::Unseeded;
        }
        self.floor(floor);
        self.expire();
        if let Some(i) = self.held.iter().position(|l| l.0 == key && l.1 == me) {
            self.held[i].3 = self.now + self.rules.ttl;
            return Answer::Held { fence: Fence::from_u64(self.held[i].2), wanted: self.in_line(key) > 0 };
        }
        let held = self.held.iter().any(|l| l.0 == key);
        let offer = self.offers.iter().find(|o| o.0 == key).copied();
        let free = !held && offer.is_none() && self.now >= self.quarantine;
        if free && self.first(key).is_none_or(|first| first.0 != me) {
            self.bury(key, me);
        }
        let mine = offer.is_some_and(|offer| offer.1 == me);
        if mine || free && self.first(key).is_none_or(|first| first.0 == me) {
            self.line.retain(|w| w.0 != key || w.1 != me);
            self.offers.retain(|o| o.0 != key);
            let fence = self.counter.unwrap() + 1;
            self.counter = Some(fence);
            self.held.push((key, me, fence, self.now + self.rules.ttl));
            return Answer::Held { fence: Fence::from_u64(fence), wanted: self.in_line(key) > 0 };
        }
        if free {
            self.offer(key);
        }
        let holder = self.held.iter().filter(|l| l.0 == key).map(|l| (l.1, l.3));
        let holder = holder.chain(self.offers.iter().filter(|o| o.0 == key).map(|o| (o.1, o.2))).next();
        let place = Place {
            ahead: self.ahead(key, me).unwrap_or_else(|| self.in_line(key)),
            holder: holder.map(|(ticket, _)| who(&format!("u{ticket}"))),
            left: holder.map_or(self.quarantine, |(_, until)| until).saturating_sub(self.now),
        };
        if self.ahead(key, me).is_none() {
            if self.in_line(key) >= max {
                return Answer::Full(place);
            }
            self.line.push((key, me, false));
        }
        Answer::Waiting(place)
    }

    fn leave(&mut self, key: usize, me: usize) {
        self.expire();
        self.line.retain(|w| w.0 != key || w.1 != me);
        let before = self.held.len() + self.offers.len();
        self.held.retain(|l| l.0 != key || l.1 != me);
        self.offers.retain(|o| o.0 != key || o.1 != me);
        if self.held.len() + self.offers.len() < before {
            self.bury(key, me);
            if self.now >= self.quarantine {
                self.offer(key);
            }
        }
    }

    fn renew(&mut self, key: usize, me: usize, fence: u64) -> Option<Renewed> {
        self.counter?;
        self.expire();
        let taken = self.held.iter().any(|l| l.0 == key) || self.offers.iter().any(|o| o.0 == key);
        let mine = self.held.iter().position(|l| l.0 == key && l.1 == me);
        let until = self.now + self.rules.ttl;
        self.floor(fence);
        match mine {
            Some(i) => self.held[i].3 = until,
            None if !taken && self.now < self.quarantine => self.held.push((key, me, fence, until)),
            None => return Some(Renewed::Gone),
        }
        Some(Renewed::Kept { wanted: self.in_line(key) > 0 })
    }
}

/// Runs both; says how many commands there were.
fn compare(ops: &[Op]) -> Result<usize, TestCaseError> {
    let rules = Rules { ttl: ms(1000), offer: ms(150), settle: ms(300), ..Rules::new(ms(1000)) };
    let (mut table, mut naive) = (Table::new(rules), Naive::new(rules));
    let keys: [Key; 2] = [key("a"), key("b")];
    let mut highest = [[0_u64; 9]; 2];
    let mut given = Vec::new();
    for op in ops {
        let now = naive.now;
        match op.clone() {
            Op::Enter { key, ticket: n, max, floor } => {
                let floor = Fence::new(floor, 5);
                let (key_of, who) = (keys[key].clone(), who(&format!("u{n}")));
                let enter = Enter { key: key_of, ticket: ticket(n), who, floor, max_waiters: max };
                let (answer, _) = table.enter(now, &enter);
                prop_assert_eq!(&answer, &naive.enter(key, n, max, floor.to_u64()), "{:?}", op);
                if let Answer::Held { fence, .. } = answer {
                    highest[key][n] = fence.to_u64();
                    if given.last() != Some(&fence) && !given.contains(&fence) {
                        prop_assert!(given.iter().all(|earlier| *earlier < fence) && fence > floor);
                        given.push(fence);
                    }
                }
            }
            Op::Leave { key, ticket: n } => {
                let who = who(&format!("u{n}"));
                table.leave(now, &Leave { key: keys[key].clone(), ticket: ticket(n), who });
                naive.leave(key, n);
            }
            // Who was never granted it has nothing to renew.
            Op::Renew { key, ticket: n } if highest[key][n] == 0 => {}
            Op::Renew { key, ticket: n } => {
                let (fence, who) = (highest[key][n], who(&format!("u{n}")));
                let key_of = keys[key].clone();
                let renew = Renew { key: key_of, ticket: ticket(n), who, fence: Fence::from_u64(fence) };
                prop_assert_eq!(table.renew(now, &renew), naive.renew(key, n, fence), "{:?}", op);
            }
            Op::Seed { floor, life } => {
                // A process knows at least what it was given.
                let floor = given.iter().max().copied().unwrap_or_default().max(Fence::new(floor, 9));
                let birth = Fence::new(now.as_secs() as u32, 0);
                table.seed(now, floor, birth, life);
                naive.seed(floor.to_u64(), birth.to_u64(), life);
            }
            Op::Wait(by) => naive.now += ms(by),
            Op::Lose => {
                table = Table::new(rules);
                naive = Naive { now, ..Naive::new(rules) };
            }
        }
        for (i, key) in keys.iter().enumerate() {
            let line: Vec<Ticket> = naive.line.iter().filter(|w| w.0 == i).map(|w| ticket(w.1)).collect();
            prop_assert_eq!(table.line(key), line, "{:?}", op);
        }
        prop_assert_eq!(table.counter().map(Fence::to_u64), naive.counter, "{:?}", op);
    }
    Ok(ops.len())
}

#[test]
fn the_table_does_what_the_naive_model_does() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let commands = Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&prop::collection::vec(op(), 1..100), |ops| {
        commands.set(commands.get() + compare(&ops)?);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    println!("model: {cases} histories, {} commands, table and naive model agree", commands.get());
}
