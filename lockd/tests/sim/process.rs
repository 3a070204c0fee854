//! A simulated process: the crate's own cores (`Attempt`, `Watch`) between simulated clients and a simulated
//! connection, and the bugs that the checker must find.

mod holding;

use crate::{
    history::What,
    world::{Command, Event, PROCESSES, Reply, SESSIONS, Timer, World, session_of},
};
use jetway_config::Identity;
use jetway_lockd::{
    Fence, Key, Moment, Rules,
    attempt::{Attempt, Step},
    store::{Answer, Enter, Node, Notice, Ticket, What as Told},
    watch::Watch,
};
use std::{collections::HashMap, time::Duration};

/// What is done wrong, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// Releasing by asking who holds and deleting then, in two commands.
    GetThenDelete,
    /// No watchdog: nothing is renewed, and no deadline is known.
    NoRenewal,
    /// The last hop takes what it gets.
    NoLastHop,
}

const CLIENTS: usize = 2;
const FRAME: Duration = Duration::from_millis(150);

pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) alive: bool,
    pub(crate) stopped_until: Duration,
    rules: Rules,
    started: Duration,
    /// Parts per million that its clock is fast.
    drift: u32,
    life: Option<u64>,
    watch: Watch,
    clients: Vec<Client>,
    requests: HashMap<u64, Pending>,
    seq: u64,
    highest: Fence,
}

enum Pending {
    Enter(usize, u64),
    Renew(Moment, Vec<u64>),
    Release(Key, Ticket),
    Connect,
}

struct Client {
    session: usize,
    /// Timers set for an earlier state are void.
    stamp: u64,
    state: State,
}

enum State {
    Idle,
    /// In line, or asking.
    Wants {
        enter: Enter,
        attempt: Attempt,
        sent: Moment,
        asking: bool,
        hint: Option<Moment>,
    },
    Holds {
        enter: Enter,
        fence: Fence,
        ends: Moment,
        ending: bool,
    },
}

impl Process {
    pub(crate) fn dead(i: usize, rules: Rules) -> Self {
        Self {
            node: Node(i as u64),
            alive: false,
            stopped_until: Duration::ZERO,
            rules,
            started: Duration::ZERO,
            drift: 0,
            life: None,
            watch: Watch::new(rules),
            clients: Vec::new(),
            requests: HashMap::new(),
            seq: 0,
            highest: Fence::NONE,
        }
    }

    /// A new life, with another node.
    pub(crate) fn start(&mut self, world: &mut World) {
        *self = Self {
            node: Node(self.node.0 + PROCESSES as u64),
            alive: true,
            started: world.now,
            drift: world.random.below(500) as u32,
            ..Self::dead(0, self.rules)
        };
        for i in 0..CLIENTS {
            self.clients.push(Client { session: 0, stamp: 0, state: State::Idle });
            self.think(world, i);
        }
        self.connect(world);
    }

    pub(crate) fn die(&mut self, world: &mut World) {
        for client in &self.clients {
            if let State::Holds { fence, .. } = client.state {
                world.note(client.session, fence, What::Over);
            }
        }
        self.alive = false;
    }

    fn now(&self, world: &World) -> Moment {
        let passed = world.now - self.started;
        passed + passed * self.drift / 1_000_000
    }

    /// When, in truth, its clock shows this.
    fn in_truth(&self, moment: Moment) -> Duration {
        self.started + moment - moment * self.drift / (1_000_000 + self.drift)
    }

    fn timer(&self, world: &mut World, at: Moment, timer: Timer) {
        let delay = self.in_truth(at).saturating_sub(world.now) + Duration::from_micros(1);
        world.after(delay, Event::Timer { to: self.node, timer });
    }

    fn wake_at(&mut self, world: &mut World, i: usize, at: Moment) {
        self.clients[i].stamp += 1;
        let timer = Timer::Client(i, self.clients[i].stamp);
        self.timer(world, at, timer);
    }

