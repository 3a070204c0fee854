//! What a security officer asks for later: who was denied what, who used which key, who shared a session, what
//! operators did. One JSON object a line, without content and without secrets.
//!
//! Recording waits for nothing: a line is made where something happens and written by a thread of its own. Denials
//! come at a bounded rate for each tenant, or for each address of strangers; what is left out is counted, and the
//! count is written down.

mod line;
mod rate;
mod writer;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jetway_config::{AuditSink, Identity, KeyId, SessionId, UserId};

use self::{line::Line, rate::Rates, writer::Writer};
use crate::{auth::Caller, directory::Member, rescue, stack::Refusal};

/// How often a key's use is written down, at most.
const KEY_USE: Duration = Duration::from_secs(60);
/// Keys whose last use is kept in mind; older ones are forgotten first.
const KEYS: usize = 4096;

/// Something to be written down.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A stranger was turned away.
    Stranger { peer: Option<SocketAddr>, refusal: &'a Refusal },
    /// A caller's request was refused; other refusals than denials are not written down.
    Refused { caller: &'a Caller, method: &'a str, session: Option<&'a str>, refusal: &'a Refusal },
    /// A caller was let in. A key's use is written down once a minute.
    Admitted { caller: &'a Caller },
    /// A connection was ended, because nothing vouches for its caller any more.
    Revoked { caller: &'a Caller },
    /// A session was opened to a user, or closed if there is no role.
    Shared { owner: &'a Identity, session: &'a SessionId, user: &'a UserId, role: Option<&'a str> },
    /// An operator did something, to `target` if it has one.
    Operated { act: &'static str, target: Option<&'a str>, outcome: &'a str },
}

/// The audit log.
#[derive(Debug)]
pub(crate) struct Audit(Option<On>);

#[derive(Debug)]
struct On {
    writer: Writer,
    rates: Mutex<Rates>,
    used: Mutex<HashMap<KeyId, Instant>>,
}

impl Audit {
    /// Opens it, and starts its thread.
    pub(crate) fn open(sink: &AuditSink) -> io::Result<Self> {
        let Some(writer) = Writer::start(sink)? else { return Ok(Self(None)) };
        Ok(Self(Some(On { writer, rates: Mutex::default(), used: Mutex::default() })))
    }

    /// Whether anything is written down: what costs something to find out need not be found out otherwise.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes an event down, if it is of interest and its kind has not had its share.
    pub(crate) fn record(&self, event: &Event<'_>) {
        if let Some(on) = &self.0 {
            on.record(event);
        }
    }

    /// A session is shared with these from the beginning.
    pub(crate) fn shared(&self, owner: &Identity, session: &SessionId, members: &[Member]) {
        for Member { user, role } in members {
            self.record(&Event::Shared { owner, session, user, role: Some(role.as_str()) });
        }
    }

    /// Opens the file again, wherever its name leads now.
    pub(crate) fn reopen(&self) {
        if let Some(on) = &self.0 {
            on.writer.reopen();
        }
    }

    /// Writes what waits, and no more after that.
    pub(crate) async fn close(&self) {
        if let Some(on) = &self.0 {
            on.writer.close().await;
        }
    }
}

impl On {
    fn record(&self, event: &Event<'_>) {
        if is_denial(event) {
            let source = source(event);
            let allowed =
                self.rates.lock().unwrap_or_else(PoisonError::into_inner).take(&source, Instant::now());
            if !allowed {
                return self.writer.left_out();
            }
        }
        let line = match event {
            Event::Stranger { peer, refusal } => {
                Line { peer: *peer, outcome: rescue::name(refusal), ..Line::of("denied") }
            }
            Event::Refused { caller, method, session, refusal } => {
                let rule = match refusal {
                    Refusal::SessionNotFound => None,
                    Refusal::MethodNotAllowed { denied, .. } => denied.as_ref().map(|d| d.rule.as_str()),
                    Refusal::Unauthenticated(_) => None,
                    _ => return,
                };
                let (method, session) = (line::plain(method), session.and_then(line::plain));
                Line { method, session, rule, outcome: rescue::name(refusal), ..Line::by("denied", caller) }
            }
            Event::Admitted { caller } if self.is_news(caller) => Line::by("key_used", caller),
            Event::Admitted { .. } => return,
            Event::Revoked { caller } => Line { outcome: "closed", ..Line::by("revoked", caller) },
            Event::Shared { owner, session, user, role } => Line {
                tenant: Some(owner.tenant.as_str()),
                user: Some(owner.user.as_str()),
                session: Some(session.as_str()),
                target: Some(user.as_str()),
                outcome: role.unwrap_or("removed"),
                ..Line::of("shared")
            },
            Event::Operated { act, target, outcome } => {
                Line { method: Some(act), target: *target, outcome, ..Line::of("operated") }
            }
        };
        self.writer.write(line.to_json());
    }

    fn is_news(&self, caller: &Caller) -> bool {
        let Some(key) = caller.by.key() else { return false };
        let now = Instant::now();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.get(key).is_some_and(|at| now.duration_since(*at) < KEY_USE) {
            return false;
        }
        if used.len() >= KEYS {
            used.retain(|_, at| now.duration_since(*at) < KEY_USE);
        }
        if used.len() < KEYS {
            used.insert(key.clone(), now);
        }
        true
    }
}

fn is_denial(event: &Event<'_>) -> bool {
    matches!(event, Event::Stranger { .. } | Event::Refused { .. })
}

/// Whose share of the log a denial takes.
fn source(event: &Event<'_>) -> String {
    match event {
        Event::Refused { caller, .. } => caller.who.tenant.to_string(),
        Event::Stranger { peer: Some(peer), .. } => peer.ip().to_string(),
        _ => String::new(),
    }
}
