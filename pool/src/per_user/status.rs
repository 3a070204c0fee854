//! What an operator may know of the processes.

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
        let level = self.sandbox();
        slots.iter().map(|(who, slot)| one(who, slot, slots.deaths(who).into(), level)).collect()
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

fn one(who: &Identity, slot: &Slot<Running, Ticket>, restarts: u64, level: Level) -> ServerStatus {
    let (state, server, attachments, draining) = match slot {
        Slot::Starting { .. } => (ServerState::Starting, None, 0, None),
        Slot::Running { server, attachments, draining, .. } => {
            let state = ServerState::of_up(draining.is_some(), *attachments);
            (state, Some(&server.server), *attachments, *draining)
        }
        Slot::Stopping { .. } => (ServerState::Stopping, None, 0, None),
    };
    ServerStatus {
        id: ServerId::of_user(who),
        state,
        address: server.map(|s| s.address()),
        pid: server.and_then(|s| s.pid),
        version: server.and_then(|s| s.version.clone()),
        users: usize::from(attachments > 0),
        attachments,
        uptime: server.map(|s| s.since.elapsed()),
        restarts,
        rtt: None,
        memory: server.and_then(|s| s.memory()),
        served: server.map_or(0, |s| s.served()),
        draining,
        sandbox: Some(level),
        group: None,
        problem: None,
    }
}
