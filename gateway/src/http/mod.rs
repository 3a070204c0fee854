//! The HTTP face: REST, server-sent events and WebSocket for those who have no SDK. It enters the same stack
//! as the SDK port does, with the same calls: there is one policy, not one per face.

mod body;
mod caller;
mod chat;
mod contract;
mod create;
mod door;
mod events;
pub(crate) mod fault;
mod foreground;
mod history;
mod hub;
mod idempotency;
mod layers;
mod lifecycle;
mod lookup;
mod members;
mod messages;
mod patient;
mod profile;
mod query;
mod recall;
mod requests;
mod resources;
mod serve;
mod sessions;
mod sweeper;
mod view;
mod welcome;
mod ws;

use std::{io, sync::Arc, time::SystemTime};

use axum::body::Bytes;
use tokio::{net::TcpListener, sync::Semaphore};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    door::Door,
    hub::hubs::{self, Hubs},
    idempotency::Keys,
    lifecycle::Lifecycles,
};
use crate::app::Core;

/// What the handlers share.
pub(crate) struct Face {
    core: Arc<Core>,
    door: Door,
    hubs: Hubs,
    lifecycles: Lifecycles,
    keys: Keys,
    /// Who counts what is in workspaces.
    counting: Arc<Semaphore>,
    /// The OpenAPI document.
    contract: Bytes,
}

/// Serves until connections are to be closed.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) -> io::Result<()> {
    let (router, contract) = router().split_for_parts();
    let face = Arc::new(Face {
        core: core.clone(),
        door: Door::new(),
        hubs: Hubs::new(),
        lifecycles: Lifecycles::new(),
        keys: Keys::default(),
        counting: resources::counting(),
        contract: contract::complete(contract),
    });
    core.tracker.spawn(hubs::watch(face.clone()));
    core.tracker.spawn(lifecycle::follow(face.clone()));
    core.tracker.spawn(sweeper::watch(face.clone()));
    serve::accept(core, listener, layers::around(router, &face)).await
}

/// Every route, and what the contract says of it: neither is without the other.
fn router() -> OpenApiRouter<Arc<Face>> {
    let api = OpenApiRouter::new()
        .routes(routes!(create::create, sessions::list))
        .routes(routes!(sessions::detail, sessions::change, sessions::delete))
        .routes(routes!(messages::send, history::read))
        .routes(routes!(messages::abort))
        .routes(routes!(events::subscribe))
        .routes(routes!(lifecycle::subscribe))
        .routes(routes!(history::export))
        .routes(routes!(history::fork))
        .routes(routes!(history::compact))
        .routes(routes!(history::rewind_points))
        .routes(routes!(history::rewind))
        .routes(routes!(foreground::read, foreground::show))
        .routes(routes!(requests::list))
        .routes(routes!(requests::answer))
        .routes(routes!(members::put, members::remove))
        .routes(routes!(chat::analyze))
        .routes(routes!(chat::sticky))
        .routes(routes!(chat::start))
        .routes(routes!(chat::message))
        .routes(routes!(chat::end))
        .routes(routes!(chat::team))
        .routes(routes!(contract::document));
    OpenApiRouter::new().nest("/api/v1", api).routes(routes!(ws::connect)).routes(routes!(contract::docs))
}

/// A time as JSON has it, in UTC with milliseconds.
fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
