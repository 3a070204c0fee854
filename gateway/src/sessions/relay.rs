//! From a CLI server to its client: whose is it, and is it the end of a turn?

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde_json::json;
use tokio::net::tcp::OwnedReadHalf;
use tracing::{debug, warn};

use jetway_config::limits;
use jetway_wire::{
    Envelope, Id, Kind, Value,
    catalogue::Answer,
    envelope::{self, EnvelopeError},
    event::{self, Peek, Turn},
    frame::{Caps, Decoder, Frame, FrameError},
};

use super::{
    asked::Question,
    bounds,
    client::Client,
    cloud, forgotten, lease,
    leg::{Followed, Leg},
    listing,
    pending::{Origin, Then, Waiting},
    registry::Session,
    requests,
    revival::{self, Route},
    turn::Outcome,
    withheld,
};
use crate::{
    directory::What,
    metrics,
    net::{chunk, writer::Backlog},
    policy::filter,
    rescue,
    stack::Refusal,
};

/// What a CLI server may send in one frame.
fn from_cli(client: &Client) -> Caps {
    Caps { header: limits::FRAME_HEADER_BYTES, body: client.core().live().limits.max_frame }
}

/// Why a leg ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the CLI server closed the connection")]
    Closed,
    #[error("reading from the CLI server: {0}")]
    Read(std::io::Error),
    #[error("the CLI server sent what is no frame: {0}")]
    Frame(#[from] FrameError),
    #[error("the CLI server sent what is no message: {0}")]
    Message(#[from] EnvelopeError),
    #[error("a panic; the log has more")]
    Panicked,
}

/// Relays until the leg ends, then tells the client what that means.
pub(crate) fn spawn(leg: Arc<Leg>, client: Arc<Client>, read: OwnedReadHalf) {
    let tracker = client.tracker().clone();
    tracker.spawn(async move {
        let (lost, client) = run(&leg, client, read).await;
        settle(&leg, &client, &lost);
    });
}

async fn run(leg: &Arc<Leg>, mut client: Arc<Client>, mut read: OwnedReadHalf) -> (Lost, Arc<Client>) {
    let mut decoder = Decoder::new(from_cli(&client));
    loop {
        let chunk = tokio::select! {
            // First: the reply to what the new client asks must not go to the old one.
            biased;
            () = leg.bequeathed() => {
                client = leg.hand_over(&client).unwrap_or(client);
                continue;
            }
            chunk = chunk::read(&mut read) => chunk,
        };
        let chunk = match chunk {
            Ok(chunk) if chunk.bytes().is_empty() => return (Lost::Closed, client),
            Ok(chunk) => chunk,
            Err(e) => return (Lost::Read(e), client),
        };
        client.touch();
        // A fault of Jetway's costs this leg, and its client hears so.
        let relaying = AssertUnwindSafe(|| relay(leg, &client, &mut decoder, chunk.bytes()));
        let relayed = catch_unwind(relaying).unwrap_or(Err(Lost::Panicked));
        drop(chunk);
        match relayed {
            Ok(Backlog::None) => {}
            // The client reads slowly: its own leg waits, and nobody else's. One whose socket ends meanwhile has its
            // leg closed, or kept for its turn, by whoever reads from that socket.
            // Boxed: an idle leg has no space for it.
            Ok(Backlog::Some) => drop(Box::pin(client.drained()).await),
            Err(lost) => return (lost, client),
        }
    }
}

/// Relays what one read brought, in one write.
fn relay(leg: &Arc<Leg>, client: &Arc<Client>, decoder: &mut Decoder, bytes: &[u8]) -> Result<Backlog, Lost> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut batch = decoder.feed(bytes);
    let outcome = loop {
        match batch.next() {
            Ok(Some(frame)) => {
                let from = out.len();
                match on_frame(leg, client, frame, &mut out) {
                    Ok(On::Reply) => {}
                    Ok(On::Message) => keep_back(leg, &mut out, from),
                    Err(e) => break Err(e.into()),
                }
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e.into()),
        }
    };
    metrics::bytes_to_client(out.len());
    let backlog = if out.is_empty() { Backlog::None } else { client.send(&out) };
    outcome.map(|()| backlog)
}

/// A client that has taken a leg over sees what is told there once it has resumed its session.
fn keep_back(leg: &Leg, out: &mut Vec<u8>, from: usize) {
    if leg.was_inherited() && leg.keep_back(&out[from..]).is_none() {
        out.truncate(from);
    }
}

/// What a frame was.
enum On {
    Reply,
    Message,
}

