//! Finds the CLI server, starting one if need be, and forwards.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tower::Service;

use jetway_config::SessionId;
use jetway_wire::{Value, catalogue::Scope};

use super::{Accepted, Call, Limit, RETRY_AFTER, Refusal, Target};
use crate::{
    net::writer::Backlog,
    sessions::{leg::Leg, pending::Then, registry::Session, revival::Route},
};

/// How often a call looks for a leg, when the one that it found is closed under it.
const TRIES: u32 = 3;

#[derive(Debug, Clone)]
pub(super) struct Place;

impl Service<Call> for Place {
    type Response = Accepted;
    type Error = Refusal;
    type Future = Either<Ready<Result<Accepted, Refusal>>, BoxFuture<'static, Result<Accepted, Refusal>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        call.client.touch();
        let session = match &call.target {
            Target::Home => None,
            Target::Session(session) => Some(&**session),
        };
        match call.client.standing_leg(session) {
            // The usual case waits for nothing.
            Some(leg) => match forward(call, &leg) {
                Ok(Backlog::None) => Either::Left(ready(Ok(Accepted::Forwarded))),
                Ok(Backlog::Some) => Either::Right(Box::pin(drained(leg))),
                Err(NotSent::Refused(refusal)) => Either::Left(ready(Err(refusal))),
                Err(NotSent::Closed(call)) => Either::Right(Box::pin(place(call))),
            },
            None => Either::Right(Box::pin(place(call))),
        }
    }
}

fn place(call: Call) -> impl Future<Output = Result<Accepted, Refusal>> {
    // Counted from now on, not from the first poll: a drain waits for it.
    let counted = call.client.core().placing.one_more();
    async move {
        let _counted = counted;
        find_and_forward(call).await
    }
}

async fn find_and_forward(mut call: Call) -> Result<Accepted, Refusal> {
    for _ in 0..TRIES {
        let leg = match &call.target {
            Target::Home => call.client.home().await?,
            Target::Session(session) => call.client.leg_of(session).await?,
        };
        match forward(call, &leg) {
            Ok(Backlog::None) => return Ok(Accepted::Forwarded),
            Ok(Backlog::Some) => return drained(leg).await,
            Err(NotSent::Refused(refusal)) => return Err(refusal),
            Err(NotSent::Closed(back)) => call = back,
        }
    }
    Err(Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER))
}

/// The CLI server reads slowly: then this client waits, who makes it work.
async fn drained(leg: Arc<Leg>) -> Result<Accepted, Refusal> {
    // A leg that is lost tells of itself.
    let _ = leg.drained().await;
    Ok(Accepted::Forwarded)
}

/// A call that no CLI server has seen.
enum NotSent {
    Refused(Refusal),
    /// The leg was closed; another may take it.
    Closed(Call),
}

fn forward(mut call: Call, leg: &Arc<Leg>) -> Result<Backlog, NotSent> {
    let then = prepare(&mut call, leg).map_err(NotSent::Refused)?;
    let limit = call.client.core().config.limits.max_in_flight;
    leg.forward(&call.request, call.origin, then, &call.method.answer, limit).map_err(|unsent| {
        unsent.then.undo(leg, &call.client);
        match unsent.why {
            Some(refusal) => NotSent::Refused(refusal),
            None => NotSent::Closed(Call { origin: unsent.origin, ..call }),
        }
    })
}

/// What must stand before the CLI server hears of the call, and what its reply is to change.
///
/// A session's route stands first: its events come before the reply that creates it.
fn prepare(call: &mut Call, leg: &Arc<Leg>) -> Result<Then, Refusal> {
    let scope = call.method.scope;
    if matches!(scope, Scope::Create | Scope::Resume) {
        return attach(call, leg);
    }
    let params = call.request.params();
    let Target::Session(session) = &call.target else {
        call.client.remember(call.method.name, params.map_or(&b"{}"[..], Value::text));
        return Ok(Then::Nothing);
    };
    let session = session.clone();
    leg.remember(&session.key.id, call.method.name, params.map_or(&b"{}"[..], Value::text));
    if !leg.exclusive() && session.server() != *leg.server().id() {
        // Its own server cannot be had, and on this one its name may be another's: to resume it here asks first.
        return Err(Refusal::SessionNotFound);
    }
    Ok(match call.method.name {
        "session.detach" | "session.destroy" => Then::Detach(session),
        "session.delete" | "sessions.delete" => Then::Delete(session),
        "session.abort" => {
            session.aborting();
            Then::Nothing
        }
        _ if call.method.begins_turn() => match session.begin_turn() {
            Some(turn) => Then::Turn { session, turn },
            None => Then::Nothing,
        },
        _ => Then::Nothing,
    })
}

fn attach(call: &mut Call, leg: &Arc<Leg>) -> Result<Then, Refusal> {
    let given = call.request.params().map(|p| (p.get("sessionId"), p.get("cloud").is_some()));
    let id = match given {
        // A cloud session is named by the cloud.
        Some((None, true)) => return Ok(Then::Learn),
        Some((None, false)) if call.method.scope == Scope::Create => {
            let id = uuid::Uuid::new_v4().to_string();
            call.request.insert("sessionId", format!("\"{id}\"").as_bytes());
            id
        }
        Some((Some(id), _)) => id.as_str().unwrap_or_default().into_owned(),
        // The CLI itself says what is missing.
        _ => return Ok(Then::Nothing),
    };
    let Ok(id) = id.parse::<SessionId>() else {
        // Nothing can be claimed under such a name. On a server of the user's own the CLI says so.
        return if leg.exclusive() { Ok(Then::Nothing) } else { Err(Refusal::SessionNotFound) };
    };
    let known = matches!(call.target, Target::Session(_));
    let session: Arc<Session> = call.client.claim(&id, leg).ok_or(Refusal::SessionNotFound)?;
    // Kept for bringing it back, which is done on servers of the user's own.
    let params = call.request.params().filter(|_| leg.exclusive()).map_or(&b"{}"[..], Value::text);
    call.client.awake(&id);
    let routed = leg.route(Route::new(session.clone(), params));
    Ok(Then::Attach { session, routed, claimed: !known })
}
