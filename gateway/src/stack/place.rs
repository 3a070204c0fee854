//! Finds the CLI server, starting one if need be, and forwards.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::time::Instant;
use tower::Service;

use jetway_wire::{
    Value,
    catalogue::{Answer, Method, Scope},
    envelope::code,
};

use super::{Accepted, Call, Limit, RETRY_AFTER, Refusal, Target, ahead};
use crate::{
    net::writer::Backlog,
    sessions::{
        forgotten, idle,
        lease::{self, Lease},
        leg::Leg,
        pending::{Sent, Then, Waiting},
        placing,
        registry::Session,
        revival,
    },
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
        if asks_directory(&call) || leads_to_sleepers(&call) {
            return Either::Right(Box::pin(place(call)));
        }
        let session = match &call.target {
            Target::Home => None,
            Target::Session(session) => {
                session.touch();
                Some(&**session)
            }
        };
        match call.client.standing_leg(session) {
            // The usual case waits for nothing.
            Some(leg) => match forward(call, &leg, Then::Nothing) {
                Ok(Backlog::None) => Either::Left(ready(Ok(Accepted::Forwarded))),
                Ok(Backlog::Some) => Either::Left(ready(Ok(Accepted::Slowly(leg)))),
                Err(NotSent::Refused(refusal)) => Either::Left(ready(Err(refusal))),
                Err(NotSent::Closed(call)) => Either::Right(Box::pin(place(*call))),
            },
            None => Either::Right(Box::pin(place(call))),
        }
    }
}

/// Whether something must stand in the directory, or be read from it, before the CLI server hears of the call.
fn asks_directory(call: &Call) -> bool {
    attaches(call.method) || call.method.answer == Answer::Directory
}

