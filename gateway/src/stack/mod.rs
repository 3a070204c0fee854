//! What every call goes through, whichever face it came by: one policy, not one per face.
//!
//! A layer decides at once, hands on, or puts the call off with [`later`](later::later), and then the rest of
//! the connection goes on. Only [`reach`] (for a name) and [`place`] (for a CLI server to start) have the
//! connection wait.

mod admit;
mod ahead;
mod cloud;
mod gate;
pub(crate) mod later;
mod lease;
mod meter;
mod order;
mod own;
mod place;
mod reach;
mod refusal;
mod room;
mod wish;

use std::{future::poll_fn, sync::Arc};

use tower::{Service, ServiceBuilder};

use jetway_config::UserId;
use jetway_wire::{catalogue::Method, envelope::Request};

use self::gate::Gated;
pub(crate) use self::{
    later::Later,
    refusal::{Limit, RETRY_AFTER, Refusal, SOONEST},
    wish::{Busy, Wish},
};
use crate::{
    admission::{Has, Permit},
    sessions::{client::Client, leg::Leg, pending::Origin, registry::Session},
};

/// A known user's request of a known method.
pub(crate) struct Call {
    pub(crate) client: Arc<Client>,
    /// For whom the client asks, where it stands for several.
    pub(crate) user: Option<UserId>,
    pub(crate) method: &'static Method,
    /// Shared with what may have to be sent again.
    pub(crate) request: Arc<Request>,
    /// Who is to have the reply.
    pub(crate) origin: Origin,
    /// What a new session is to be; [`own`] takes it out of the request, unless it is given.
    pub(crate) wish: Option<Box<Wish>>,
    /// What is to become of it while a turn runs, if not what its session says.
    pub(crate) busy: Option<Busy>,
    /// Where it goes; [`own`] decides.
    pub(crate) target: Target,
    /// The right to the turn that it begins, where one is needed; [`lease`] waits for it.
    pub(crate) lease: Option<jetway_lockd::Turn>,
    /// Its size on the account of the caller, if it is large; [`admit`] puts it there.
    pub(crate) held: Option<Arc<Has>>,
    /// Room for the turn that it begins; [`room`] finds it.
    pub(crate) permit: Option<Arc<Permit>>,
    /// It goes this way for the second time: its CLI server had forgotten its session.
    pub(crate) again: bool,
}

impl Call {
    /// Whose a turn is that it begins.
    pub(crate) fn whose(&self) -> &UserId {
        self.user.as_ref().unwrap_or(&self.client.who().user)
    }
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
pub(crate) enum Accepted {
    /// A CLI server has it; the reply comes by the relay.
    Forwarded,
    /// The same, and the server reads slowly: whoever sends more waits until the leg is drained.
    Slowly(Arc<Leg>),
    /// It waits; the client is to carry it on.
    Later(Later),
    /// Jetway answers: the result's JSON.
    Answered(&'static str),
    /// The same, made for this call.
    Told(String),
    /// The same, and the client is done.
    Farewell(&'static str),
}

/// The whole order, outermost first.
pub(crate) fn stack()
-> impl Service<Call, Response = Accepted, Error = Refusal, Future: Send> + Clone + Send + Sync {
    ServiceBuilder::new()
        // Outermost, so that refusals are counted and timed as well.
        .layer_fn(meter::Meter::new)
        // Before anything is looked up: what is not allowed learns nothing.
        .layer_fn(admit::Admit::new)
        // Every session id is looked up before anything is forwarded.
        .layer_fn(own::Own::new)
        // What the params name beside sessions: machines, paths, programs.
        .layer_fn(reach::Reach::new)
        // Before whatever may put a prompt off, so that none overtakes another.
        .layer_fn(Gated::<order::Order, _>::new)
        // A session in the cloud may have to come to be first, and nobody's turn is held up by that.
        .layer_fn(Gated::<cloud::Cloud, _>::new)
        // Before there is room for it: what has room does not wait for anybody's turn.
        .layer_fn(Gated::<lease::Lease, _>::new)
        // Last of what may wait.
        .layer_fn(Gated::<room::Room, _>::new)
        // Finds or starts the CLI server, and forwards.
        .service(place::Place)
}

/// What a call goes through once more whose CLI server had forgotten its session.
pub(crate) async fn again(call: Call) -> Result<Accepted, Refusal> {
    let mut stack = ServiceBuilder::new()
        .layer_fn(Gated::<lease::Lease, _>::new)
        .layer_fn(Gated::<room::Room, _>::new)
        .service(place::Place);
    poll_fn(|cx| Service::<Call>::poll_ready(&mut stack, cx)).await?;
    later::settle(stack.call(call)).await
}
