//! Prompts to a cloud session are held until its agent has come. See [`crate::sessions::cloud`].

use std::sync::Arc;

use super::{Call, Refusal, gate::Gate, later};
use crate::sessions::{cloud, registry::Session};

#[derive(Debug, Clone)]
pub(super) struct Cloud;

impl Gate for Cloud {
    type Wait = Arc<Session>;
    type Held = ();

    fn look(call: &mut Call) -> Result<Option<Self::Wait>, Refusal> {
        let session = later::session(call).filter(|s| call.method.begins_turn() && s.awaits_agent());
        Ok(session.inspect(|session| cloud::tell_held(&call.client, session)))
    }

    async fn wait(call: &mut Call, session: Self::Wait) -> Result<(), Refusal> {
        cloud::agent(&call.client, &session).await
    }
}
