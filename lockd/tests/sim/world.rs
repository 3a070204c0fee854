//! The world between the processes: true time, the network, the store, the last hop, and what befalls them.

use crate::{
    history::{Record, What},
    process::{Bug, Process, key},
};
use jetway_lockd::{
    Fence, Key, Moment, Rules,
    store::{Answer, Enter, Leave, Node, Notice, Renew, Renewed, Ticket},
    table::Table,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::Duration,
};

pub(crate) const PROCESSES: usize = 3;
pub(crate) const SESSIONS: usize = 2;
pub(crate) const TTL: Duration = Duration::from_secs(2);
/// Faults end then; a while after, everything must work again.
const HEALED: Duration = Duration::from_secs(14);
const END: Duration = Duration::from_secs(24);
/// The store's clock and everybody's wall clock begin there, so that they can jump back.
const CLOCK: Duration = Duration::from_secs(1000);

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Enter(Enter),
    Leave(Leave),
    Renew(Vec<Renew>),
    Seed {
        floor: Fence,
        birth: Fence,
    },
    /// The first half of the release that is not one: who holds?
    Get(Key),
    /// The second half: whoever holds, holds no more.
    Delete(Key),
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Enter(Answer),
    Renew(Vec<Option<Renewed>>),
    /// The connection was accepted and the store seeded.
    Seeded {
        life: u64,
    },
    Holder(Option<Ticket>),
    Done,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Store { from: Node, life: u64, request: u64, command: Command },
    Reply { to: Node, request: u64, reply: Reply },
    Notice(Notice),
    Timer { to: Node, timer: Timer },
    Cli { from: Node, client: usize, session: usize, fence: Fence, end: bool },
    CliEnded { to: Node, client: usize, fence: Fence },
    Broken { to: Node },
    Fault,
    Start(usize),
    StoreUp { empty: bool },
    Heal(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Timer {
    Client(usize, u64),
    Watch,
    Timeout(u64),
    Connect,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) random: Random,
    pub(crate) rules: Rules,
    pub(crate) bug: Bug,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    table: Option<Table>,
    earlier: VecDeque<(Duration, Table)>,
    life: u64,
    /// Milliseconds that the store's clock is off.
    jump: i64,
    pub(crate) jumps: bool,
    cut_off: [bool; PROCESSES],
    /// The last hop: the highest fence of each session, durable.
    pub(crate) highest: [Fence; SESSIONS],
    pub(crate) history: Vec<Record>,
    pub(crate) faults: Vec<String>,
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        let rules = Rules::new(TTL);
        let mut world = Self {
            now: Duration::ZERO,
            random: Random(seed),
            rules,
            bug,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            table: Some(Table::new(rules)),
            earlier: VecDeque::new(),
            life: 1,
            jump: 0,
            jumps: seed % 5 == 4,
            cut_off: [false; PROCESSES],
            highest: [Fence::NONE; SESSIONS],
            history: Vec::new(),
            faults: Vec::new(),
        };
        for i in 0..PROCESSES {
            world.at(Duration::ZERO, Event::Start(i));
        }
        for _ in 0..world.random.below(8) {
            let when = world.random.millis(1000, HEALED.as_millis() as u64 - 3000);
            world.at(when, Event::Fault);
        }
        world
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((when, self.next)));
        self.events.insert(self.next, event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn note(&mut self, session: usize, fence: Fence, what: What) {
        self.history.push(Record { at: self.now, session, fence, what });
    }

    /// How long a message takes; none if it is lost.
    fn way(&mut self) -> Option<Duration> {
        let calm = self.now > HEALED;
        match self.random.below(1000) {
            0..10 if !calm => None,
            10..13 if !calm => Some(self.random.millis(300, 3 * TTL.as_millis() as u64)),
            13..40 if !calm => Some(self.random.millis(3, 300)),
            _ => Some(self.random.millis(0, 3)),
        }
    }

    pub(crate) fn send(&mut self, from: Node, life: u64, request: u64, command: Command) {
        if let Some(way) = self.way().filter(|_| !self.cut_off[slot(from)]) {
            self.after(way, Event::Store { from, life, request, command });
        }
    }

    /// Frames are not lost on their way to the CLI, but may take long.
    pub(crate) fn frame(&mut self, from: Node, client: usize, session: usize, fence: Fence, end: bool) {
        let way = self.way().unwrap_or(TTL);
        self.after(way, Event::Cli { from, client, session, fence, end });
    }

    fn store_now(&self) -> Moment {
        let base = self.now + CLOCK;
        let jump = Duration::from_millis(self.jump.unsigned_abs());
        if self.jump < 0 { base - jump } else { base + jump }
    }

    /// The epoch of a process's wall clock, which may be off by half a second.
    pub(crate) fn birth(&mut self) -> Fence {
        let skew = self.random.millis(0, 1000);
        Fence::new((self.now + CLOCK + skew).as_secs() as u32, 0)
    }

    fn serve(&mut self, from: Node, life: u64, request: u64, command: Command) {
        let (now, current) = (self.store_now(), self.life);
        let Some(table) = &mut self.table else { return };
        let mut notices = Vec::new();
        let reply = match command {
            Command::Seed { floor, birth } => {
                table.seed(now, floor, birth, current);
                Reply::Seeded { life: current }
            }
            // Sent over a connection that broke.
            _ if life != current => return,
            Command::Enter(enter) => {
                let before = table.counter();
                let (answer, told) = table.enter(now, &enter);
                notices = told;
                if let Answer::Held { fence, .. } = answer
                    && before != table.counter()
                    && table.counter() == Some(fence)
                {
                    self.note(session_of(&enter.key), fence, What::Granted);
                }
                Reply::Enter(answer)
            }
            Command::Leave(leave) => {
                notices = table.leave(now, &leave);
                Reply::Done
            }
            Command::Renew(leases) => {
                Reply::Renew(leases.iter().map(|lease| table.renew(now, lease)).collect())
            }
            Command::Get(key) => Reply::Holder(table.holder(now, &key).map(|(ticket, _)| ticket)),
            Command::Delete(key) => {
                if let Some((ticket, _)) = table.holder(now, &key) {
                    let who = "whoever".parse().unwrap();
                    notices = table.leave(now, &Leave { key, ticket, who });
                }
                Reply::Done
            }
        };
        for notice in notices {
            if let Some(way) = self.way().filter(|_| !self.cut_off[slot(notice.ticket.node)]) {
                self.after(way, Event::Notice(notice));
            }
        }
        if let Some(way) = self.way().filter(|_| !self.cut_off[slot(from)]) {
            self.after(way, Event::Reply { to: from, request, reply });
        }
    }

    /// The last hop: what is not of the newest lease is refused.
    fn cli(&mut self, from: Node, client: usize, session: usize, fence: Fence, end: bool) {
        if fence < self.highest[session] && self.bug != Bug::NoLastHop {
            return;
        }
        self.highest[session] = self.highest[session].max(fence);
        self.note(session, fence, What::Accepted);
        if end {
            self.note(session, fence, What::Ended);
            let way = self.way().unwrap_or(TTL);
            self.after(way, Event::CliEnded { to: from, client, fence });
        }
    }

    fn fault(&mut self, processes: &mut [Process]) {
        let i = self.random.below(PROCESSES as u64) as usize;
        let ttl = TTL.as_millis() as u64;
        match self.random.below(if self.jumps { 6 } else { 5 }) {
            0 => {
                let until = self.now + self.random.millis(100, 3 * ttl);
                self.faults.push(format!("{:?}: process {i} is stopped until {until:?}", self.now));
                processes[i].stopped_until = until;
            }
            1 => {
                self.faults.push(format!("{:?}: process {i} is killed", self.now));
                processes[i].die(self);
                let delay = self.random.millis(100, 1000);
                self.after(delay, Event::Start(i));
            }
            2 => {
                let time = self.random.millis(100, 2 * ttl);
                self.faults.push(format!("{:?}: process {i} is cut off for {time:?}", self.now));
                self.cut_off[i] = true;
                self.after(time, Event::Heal(i));
            }
            3 if self.table.is_some() => {
                let empty = self.random.below(2) == 0;
                self.faults.push(format!("{:?}: the store restarts, empty: {empty}", self.now));
                self.table = None;
                let down = self.random.millis(50, 500);
                self.after(down, Event::StoreUp { empty });
                for process in processes {
                    let way = self.random.millis(0, 50);
                    self.after(way, Event::Broken { to: process.node });
                }
            }
            4 if self.table.is_some() => {
                self.faults.push(format!("{:?}: the store is emptied", self.now));
                self.table = Some(Table::new(self.rules));
                self.earlier.clear();
            }
            5 => {
                self.jump = if self.jump == 0 { [-30_000, 30_000][self.random.below(2) as usize] } else { 0 };
                self.faults.push(format!("{:?}: the store's clock is off by {} ms", self.now, self.jump));
            }
            _ => {}
        }
    }

    fn store_up(&mut self, empty: bool) {
        self.life += 1;
        // What it had not yet written down is forgotten, up to a second of it.
        let lag = self.random.millis(0, 1000);
        let before = self.now.saturating_sub(lag + Duration::from_millis(500));
        let kept = self.earlier.iter().rev().find(|(at, _)| *at <= before).map(|(_, table)| table.clone());
        self.table = Some(kept.filter(|_| !empty).unwrap_or_else(|| Table::new(self.rules)));
        self.earlier.clear();
    }

    fn remember(&mut self) {
        let due = self.earlier.back().is_none_or(|(at, _)| self.now >= *at + Duration::from_millis(100));
        if let Some(table) = self.table.as_ref().filter(|_| due) {
            self.earlier.push_back((self.now, table.clone()));
            if self.earlier.len() > 20 {
                self.earlier.pop_front();
            }
        }
    }
}

