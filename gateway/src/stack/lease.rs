//! One turn at a time in a session that is shared: a prompt waits for its turn, under a fenced lease.

use std::sync::Arc;

use tokio::time::Instant;

use jetway_lockd::AcquireError;
use jetway_wire::Value;

use super::{Busy, Call, Limit, RETRY_AFTER, Refusal, Target, gate::Gate, wish};
use crate::sessions::{lease, registry::Session, tools};

#[derive(Debug, Clone)]
pub(super) struct Lease;

impl Gate for Lease {
    type Wait = Arc<Session>;
    type Held = ();

    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal> {
        let Some(session) = shared(call) else { return Ok(None) };
        Ok((!joins(call, &session)).then_some(session))
    }

    /// From here on the lease goes with the call, then with the turn.
    async fn wait(call: &mut Call, session: Self::Wait) -> Result<(), Refusal> {
        acquire(call, &session).await
    }
}

/// The session in which the call would begin a turn, if others take part in it.
fn shared(call: &Call) -> Option<Arc<Session>> {
    match &call.target {
        Target::Session(session) if call.method.begins_turn() && session.is_shared() => Some(session.clone()),
        _ => None,
    }
}

/// Whether the call joins the turn that runs here: as its sender says, or as it is in this session; or as more work
/// for one's own turn.
fn joins(call: &mut Call, session: &Session) -> bool {
    let Some(params) = call.request.params() else { return false };
    if !session.is_running() {
        return false;
    }
    if params.get("mode").and_then(Value::as_str).as_deref() == Some("immediate") {
        return true;
    }
    let prompts = ["session.send", "session.sendMessages"].contains(&call.method.name);
    if !prompts && session.turn_of().as_ref() == Some(call.whose()) {
        // A tool of the turn may be who asks for it, and the turn waits for that.
        return true;
    }
    let steers = session.busy() == Busy::Steer && call.method.name == "session.send";
    if steers {
        let rest = wish::without(params, &["mode"]);
        let request = Arc::make_mut(&mut call.request);
        request.rewrite(call.method.name, &rest);
        request.insert("mode", b"\"immediate\"");
    }
    steers
}

/// Waits for the turn.
async fn acquire(call: &mut Call, session: &Arc<Session>) -> Result<(), Refusal> {
    let core = call.client.core().clone();
    let now = Instant::now();
    let deadline = match session.busy() {
        Busy::Wait => now + core.config.locks.wait,
        Busy::Refuse | Busy::Steer => now,
    };
    let (key, who) = (lease::lock_key(&session.key), call.whose());
    let turn = core.turns.begin(&key, who, deadline).await.map_err(|error| refusal(&error))?;
    let leg = call.client.leg_of(session).await?;
    lease::enter(&core, session, &turn, &leg).await?;
    tools::offer_again(session, &leg).await?;
    call.lease = Some(turn);
    Ok(())
}

fn refusal(error: &AcquireError) -> Refusal {
    match error {
        AcquireError::Busy(place) | AcquireError::TimedOut { place, .. } => Refusal::busy(Some(place)),
        AcquireError::Closed => Refusal::Draining(RETRY_AFTER),
        AcquireError::Store { .. }
        | AcquireError::StoreTimedOut(_)
        | AcquireError::Floor(_)
        | AcquireError::FloorTimedOut(_) => {
            tracing::warn!(%error, "no lease");
            Refusal::Overloaded(Limit::Locks, RETRY_AFTER)
        }
    }
}
