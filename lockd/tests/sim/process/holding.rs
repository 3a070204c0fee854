//! What a process does with the leases that it holds.

use super::{Bug, Pending, Process, State};
use crate::{
    history::What,
    world::{Command, Timer, World, session_of},
};
use jetway_lockd::{
    Fence, Moment,
    store::{Enter, Leave, Renew, Renewed},
};

impl Process {
    /// The CLI has confirmed the end of the turn: only now is the lease given back.
    pub(super) fn turn_ended(&mut self, world: &mut World, i: usize, ended: Fence) {
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

    pub(super) fn lost(&mut self, world: &mut World, i: usize) {
        let State::Holds { enter, fence, .. } = &self.clients[i].state else { return };
        let (enter, fence) = (enter.clone(), *fence);
        world.note(session_of(&enter.key), fence, What::Over);
        self.watch.release(enter.ticket.seq);
        self.leave(world, &enter);
        self.think(world, i);
    }

    pub(super) fn leave(&mut self, world: &mut World, enter: &Enter) {
        let leave = Leave { key: enter.key.clone(), ticket: enter.ticket, who: enter.who.clone() };
        // The answer does not matter: what is not given back expires.
        if let Some(life) = self.life {
            world.send(self.node, life, 0, Command::Leave(leave));
        }
    }

    pub(super) fn set_watch(&self, world: &mut World) {
        if let Some(next) = self.watch.next().filter(|_| world.bug != Bug::NoRenewal) {
            self.timer(world, next, Timer::Watch);
        }
    }

    pub(super) fn watchdog(&mut self, world: &mut World) {
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

    pub(super) fn renewed(&mut self, world: &mut World, sent: Moment, outcomes: Vec<(u64, Option<Renewed>)>) {
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

    pub(super) fn lose(&mut self, world: &mut World, seqs: &[u64]) {
        for i in 0..self.clients.len() {
            if let State::Holds { enter, .. } = &self.clients[i].state
                && seqs.contains(&enter.ticket.seq)
            {
                self.lost(world, i);
            }
        }
    }
}
