//! A client's prompts reach a session in the order in which they came, though some of them wait.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Call, Refusal, gate::Gate, later};

#[derive(Debug, Clone)]
pub(super) struct Order;

impl Gate for Order {
    type Wait = Arc<Mutex<()>>;
    type Held = OwnedMutexGuard<()>;

    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal> {
        let session = later::session(call).filter(|_| call.method.begins_turn());
        // There is a line only while an earlier prompt waits.
        Ok(session.and_then(|session| call.client.line(&session)))
    }

    async fn wait(_: &mut Call, line: Self::Wait) -> Result<Self::Held, Refusal> {
        Ok(line.lock_owned().await)
    }
}