    fn think(&mut self, world: &mut World, i: usize) {
        self.clients[i].state = State::Idle;
        let pause = world.random.millis(1, 400);
        self.wake_at(world, i, self.now(world) + pause);
    }

    /// Sends if there is a connection; an answer is waited for as long as one may take.
    fn request(&mut self, world: &mut World, pending: Pending, command: Command) -> bool {
        let Some(life) = self.life else { return false };
        self.seq += 1;
        self.requests.insert(self.seq, pending);
        world.send(self.node, life, self.seq, command);
        let timeout = self.now(world) + self.rules.command;
        self.timer(world, timeout, Timer::Timeout(self.seq));
        true
    }

    fn connect(&mut self, world: &mut World) {
        self.life = Some(0);
        let (floor, birth) = (self.highest, world.birth());
        self.request(world, Pending::Connect, Command::Seed { floor, birth });
        self.life = None;
    }

    fn connecting(&self) -> bool {
        self.requests.values().any(|pending| matches!(pending, Pending::Connect))
    }

    pub(crate) fn handle(&mut self, world: &mut World, event: Event) {
        match event {
            Event::Timer { timer: Timer::Client(i, stamp), .. } if self.clients[i].stamp == stamp => {
                self.step(world, i);
            }
            Event::Timer { timer: Timer::Watch, .. } => self.watchdog(world),
            Event::Timer { timer: Timer::Timeout(request), .. } => {
                if let Some(pending) = self.requests.remove(&request) {
                    // What did not answer is not asked again over the same connection.
                    self.life = None;
                    self.timer(world, self.now(world), Timer::Connect);
                    self.unanswered(world, pending);
                }
            }
            Event::Timer { timer: Timer::Connect, .. } if self.life.is_none() && !self.connecting() => {
                self.connect(world);
            }
            Event::Reply { request, reply, .. } => {
                if let Some(pending) = self.requests.remove(&request) {
                    self.answered(world, pending, reply);
                }
            }
            Event::Notice(notice) => self.told(world, notice),
            Event::CliEnded { client, fence, .. } => self.turn_ended(world, client, fence),
            Event::Broken { .. } => {
                self.life = None;
                self.timer(world, self.now(world), Timer::Connect);
            }
            _ => {}
        }
    }

    /// A client's time has come.
    fn step(&mut self, world: &mut World, i: usize) {
        let now = self.now(world);
        match &mut self.clients[i].state {
            State::Idle => {
                let session = world.random.below(SESSIONS as u64) as usize;
                self.seq += 1;
                let enter = Enter {
                    key: key(session),
                    ticket: Ticket { node: self.node, seq: self.seq },
                    who: "user".parse().unwrap(),
                    floor: world.highest[session].max(self.highest),
                    max_waiters: 10,
                };
                let attempt = Attempt::new(self.rules, now + world.random.millis(2000, 12_000));
                self.clients[i].session = session;
                self.clients[i].state = State::Wants { enter, attempt, sent: now, asking: false, hint: None };
                self.enter(world, i);
            }
            State::Wants { attempt, .. } => {
                let step = attempt.woken(now);
                self.follow(world, i, step);
            }
            State::Holds { enter, fence, ends, ending } => {
                let (seq, fence, session) = (enter.ticket.seq, *fence, session_of(&enter.key));
                *ending |= now >= *ends;
                let ending = *ending;
                if !self.is_live(world, seq) {
                    return self.lost(world, i);
                }
                world.frame(self.node, i, session, fence, ending);
                self.wake_at(world, i, now + FRAME);
            }
        }
    }

    fn is_live(&self, world: &World, seq: u64) -> bool {
        world.bug == Bug::NoRenewal || self.watch.is_live(self.now(world), seq)
    }

    fn enter(&mut self, world: &mut World, i: usize) {
        let now = self.now(world);
        let State::Wants { enter, sent, asking, hint, .. } = &mut self.clients[i].state else { return };
        (*sent, *asking, *hint) = (now, true, None);
        let (enter, seq) = (enter.clone(), enter.ticket.seq);
        if !self.request(world, Pending::Enter(i, seq), Command::Enter(enter)) {
            self.entered(world, i, None);
        }
    }

