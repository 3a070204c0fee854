//! Whether there is room for one more turn; if not, the turn waits for it, in a fair line.
//!
//! A prompt for a session whose turn runs already needs no room of its own: the CLI works it off within that
//! turn's time, and to have it wait for the turn that it is to steer would be to wait for nothing. A tool of a
//! turn that begins a turn elsewhere does need room: where there is none that lasts, both end by the bound on the
//! wait.

use std::{sync::Arc, time::Duration};

use super::{Call, Limit, Refusal, SOONEST, gate::Gate, later};
use crate::admission::{Bounds, Entry, Full, Room as Asked, Waiter, Why};

/// The longest: by then everything may have changed.
const LATEST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct Room;

impl Gate for Room {
    type Wait = Waiter;
    type Held = ();

    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal> {
        if !call.method.begins_turn() {
            return Ok(None);
        }
        call.permit = later::session(call).and_then(|session| session.permit());
        if call.permit.is_some() {
            return Ok(None);
        }
        match call.client.core().admission.ask(call.client.who(), room(call)) {
            Ok(Entry::Begins(permit)) => {
                call.permit = Some(Arc::new(permit));
                Ok(None)
            }
            Ok(Entry::Waits(waiter)) => Ok(Some(waiter)),
            Err(full) => Err(refusal(&full)),
        }
    }

    async fn wait(call: &mut Call, waiter: Self::Wait) -> Result<(), Refusal> {
        let core = call.client.core();
        let permit = core.drain.unless_draining(waiter.wait()).await;
        let permit = permit.ok_or(Refusal::Draining(core.config.drain.timeout))?;
        call.permit = Some(Arc::new(permit.map_err(|full| refusal(&full))?));
        Ok(())
    }
}

fn room(call: &Call) -> Asked {
    let live = call.client.core().live();
    let (all, tenant) = (&live.limits, live.tenants.get(&call.client.who().tenant));
    let bounds = |all, most| Bounds { all, tenant: most, user: tenant.user_share.of(most) };
    Asked {
        running: bounds(all.max_concurrent_turns, tenant.max_concurrent_turns),
        waiting: bounds(all.max_waiting_turns, tenant.max_waiting_turns),
        wait: all.turn_wait,
    }
}

fn refusal(full: &Full) -> Refusal {
    let limit = match full.why {
        Why::Queue => Limit::WaitingTurns,
        Why::Wait => Limit::TurnWait,
    };
    Refusal::Overloaded(limit, full.clears_in.clamp(SOONEST, LATEST))
}
