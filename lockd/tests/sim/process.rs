//! A simulated process: the crate's own cores (`Attempt`, `Watch`) between simulated clients and a simulated
//! connection, and the bugs that the checker must find.

use crate::{
    history::What,
    world::{Command, Event, PROCESSES, Reply, SESSIONS, Timer, World, session_of},
};
use jetway_lockd::{
    Fence, Key, Moment, Rules,
    attempt::{Attempt, Step},
    store::{Answer, Enter, Leave, Node, Notice, Renew, Renewed, Ticket, What as Told},
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
            Event::Timer { timer: Timer::Connect, .. } if self.life.is_none() => {
                if !self.requests.values().any(|pending| matches!(pending, Pending::Connect)) {
                    self.connect(world);
                }
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
                world.to_cli(self.node, i, session, fence, ending);
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

    /// The CLI has confirmed the end of the turn: only now is the lease given back.
    fn turn_ended(&mut self, world: &mut World, i: usize, ended: Fence) {
        let State::Holds { enter, fence, .. } = &self.clients[i].state else { return };
        if *fence == ended {
            let enter = enter.clone();
            world.note(session_of(&enter.key), ended, What::Over);
            self.watch.release(enter.ticket.seq);
            match world.bug {
                Bug::GetThenDelete => {
                    let pending = Pending::Release(enter.key.clone(), enter.ticket);
                    self.request(world, pending, Command::Get(enter.key));
                }
                _ => self.leave(world, &enter),
            }
            self.think(world, i);
        }
    }

    fn lost(&mut self, world: &mut World, i: usize) {
        let State::Holds { enter, fence, .. } = &self.clients[i].state else { return };
        let (enter, fence) = (enter.clone(), *fence);
        world.note(session_of(&enter.key), fence, What::Over);
        self.watch.release(enter.ticket.seq);
        self.leave(world, &enter);
        self.think(world, i);
    }

    fn leave(&mut self, world: &mut World, enter: &Enter) {
        let leave = Leave { key: enter.key.clone(), ticket: enter.ticket, who: enter.who.clone() };
        // The answer does not matter: what is not given back expires.
        if let Some(life) = self.life {
            world.send(self.node, life, 0, Command::Leave(leave));
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

    fn set_watch(&self, world: &mut World) {
        if let Some(next) = self.watch.next().filter(|_| world.bug != Bug::NoRenewal) {
            self.timer(world, next, Timer::Watch);
        }
    }

    fn watchdog(&mut self, world: &mut World) {
        let wake = self.watch.wake(self.now(world));
        self.lose(world, &wake.lost.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
        if wake.renew.is_empty() {
            return if !wake.lost.is_empty() {
                self.set_watch(world)
            };
        }
        let seqs: Vec<u64> = wake.renew.iter().map(|(seq, _)| *seq).collect();
        let leases = self.clients.iter().filter_map(|client| match &client.state {
            State::Holds { enter, fence, .. } if seqs.contains(&enter.ticket.seq) => Some(Renew {
                key: enter.key.clone(),
                ticket: enter.ticket,
                who: enter.who.clone(),
                fence: *fence,
            }),
            _ => None,
        });
        let leases: Vec<Renew> = leases.collect();
        let seqs: Vec<u64> = leases.iter().map(|lease| lease.ticket.seq).collect();
        let sent = self.now(world);
        if !self.request(world, Pending::Renew(sent, seqs.clone()), Command::Renew(leases)) {
            self.renewed(world, sent, seqs.into_iter().map(|seq| (seq, None)).collect());
        }
        self.set_watch(world);
    }

    fn renewed(&mut self, world: &mut World, sent: Moment, outcomes: Vec<(u64, Option<Renewed>)>) {
        let answered = self.watch.renewed(sent, self.now(world), outcomes);
        for (seq, until, _) in answered.kept {
            for client in &self.clients {
                if let State::Holds { enter, fence, .. } = &client.state
                    && enter.ticket.seq == seq
                {
                    world.note(client.session, *fence, What::Until(self.in_truth(until)));
                }
            }
        }
        self.lose(world, &answered.lost.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
        self.set_watch(world);
    }

    fn lose(&mut self, world: &mut World, seqs: &[u64]) {
        for i in 0..self.clients.len() {
            if let State::Holds { enter, .. } = &self.clients[i].state
                && seqs.contains(&enter.ticket.seq)
            {
                self.lost(world, i);
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
    Key { tenant: "acme".parse().unwrap(), session: format!("s{session}").parse().unwrap() }
}