/// Whether the call answers what a turn asked, while others who have its session are not attached again yet since its
/// CLI server was lost: what the answer leads to may be theirs to do, as a call of a tool that they bring.
fn leads_to_sleepers(call: &Call) -> bool {
    match &call.target {
        Target::Session(session) => answers(call.method) && idle::has_sleepers(&call.client, session),
        Target::Home => false,
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
        if call.method.name == "session.getLastId"
            && let Some(last) = ahead::last_id(&call).await?
        {
            return Ok(Accepted::Told(last));
        }
        if let Target::Session(session) = &call.target
            && detaches(call.method.name)
            && call.client.leave_asleep(session)
        {
            // No process is started for that: people whose applications end together would have all of them started.
            return Ok(Accepted::Answered(r#"{"success":true}"#));
        }
        let attaches = attaches(call.method);
        let mut spot = None;
        let leg = match &call.target {
            Target::Home if attaches => spot.insert(placing::of_new(&call.client).await?).leg.clone(),
            Target::Home => call.client.home().await?,
            Target::Session(session) if attaches => {
                call.client.take_over(session);
                revival::revive(&call.client, &session.key.id).await?;
                forgotten::look(call.client.core(), session).await?;
                spot.insert(placing::of(&call.client, session).await?).leg.clone()
            }
            Target::Session(session) => {
                let leg = call.client.leg_of(session).await?;
                if answers(call.method) {
                    idle::wake_others(&call.client, session).await;
                }
                leg
            }
        };
        let then = match call.method.name {
            _ if attaches => ahead::attach(&mut call, &leg).await?,
            "session.list" => ahead::list(&call).await?,
            _ => Then::Nothing,
        };
        // Its route stands.
        drop(spot);
        match forward(call, &leg, then) {
            Ok(Backlog::None) => return Ok(Accepted::Forwarded),
            Ok(Backlog::Some) => return Ok(Accepted::Slowly(leg)),
            Err(NotSent::Refused(refusal)) => return Err(refusal),
            Err(NotSent::Closed(back)) => call = *back,
        }
    }
    Err(Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER))
}

/// A call that no CLI server has seen.
enum NotSent {
    Refused(Refusal),
    /// The leg was closed; another may take it.
    Closed(Box<Call>),
}

fn forward(mut call: Call, leg: &Arc<Leg>, then: Then) -> Result<Backlog, NotSent> {
    if let Target::Session(session) = &call.target
        && leg.rests(session)
    {
        return Err(NotSent::Closed(Box::new(call)));
    }
    let then = match then {
        Then::Nothing => prepare(&mut call, leg).map_err(NotSent::Refused)?,
        then => then,
    };
    let session = match &call.target {
        Target::Session(session) => Some(session),
        Target::Home => None,
    };
    let sent = session.filter(|_| may_go_again(&call)).map(|session| {
        Box::new(Sent {
            user: call.user.clone(),
            method: call.method,
            request: call.request.clone(),
            held: call.held.clone(),
            session: session.clone(),
            attached: session.times_attached(),
        })
    });
    let about = session.map(|session| &session.key.id);
    let limit = call.client.core().live().limits.max_in_flight;
    let waiting = Waiting { origin: call.origin, then, answer: &call.method.answer, sent };
    leg.forward(&call.request, about, waiting, limit).map_err(|unsent| {
        unsent.then.undo(leg, &call.client);
        match unsent.why {
            Some(refusal) => NotSent::Refused(refusal),
            None => NotSent::Closed(Box::new(Call { origin: unsent.origin, ..call })),
        }
    })
}

/// Whether a call is to be made once more if the CLI server has forgotten its session: not what attaches one, which
/// the CLI server then does, nor what ends one.
fn may_go_again(call: &Call) -> bool {
    !call.again && !attaches(call.method) && !ends(call.method.name)
}

fn attaches(method: &Method) -> bool {
    matches!(method.scope, Scope::Create | Scope::Resume)
}

/// What the reply to a call that attaches nothing is to change.
fn prepare(call: &mut Call, leg: &Arc<Leg>) -> Result<Then, Refusal> {
    let params = call.request.params().map_or(&b"{}"[..], Value::text);
    let Target::Session(session) = &call.target else {
        call.client.remember(call.method.name, params);
        return Ok(Then::Nothing);
    };
    leg.remember(&session.key.id, call.method.name, params);
    if !leg.exclusive() && session.server() != *leg.server().id() {
        // Its own server cannot be had, and on this one its name may be another's: to resume it here asks first.
        return Err(Refusal::SessionNotFound);
    }
    let session = session.clone();
    if !ends(call.method.name) && (session.is_stale() || answers_lapsed(call, &session, leg)) {
        // Its lease is over: nothing more of the turn goes to a CLI server.
        return Err(Refusal::Indeterminate { session: Some(session.key.id.clone()), turn: None });
    }
    if answers(call.method) {
        note_answer(call, &session);
    }
    Ok(match call.method.name {
        name if detaches(name) => {
            call.client.give_up(&session);
            Then::Detach(session)
        }
        "sessions.close" => {
            call.client.give_up(&session);
            Then::Close(session)
        }
        "session.delete" | "sessions.delete" | "sessions.bulkDelete" => {
            let sessions = named(call);
            sessions.iter().for_each(|session| call.client.give_up(session));
            Then::Delete(sessions)
        }
        "session.abort" => {
            call.client.give_up(&session);
            session.aborting();
            Then::Nothing
        }
        _ if call.method.begins_turn() => begin_turn(call, session, leg)?,
        _ => Then::Nothing,
    })
}

/// The call answers what a turn asked: what it waited for may be under way from now on.
fn note_answer(call: &Call, session: &Session) {
    if let Some(id) = call.request.params().and_then(|p| p.get("requestId")).and_then(Value::as_str) {
        session.answered(&id);
    }
}

/// Whether the call answers what was asked in a turn of a shared session that was lost here.
fn answers_lapsed(call: &Call, session: &Session, leg: &Leg) -> bool {
    let request = call.request.params().filter(|_| session.is_shared()).and_then(|p| p.get("requestId"));
    let asked = request.and_then(Value::as_str).zip(leg.route_to(session.key.id.as_str()));
    asked.is_some_and(|(id, route)| route.requests(|requests| requests.has_lapsed(&id)))
}

/// Whether a method answers what a turn asked its people.
fn answers(method: &Method) -> bool {
    method.name.contains(".handlePending")
}

/// Whether a method has its client leave a session, and nothing else.
fn detaches(method: &str) -> bool {
    ["session.detach", "session.destroy"].contains(&method)
}

/// Whether a method ends what its sessions do.
fn ends(method: &str) -> bool {
    let (stops, removes) =
        (["session.abort", "sessions.close"], ["session.delete", "sessions.delete", "sessions.bulkDelete"]);
    detaches(method) || stops.contains(&method) || removes.contains(&method)
}

/// The sessions at hand that the call names: [`own`](super::own) has seen to it that its caller may.
fn named(call: &Call) -> Vec<Arc<Session>> {
    let (registry, who) = (&call.client.core().registry, call.client.who());
    let mut sessions = Vec::new();
    call.method.session_ids(call.request.params().unwrap_or(Value::new(b"{}")), |id| {
        let id = id.as_str().and_then(|id| id.parse().ok());
        sessions.extend(id.and_then(|id| registry.find(who, &id)));
    });
    sessions
}

fn begin_turn(call: &mut Call, session: Arc<Session>, leg: &Leg) -> Result<Then, Refusal> {
    let core = call.client.core();
    core.scribe.used(&session.key);
    let Some(turn) = call.lease.take() else {
        if session.is_shared() && !session.is_running() {
            // The turn that it was to join has ended, or its lease went with a leg that was closed under it.
            return Err(Refusal::busy(None));
        }
        return Ok(session
            .begin_turn(leg.id(), None, call.permit.as_ref())
            .map_or(Then::Nothing, |turn| Then::Turn { session, turn }));
    };
    if !turn.is_live(Instant::now()) {
        // It waited too long for something else.
        return Err(Refusal::busy(None));
    }
    lease::announce(&session, call.whose(), leg);
    let (lease, watch) = Lease::new(turn);
    let Some(turn) = session.begin_turn(leg.id(), Some(lease), call.permit.as_ref()) else {
        // Nobody here would see it end, so nobody would know when another may begin.
        let why = "resume a shared session before you send to it".into();
        return Err(Refusal::Invalid(code::INVALID_REQUEST, why));
    };
    watch.start(core, &session);
    Ok(Then::Turn { session, turn })
}