fn on_frame(
    leg: &Arc<Leg>,
    client: &Arc<Client>,
    frame: Frame<'_>,
    out: &mut Vec<u8>,
) -> Result<On, EnvelopeError> {
    // Most frames are events; their first bytes tell all that is needed.
    if let Some(event) = event::peek(frame.body) {
        let follows = sees(leg, client, event, frame.body);
        if !follows && leg.keep_early(frame.raw, frame.body) {
            return Ok(On::Message);
        }
        if event.turn == Turn::Started {
            cloud::on_start(leg, client, event.session, frame.body);
        }
        if !follows && !leg.exclusive() {
            metrics::filtered();
        } else if matches!(event.turn, Turn::Asked | Turn::Answered) {
            requests::on_event(leg, client, event, frame, out);
        } else if event.turn != Turn::Idle
            || withheld::is_for(client, leg, event.session, frame, || params_of(frame.body))
        {
            out.extend_from_slice(frame.raw);
        }
        return Ok(On::Message);
    }
    let message = Envelope::trusted(frame.body)?;
    match &message.kind {
        Kind::Notification { method, params } => {
            if may_see(leg, client, method, *params) {
                out.extend_from_slice(frame.raw);
            } else {
                metrics::filtered();
            }
        }
        Kind::Request { id, method, params } => {
            if !may_see(leg, client, method, *params) {
                let _ = leg.refuse(id);
                metrics::filtered();
            } else if let Some(seen) = client.ask(question(leg, id, method, *params, frame)) {
                // One who takes over is asked anew.
                if !client.is_gone() {
                    message.write_as(&seen, out);
                }
            } else {
                let _ = leg.refuse(id);
            }
        }
        Kind::Reply { id, outcome } => match leg.replied(id) {
            Some(waiting) => {
                on_reply(leg, client, waiting, &message, *outcome, out);
                return Ok(On::Reply);
            }
            None => debug!(%id, "reply to nothing"),
        },
    }
    Ok(On::Message)
}

/// Follows a session's turn by one of its messages. Returns whether the client has it attached here.
fn follows<'a>(
    leg: &Arc<Leg>,
    client: &Client,
    session: &str,
    turn: Turn,
    params: impl FnOnce() -> Option<Value<'a>>,
) -> bool {
    match leg.follow(session, turn, params) {
        Followed::Strange => false,
        Followed::Attached => true,
        Followed::Doubtful(session) => {
            lease::ask_until_done(client.core(), session, leg);
            true
        }
    }
}

/// The same, by an event of which `body` was peeked at.
pub(super) fn sees(leg: &Arc<Leg>, client: &Client, event: Peek<'_>, body: &[u8]) -> bool {
    follows(leg, client, event.session, event.turn, || params_of(body))
}

fn params_of(body: &[u8]) -> Option<Value<'_>> {
    match Envelope::trusted(body).ok()?.kind {
        Kind::Notification { params, .. } => params,
        _ => None,
    }
}

fn question(leg: &Arc<Leg>, id: &Id, method: &str, params: Option<Value<'_>>, frame: Frame<'_>) -> Question {
    let session = params.and_then(|p| event::session_of(method, p)).and_then(|id| leg.route_to(&id));
    let session = session.map(|route| route.session);
    Question { leg: leg.clone(), id: id.clone(), session, body: frame.body.into() }
}

/// Whether the client may see a message, by the session that it names; turns are followed on the way.
fn may_see(leg: &Arc<Leg>, client: &Client, method: &str, params: Option<Value<'_>>) -> bool {
    let session = params.and_then(|p| event::session_of(method, p));
    let Some(id) = session else {
        // Without a session it is about the whole server.
        return leg.exclusive();
    };
    let turn = match params {
        Some(params) if method == event::SESSION_EVENT => event::turn_of(params),
        Some(params) if method == event::SESSION_LIFECYCLE => {
            note_shown(leg, client, &id, params);
            Turn::Other
        }
        _ => Turn::Other,
    };
    follows(leg, client, &id, turn, || params)
        || leg.exclusive()
        || (method == event::SESSION_LIFECYCLE && client.knows(&id, leg))
}

/// What only a CLI server with a terminal knows of a session is told on the HTTP port as well.
fn note_shown(leg: &Leg, client: &Client, id: &str, params: Value<'_>) {
    let (what, shown) = match params.get("type").and_then(Value::as_str).as_deref() {
        Some("session.foreground") => (What::Foreground, true),
        Some("session.background") => (What::Background, false),
        _ => return,
    };
    if let Some(session) = client.known(id, leg)
        && session.shows(shown)
    {
        client.core().directory.tell(what, &session.key);
    }
}

fn on_reply(
    leg: &Arc<Leg>,
    client: &Arc<Client>,
    mut waiting: Waiting,
    message: &Envelope<'_>,
    outcome: Result<Value<'_>, Value<'_>>,
    out: &mut Vec<u8>,
) {
    if let Err(error) = outcome {
        match forgotten::ask_again(leg, client, waiting, error) {
            Some(back) => waiting = back,
            None => return,
        }
    }
    if let Err(error) = outcome
        && let Some(request) = waiting.then.instead(error)
    {
        match leg.ask_instead(&request, waiting) {
            Ok(()) => return,
            Err(back) => waiting = back,
        }
    }
    let edited = match outcome {
        Ok(result) => edited(leg, client, &waiting, result),
        Err(_) => None,
    };
    let attached = matches!(waiting.then, Then::Attach(_)) && leg.was_inherited();
    let learns = matches!(waiting.then, Then::Learn(_));
    match outcome {
        Ok(result) => waiting.then.done(result, leg, client),
        Err(_) => waiting.then.undo(leg, client),
    }
    match (waiting.origin, edited) {
        (Origin::Client(id), Some(result)) => envelope::write_result(out, &id, &result),
        (Origin::Client(id), None) => message.write_as(&id, out),
        // Whoever asked may have given up.
        (Origin::Jetway(answer), Some(result)) => drop(answer.send(Ok(result.into()))),
        (Origin::Jetway(answer), None) => {
            let _ = answer.send(outcome.map(|v| v.text().into()).map_err(|v| v.text().into()));
        }
    }
    if attached {
        out.extend_from_slice(&leg.inheritance());
    }
    if learns {
        let (early, more) = leg.take_early();
        leg.put_early(cloud::let_through(leg, client, early, more, out));
    }
}

