//! What an operator may know of the processes.

use std::{sync::atomic::Ordering, time::Instant};

use jetway_config::{Identity, sandbox::Level};

use super::{PerUser, Running, Ticket};
use crate::{
    command,
    drain::Departed,
    server::{Readiness, ServerId, ServerState, ServerStatus},
    slots::Slot,
};

impl PerUser {
    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        let slots = self.slots();
        let (recycler, level) = (self.recycler(), self.sandbox());
        let one = |(who, slot): (&Identity, &Slot<Running, Ticket>)| {
            let (state, running) = match slot {
                Slot::Waiting { .. } => (ServerState::Waiting, None),
                Slot::Starting { .. } => (ServerState::Starting, None),
                Slot::Running { server, attachments, draining, .. } => {
                    let worn = recycler.cause(server.server.incarnation);
                    let state = ServerState::of_up(draining.is_some(), *attachments);
                    (state, Some((&*server.server, *attachments, *draining, worn)))
                }
                Slot::Stopping { .. } => (ServerState::Stopping, None),
            };
            let none = nothing(who, state, slots.deaths(who), level);
            running.map_or(none.clone(), |(server, attachments, draining, worn)| ServerStatus {
                address: Some(server.address()),
                pid: server.pid,
                version: server.version.clone(),
                users: usize::from(attachments > 0),
                attachments,
                uptime: Some(server.since.elapsed()),
                rtt: server.tally.rtt(),
                memory: server.memory(),
                served: server.tally.sessions.load(Ordering::Relaxed),
                turns: server.tally.turns.load(Ordering::Relaxed),
                draining,
                worn,
                ..none
            })
        };
        let dying = slots.backing_off(Instant::now()).map(|(who, failures, remaining)| {
            let problem = format!("died {failures} times in a row; the next try is in {remaining:.1?}");
            ServerStatus { problem: Some(problem), ..nothing(who, ServerState::BackingOff, failures, level) }
        });
        slots.iter().map(one).chain(dying).collect()
    }

    /// Those that are being left.
    pub(crate) fn draining(&self) -> Vec<ServerId> {
        let slots = self.slots();
        let draining = |slot: &Slot<Running, Ticket>| matches!(slot, Slot::Running { draining: Some(_), .. });
        slots.iter().filter(|(_, slot)| draining(slot)).map(|(who, _)| ServerId::of_user(who)).collect()
    }

    pub(crate) fn departed(&self) -> Vec<Departed> {
        self.departures.list()
    }

    pub(crate) fn ready(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.closing.is_cancelled() {
            reasons.push("shutting down".to_owned());
        }
        if !command::is_executable(&self.launcher.cli.program) {
            reasons.push(format!("{} cannot be started any more", self.launcher.cli.program.display()));
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }
}

/// What there is to say of a user without a process that runs.
fn nothing(who: &Identity, state: ServerState, deaths: u32, level: Level) -> ServerStatus {
    ServerStatus {
        id: ServerId::of_user(who),
        state,
        address: None,
        pid: None,
        version: None,
        users: 0,
        attachments: 0,
        uptime: None,
        restarts: deaths.into(),
        rtt: None,
        memory: None,
        served: 0,
        turns: 0,
        draining: None,
        worn: None,
        sandbox: Some(level),
        group: None,
        problem: None,
    }
}
