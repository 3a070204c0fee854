//! One turn at a time in a session that is shared: a prompt waits for its turn, under a fenced lease.

use std::sync::Arc;

use tokio::time::Instant;

use jetway_lockd::AcquireError;
use jetway_wire::{Value, catalogue::Scope};

use super::{Busy, Call, Limit, RETRY_AFTER, Refusal, Target, gate::Gate, wish};
use crate::{
    directory::Role,
    sessions::{lease, registry::Session, tools},
};

/// The member of a resume's params by which the CLI server is to go on with what waits.
const CONTINUES: &str = "continuePendingWork";

#[derive(Debug, Clone)]
pub(super) struct Lease;

impl Gate for Lease {
    type Wait = Arc<Session>;
    type Held = ();

    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal> {
        let Target::Session(session) = &call.target else { return Ok(None) };
        let session = session.clone();
        if !session.is_shared() {
            return Ok(None);
        }
        let waits = if continues(call) {
            let may = session.role_of(call.client.who()) != Some(Role::Viewer) && !session.is_running();
            if !may {
                do_not_continue(call);
            }
            may
        } else {
            call.method.begins_turn() && !joins(call, &session)
        };
        Ok(waits.then_some(session))
    }

    /// From here on the lease goes with the call, then with the turn.
    async fn wait(call: &mut Call, session: Self::Wait) -> Result<(), Refusal> {
        match continues(call) {
            true => acquire_to_continue(call, &session).await,
            false => acquire(call, &session).await,
        }
    }
}

/// Whether the call attaches a session, and the CLI server is to go on with what waits in it: that is a turn.
fn continues(call: &Call) -> bool {
    let continues = || call.request.params()?.get(CONTINUES)?.as_bool();
    matches!(call.method.scope, Scope::Create | Scope::Resume) && continues() == Some(true)
}

/// Has it attach the session and no more.
fn do_not_continue(call: &mut Call) {
    let params = call.request.params().map(|params| wish::without(params, &[CONTINUES]));
    if let Some(params) = params {
        Arc::make_mut(&mut call.request).rewrite(call.method.name, &params);
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
    let deadline = match call.busy.unwrap_or_else(|| session.busy()) {
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

/// Waits for as long as a gateway that is no more may seem to have the turn. While somebody has it nothing waits that
/// could be gone on with.
async fn acquire_to_continue(call: &mut Call, session: &Arc<Session>) -> Result<(), Refusal> {
    let core = call.client.core().clone();
    let (key, deadline) = (lease::lock_key(&session.key), Instant::now() + core.config.locks.ttl);
    match core.turns.begin(&key, call.whose(), deadline).await {
        Ok(turn) => {
            lease::write_down(&core, session, &turn).await?;
            call.lease = Some(turn);
        }
        Err(AcquireError::Closed) => return Err(refusal(&AcquireError::Closed)),
        Err(error) => {
            tracing::info!(session = %session.key, %error, "attached without going on with what waits");
            do_not_continue(call);
        }
    }
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
