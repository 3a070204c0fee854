//! What every call goes through, whichever face it came by: one policy, not one per face.
//!
//! A layer decides at once or hands on; only the last, [`place`], may wait (for a CLI server to start).

mod admit;
mod ahead;
mod meter;
mod own;
mod place;
mod reach;
mod refusal;
mod wish;

use std::sync::Arc;

use tower::{Service, ServiceBuilder};

use jetway_wire::{catalogue::Method, envelope::Request};

pub(crate) use self::{
    refusal::{Limit, RETRY_AFTER, Refusal},
    wish::Wish,
};
use crate::sessions::{client::Client, pending::Origin, registry::Session};

/// A known user's request of a known method.
pub(crate) struct Call {
    pub(crate) client: Arc<Client>,
    pub(crate) method: &'static Method,
    pub(crate) request: Request,
    /// Who is to have the reply.
    pub(crate) origin: Origin,
    /// What a new session is to be; [`own`] takes it out of the request, unless it is given.
    pub(crate) wish: Option<Wish>,
    /// Where it goes; [`own`] decides.
    pub(crate) target: Target,
}

/// Where a call goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// To the caller's own CLI server.
    Home,
    /// To where the session lives.
    Session(Arc<Session>),
}

/// What became of a call that was not refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// A CLI server has it; the reply comes by the relay.
    Forwarded,
    /// Jetway answers: the result's JSON.
    Answered(&'static str),
    /// The same, made for this call.
    Told(String),
    /// The same, and the client is done.
    Farewell(&'static str),
}

/// The whole order, outermost first.
pub(crate) fn stack() -> impl Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send
{
    ServiceBuilder::new()
        // Outermost, so that refusals are counted and timed as well.
        .layer_fn(meter::Meter::new)
        // Before anything is looked up: what is not allowed learns nothing.
        .layer_fn(admit::Admit::new)
        // Every session id is looked up before anything is forwarded.
        .layer_fn(own::Own::new)
        // What the params name beside sessions: machines, paths, programs.
        .layer_fn(reach::Reach::new)
        // Finds or starts the CLI server, and forwards.
        .service(place::Place)
}
