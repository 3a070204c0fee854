//! What an operator may know of a fleet.

use std::sync::atomic::Ordering;

use super::{Fleet, Life};
use crate::{
    circuit::Circuit,
    drain::Departed,
    server::{Readiness, ServerId, ServerState, ServerStatus},
};

impl Fleet {
    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        let state = self.state();
        let one = |(index, life): (usize, &Life)| {
            let (attachments, users) = state.homes.load(index);
            ServerStatus {
                id: self.ids[index].clone(),
                state: match life.circuit {
                    Circuit::Trying => ServerState::Trying,
                    Circuit::Closed { .. } => {
                        ServerState::of_up(life.draining.is_some(), attachments as usize)
                    }
                    Circuit::Open { .. } => ServerState::Down,
                },
                address: Some(self.backends[index].address.to_string()),
                pid: None,
                version: life.server.as_ref().and_then(|s| s.version.clone()),
                users,
                attachments: attachments as usize,
                uptime: life.server.as_ref().map(|s| s.since.elapsed()),
                restarts: life.times_up.saturating_sub(1),
                rtt: life.tally.rtt(),
                memory: None,
                served: life.tally.sessions.load(Ordering::Relaxed),
                turns: life.tally.turns.load(Ordering::Relaxed),
                draining: life.draining,
                worn: state.recycler.cause(index),
                sandbox: None,
                group: self.backends[index].state.clone(),
                problem: life.problem.clone(),
            }
        };
        state.lives.iter().enumerate().map(|(index, life)| one((index, life))).collect()
    }

    pub(crate) fn ready(&self) -> Readiness {
        let state = self.state();
        let closing = self.closing.is_cancelled().then(|| "shutting down".to_owned());
        let down = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.server.is_none());
        let reasons = down.map(|(life, id)| {
            format!("{id} is down: {}", life.problem.as_deref().unwrap_or("not tried yet"))
        });
        let draining = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.draining.is_some());
        let reasons = reasons.chain(draining.map(|(_, id)| format!("{id} is being drained")));
        let ready = closing.is_none() && state.lives.iter().any(Life::is_open);
        Readiness { ready, reasons: closing.into_iter().chain(reasons).collect() }
    }

    /// Those that were up and are not.
    pub(crate) fn down(&self) -> Vec<ServerId> {
        let state = self.state();
        let down = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.server.is_none());
        down.map(|(_, id)| id.clone()).collect()
    }

    /// Those that are being left.
    pub(crate) fn draining(&self) -> Vec<ServerId> {
        let state = self.state();
        let draining = state.lives.iter().zip(&self.ids).filter(|(life, _)| life.draining.is_some());
        draining.map(|(_, id)| id.clone()).collect()
    }

    pub(crate) fn departed(&self) -> Vec<Departed> {
        self.departures.list()
    }
}