/// Which of the processes a node is a life of.
pub(crate) fn slot(node: Node) -> usize {
    node.0 as usize % PROCESSES
}

pub(crate) fn session_of(key: &Key) -> usize {
    key.session.as_str()[1..].parse().unwrap()
}

/// Runs a world to its end. Everything in it follows from the seed.
pub(crate) fn run(seed: u64, bug: Bug) -> World {
    let mut world = World::new(seed, bug);
    let mut processes: Vec<Process> = (0..PROCESSES).map(|i| Process::dead(i, world.rules)).collect();
    while let Some(Reverse((at, id))) = world.queue.pop() {
        if at > END {
            break;
        }
        world.now = at;
        world.remember();
        let event = world.events.remove(&id).expect("queued once");
        let to = match &event {
            Event::Reply { to, .. }
            | Event::Timer { to, .. }
            | Event::CliEnded { to, .. }
            | Event::Broken { to } => Some(*to),
            Event::Notice(notice) => Some(notice.ticket.node),
            _ => None,
        };
        if let Some(process) = to.map(|node| &processes[slot(node)])
            && process.stopped_until > at
        {
            world.at(process.stopped_until, event);
            continue;
        }
        match event {
            Event::Store { from, life, request, command } => world.serve(from, life, request, command),
            Event::Cli { from, client, session, fence, end } => world.cli(from, client, session, fence, end),
            Event::Fault => world.fault(&mut processes),
            Event::Start(i) => processes[i].start(&mut world),
            Event::StoreUp { empty } => world.store_up(empty),
            Event::Heal(i) => world.cut_off[i] = false,
            event => {
                let node = to.expect("for a process");
                let process = &mut processes[slot(node)];
                if process.node == node && process.alive {
                    process.handle(&mut world, event);
                }
            }
        }
    }
    world
}

/// Whether all worked again when all had healed: sessions had turns, and none has a line without one. A
/// clock that is back to normal may leave leases that end half a minute late.
pub(crate) fn recovered(world: &World) -> bool {
    let again = HEALED + Duration::from_secs(5);
    let turns = |session: usize| {
        world.history.iter().any(|r| r.session == session && r.what == What::Accepted && r.at > again)
    };
    let line = |session: usize| world.table.as_ref().is_none_or(|t| !t.line(&key(session)).is_empty());
    world.jumps || (0..SESSIONS).any(turns) && (0..SESSIONS).all(|session| turns(session) || !line(session))
}
