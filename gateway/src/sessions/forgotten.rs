//! Sessions that a CLI server has let go of by itself, without a word: its own clean-up of what is idle is like that.
//! What it is asked about one next it refuses. Then the session is brought back, and asked about once more.
//!
//! That holds for a prompt as well: one that was refused so has not begun. What a turn was doing whose prompt was
//! taken is lost with the session, and said to be.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use jetway_pool::ServerId;
use jetway_wire::Value;

use super::{
    client::Client,
    idle::Reason,
    leg::Leg,
    pending::{Origin, Sent, Waiting},
    registry::Session,
    relay, resting,
    turn::Outcome,
};
use crate::{
    app::Core,
    metrics, rescue,
    stack::{self, Accepted, Call, Later, Limit, RETRY_AFTER, Refusal, Target},
};

/// A session that was used so lately is not forgotten: a CLI server's clean-up takes what was idle for seconds.
const FRESH: Duration = Duration::from_secs(1);

/// Whether a CLI server says of a session that it does not have it. It says the same of files and tools, in other words.
fn is_forgotten(session: &Session, error: Value<'_>) -> bool {
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    message.contains("Session not found") && message.ends_with(session.key.id.as_str())
}

/// Asks once more what failed with `error`, if that is for its session's having been forgotten. Gives back what is not
/// asked again.
pub(crate) fn ask_again(
    leg: &Arc<Leg>,
    client: &Arc<Client>,
    mut waiting: Waiting,
    error: Value<'_>,
) -> Option<Waiting> {
    let is_due = |sent: &Sent| {
        let session = &sent.session;
        // Who has not attached it hears what it would hear of the CLI server.
        is_forgotten(session, error) && !session.was_closed() && client.has_attached(&session.key.id)
    };
    match waiting.sent.take().filter(|sent| is_due(sent)) {
        Some(sent) => go(leg, client, waiting, *sent),
        None => return Some(waiting),
    }
    None
}

fn go(leg: &Arc<Leg>, client: &Arc<Client>, waiting: Waiting, sent: Sent) {
    let Waiting { origin, then, .. } = waiting;
    // The turn that it was to begin has not.
    then.undo(leg, client);
    let Sent { user, method, request, held, session, attached } = sent;
    let asker = match &origin {
        Origin::Client(id) => Some((client.clone(), id.clone())),
        // Whoever it is in Jetway takes what is dropped for what is lost.
        Origin::Jetway(_) => None,
    };
    let call = Call {
        client: client.clone(),
        user,
        method,
        request,
        origin,
        wish: None,
        busy: None,
        target: Target::Session(session.clone()),
        lease: None,
        held,
        permit: None,
        again: true,
    };
    // Its later prompts wait behind it, as it does behind earlier ones that were refused like it.
    let line = client.line(&session).filter(|_| method.begins_turn());
    let (core, server) = (client.core().clone(), leg.server().id().clone());
    let later = Later::new(Some(session.clone()), async move {
        let _turn = match line {
            Some(line) => Some(line.lock_owned().await),
            None => None,
        };
        put_to_rest(&core, &server, &session, attached).await?;
        stack::again(call).await
    });
    let tell = move |outcome: Result<Accepted, Refusal>| {
        let (Err(refusal), Some((client, id))) = (outcome, asker) else { return };
        metrics::refused(&refusal);
        let mut out = Vec::new();
        rescue::write(&refusal, Some(&id), &mut out);
        // What does not fit goes with the next write.
        let _ = client.send(&out);
    };
    if let Err(refusal) = client.carry_on(later, tell.clone()) {
        tell(Err(refusal));
    }
}

/// Before somebody attaches a session that others have: whether its CLI server still has it, if nobody has used it for
/// some time. If not, they would hear nothing of what the new one does; they are attached anew as well.
pub(crate) async fn look(core: &Core, session: &Arc<Session>) -> Result<(), Refusal> {
    let attached = session.times_attached();
    if session.is_running() || session.was_closed() || session.used().elapsed() < FRESH {
        return Ok(());
    }
    let server = session.server();
    let Some((_, leg)) = resting::holders(core, &server, session).pop() else { return Ok(()) };
    let named = serde_json::json!({ "sessionId": session.key.id }).to_string();
    match leg.call("session.metadata.isProcessing", named.as_bytes()).await {
        Ok(Err(error)) if is_forgotten(session, Value::new(&error)) => {
            put_to_rest(core, &server, session, attached).await
        }
        // A leg that is lost is settled elsewhere.
        _ => Ok(()),
    }
}

/// Nobody here has the session attached any more, until it is brought back; unless somebody has attached it since the
/// request was sent that shows it to be forgotten.
async fn put_to_rest(
    core: &Core,
    server: &ServerId,
    session: &Arc<Session>,
    attached: u64,
) -> Result<(), Refusal> {
    let _placing = session.placing().lock_owned().await;
    if session.times_attached() != attached {
        return Ok(());
    }
    info!(session = %session.key.id, backend = %server, "a CLI server has let go of a session by itself");
    metrics::let_go(Reason::Forgotten.as_str());
    let mut lost = Vec::new();
    if session.has_begun() {
        relay::write_turn_lost(session, &mut lost);
    }
    for (client, leg) in resting::holders(core, server, session) {
        if client.put_to_rest(|| leg.forget(session).map(|route| vec![route])).is_some() {
            session.detach(Outcome::Indeterminate);
            let _ = client.send(&lost);
        }
    }
    for leg in core.kept.legs_with(session) {
        leg.unroute(&session.key.id, Outcome::Indeterminate);
    }
    learn(core, session).await
}

/// Another gateway may have had it closed, to move it elsewhere.
async fn learn(core: &Core, session: &Session) -> Result<(), Refusal> {
    let owner = &session.key.owner;
    match core.directory.find(owner, &session.key.id).await {
        Ok(Some(entry)) => {
            core.registry.hold(owner, &entry);
            Ok(())
        }
        Ok(None) => Err(Refusal::SessionNotFound),
        Err(error) => {
            warn!(%error, "the session directory");
            Err(Refusal::Overloaded(Limit::Directory, RETRY_AFTER))
        }
    }
}
