//! What the people of a shared session may do in it.

use jetway_wire::catalogue::Method;

use super::{Denied, Reach, Rule};
use crate::directory::Role;

/// What a viewer may do: see, and leave.
const SEES: [&str; 21] = [
    "session.agent.getCurrent",
    "session.agent.list",
    "session.destroy",
    "session.detach",
    "session.eventLog.read",
    "session.eventLog.tail",
    "session.getMessages",
    "session.getMetadata",
    "session.history.listRewindPoints",
    "session.mode.get",
    "session.model.getCurrent",
    "session.model.list",
    "session.name.get",
    "session.permissions.pendingRequests",
    "session.plan.read",
    "session.queue.pendingItems",
    "session.resume",
    "session.tasks.list",
    "session.usage.getMetrics",
    "sessions.getMetadata",
    "sessions.readPersistedEvents",
];

/// What only owners may do: end it, change who decides, and what holds for everybody's turns.
const OWNS: [&str; 10] = [
    "session.delete",
    "session.history.clearContext",
    "session.history.rewind",
    "session.history.truncate",
    "session.options.update",
    "session.shutdown",
    "session.suspend",
    "sessions.bulkDelete",
    "sessions.close",
    "sessions.delete",
];

/// Of the methods that rule permissions, those by which one takes part.
const ANSWERS: [&str; 4] = [
    "session.permissions.getMode",
    "session.permissions.handlePendingPermissionRequest",
    "session.permissions.notifyPromptShown",
    "session.permissions.pendingRequests",
];

/// Whether somebody with `role` in a session may call `method` of it.
pub(crate) fn plays(method: &Method, role: Role, reach: &Reach<'_>) -> Result<(), Denied> {
    let may = match role {
        Role::Viewer => SEES.contains(&method.name),
        Role::Member => {
            let rules = method.name.starts_with("session.permissions.") && !ANSWERS.contains(&method.name);
            !rules && !OWNS.contains(&method.name)
        }
        Role::Owner => true,
    };
    if may { Ok(()) } else { Err(Denied::new(Rule::Role(role), "", reach)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetway_wire::catalogue;

    /// A method that the CLI no longer has protects nobody.
    #[test]
    fn every_method_is_in_the_catalogue() {
        let unknown: Vec<_> = SEES
            .iter()
            .chain(&OWNS)
            .chain(&ANSWERS)
            .filter(|name| catalogue::lookup(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