    fn entered(&mut self, world: &mut World, i: usize, answer: Option<Answer>) {
        let now = self.now(world);
        let State::Wants { attempt, sent, asking, .. } = &mut self.clients[i].state else { return };
        *asking = false;
        let step = attempt.answered(*sent, now, answer);
        self.follow(world, i, step);
    }

    fn follow(&mut self, world: &mut World, i: usize, step: Step) {
        let now = self.now(world);
        let State::Wants { enter, hint, .. } = &mut self.clients[i].state else { return };
        let (enter, hint) = (enter.clone(), *hint);
        match step {
            Step::Enter => self.enter(world, i),
            Step::Wait(until) => self.wake_at(world, i, hint.map_or(until, |hint| hint.min(until))),
            Step::Full(_) => self.think(world, i),
            Step::TimedOut => {
                self.leave(world, &enter);
                self.think(world, i);
            }
            Step::Held { fence, until, .. } => {
                self.highest = self.highest.max(fence);
                let until_truly =
                    if world.bug == Bug::NoRenewal { Duration::MAX } else { self.in_truth(until) };
                world.note(session_of(&enter.key), fence, What::Until(until_truly));
                self.watch.hold(now, enter.ticket.seq, fence, until);
                let long = if world.random.below(4) == 0 { 6000 } else { 500 };
                let ends = now + world.random.millis(20, long);
                self.clients[i].state = State::Holds { enter, fence, ends, ending: false };
                self.set_watch(world);
                self.step(world, i);
            }
        }
    }

    fn told(&mut self, world: &mut World, notice: Notice) {
        let now = self.now(world);
        let after = match notice.what {
            Told::Offered => Duration::ZERO,
            Told::Next(after) => after,
            Told::Wanted => return,
        };
        for i in 0..self.clients.len() {
            if let State::Wants { enter, asking, hint, .. } = &mut self.clients[i].state
                && enter.ticket == notice.ticket
            {
                *hint = Some(now + after);
                if !*asking {
                    self.wake_at(world, i, now + after);
                }
            }
        }
    }

    fn unanswered(&mut self, world: &mut World, pending: Pending) {
        match pending {
            Pending::Enter(i, seq) if self.wants(i) == Some(seq) => self.entered(world, i, None),
            Pending::Renew(sent, seqs) => {
                self.renewed(world, sent, seqs.into_iter().map(|seq| (seq, None)).collect());
            }
            _ => {}
        }
    }

    fn wants(&self, i: usize) -> Option<u64> {
        match &self.clients[i].state {
            State::Wants { enter, asking: true, .. } => Some(enter.ticket.seq),
            _ => None,
        }
    }

    fn answered(&mut self, world: &mut World, pending: Pending, reply: Reply) {
        match (pending, reply) {
            (Pending::Enter(i, seq), Reply::Enter(answer)) if self.wants(i) == Some(seq) => {
                if answer == Answer::Unseeded {
                    self.connect(world);
                }
                self.entered(world, i, Some(answer));
            }
            (Pending::Renew(sent, seqs), Reply::Renew(outcomes)) => {
                if outcomes.contains(&None) {
                    self.connect(world);
                }
                self.renewed(world, sent, seqs.into_iter().zip(outcomes).collect());
            }
            (Pending::Connect, Reply::Seeded { life }) => {
                self.life = Some(life);
                self.watch.hurry(self.now(world));
                self.set_watch(world);
            }
            (Pending::Release(key, ticket), Reply::Holder(holder)) if holder == Some(ticket) => {
                if let Some(life) = self.life {
                    world.send(self.node, life, 0, Command::Delete(key));
                }
            }
            _ => {}
        }
    }
}

pub(crate) fn key(session: usize) -> Key {
    let owner = Identity { tenant: "acme".parse().unwrap(), user: "ada".parse().unwrap() };
    Key { owner, session: format!("s{session}").parse().unwrap() }
}