/// A result without what is not the client's, and with what lives elsewhere. `None`: as it is.
fn edited(leg: &Leg, client: &Client, waiting: &Waiting, result: Value<'_>) -> Option<Vec<u8>> {
    if let Then::List { entries, filtered } = &waiting.then {
        return Some(listing::merged(result, entries, *filtered, leg));
    }
    // A fork is its maker's before its id is looked for.
    filter::claims(waiting.answer, result, |id| {
        if let Ok(id) = id.parse()
            && waiting.then.session().is_none_or(|s| s.key.id != id)
        {
            client.found(&id, leg, None);
        }
    });
    if leg.exclusive() || *waiting.answer == Answer::AsIs {
        return None;
    }
    let mut out = Vec::with_capacity(result.text().len());
    filter::result(waiting.answer, result, |id| client.knows(id, leg), &mut out);
    Some(out)
}

/// Ends what the leg carried. The client's socket stays.
fn settle(leg: &Arc<Leg>, client: &Arc<Client>, lost: &Lost) {
    let mut waiting = Vec::new();
    let mut close = || {
        let (left, routes) = leg.close();
        waiting = left;
        Some(routes)
    };
    // Its state is in its user's home, or other servers have it too: a new process or one of those goes on with it.
    let kept = client.core().exclusive() || leg.server().state().is_some();
    let stays = kept && !client.is_gone();
    let routes = if stays { client.put_to_rest(close) } else { close() }.unwrap_or_default();
    // What was not made yet, and may never be, is not to be brought back: its name may be another's then.
    waiting.iter().filter_map(|w| w.then.unmade()).for_each(|session| client.awake(&session.key.id));
    let asked = client.is_asked_by(leg);
    client.leave(leg);
    if client.core().exclusive() && !routes.is_empty() {
        bounds::on_loss(client.core(), leg, routes.iter().map(|route| route.session.clone()).collect());
    }
    // What waits for nothing but the client may go on; whatever is on its way to the server may act there.
    if asked || !waiting.is_empty() {
        routes.iter().for_each(|route| route.session.acting());
    }
    if client.is_gone() {
        routes.iter().for_each(|r| r.session.detach(Outcome::Aborted));
        return;
    }
    if !waiting.is_empty() || !routes.is_empty() {
        warn!(backend = %leg.server().id(), cause = %lost, requests = waiting.len(), sessions = routes.len(), "leg lost");
    }
    let revives = stays && !routes.is_empty();
    let may_go_on = |route: &Route| stays && route.session.strand().map(|hope| route.hopes(hope)).is_some();
    let (stranded, rest): (Vec<_>, Vec<_>) = routes.into_iter().partition(may_go_on);
    let out = ended(waiting, &rest);
    // What does not fit now goes with the next write; the amount is bounded by what was in flight.
    let _ = client.send(&out);
    if revives {
        revival::revive_all(client.clone(), stranded);
    }
}

/// Tells of what a leg carried: each open request with `turn_indeterminate`, each running turn with one
/// `session.error`.
pub(crate) fn ended(waiting: Vec<Waiting>, routes: &[Route]) -> Vec<u8> {
    let mut out = Vec::new();
    for waiting in &waiting {
        if let Origin::Client(id) = &waiting.origin {
            let session = waiting.then.session().map(|s| s.key.id.clone());
            let turn = waiting.then.turn();
            rescue::write(&Refusal::Indeterminate { session, turn }, Some(id), &mut out);
        }
    }
    for route in routes {
        if route.session.is_running() {
            write_turn_lost(&route.session, &mut out);
        }
        route.session.detach(Outcome::Indeterminate);
    }
    // Only now: what was claimed and not made is forgotten if nobody has it.
    drop(waiting);
    out
}

/// Exactly one `session.error`, and no `session.idle`: with one of those as well the SDK's next
/// `sendAndWait` would return before its own turn.
pub(super) fn write_turn_lost(session: &Session, out: &mut Vec<u8>) {
    let params = json!({
        "sessionId": session.key.id,
        "event": {
            "type": "session.error",
            "id": uuid::Uuid::new_v4().to_string(),
            "timestamp": humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
            "parentId": null,
            "ephemeral": true,
            "data": {
                "errorType": "turn_indeterminate",
                "message": "The way to the CLI server ended in the middle of this turn; it is not retried, because its tools may have acted",
            },
        },
    });
    envelope::write_notification(out, event::SESSION_EVENT, params.to_string().as_bytes());
}
