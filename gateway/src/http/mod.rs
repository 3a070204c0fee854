//! The HTTP face: REST, server-sent events and WebSocket for those who have no SDK. It enters the same stack
//! as the SDK port does, with the same calls: there is one policy, not one per face.

mod body;
mod caller;
mod chat;
mod create;
mod door;
mod events;
pub(crate) mod fault;
mod hub;
mod idempotency;
mod layers;
mod lookup;
mod members;
mod messages;
mod patient;
mod profile;
mod query;
mod requests;
mod serve;
mod sessions;
mod view;

use std::{io, sync::Arc, time::SystemTime};

use axum::{
    Router,
    routing::{get, post, put},
};
use tokio::net::TcpListener;

use self::{
    door::Door,
    hub::hubs::{self, Hubs},
    idempotency::Keys,
};
use crate::app::Core;

/// What the handlers share.
pub(crate) struct Face {
    core: Arc<Core>,
    door: Door,
    hubs: Hubs,
    keys: Keys,
}

/// Serves until connections are to be closed.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) -> io::Result<()> {
    let face =
        Arc::new(Face { core: core.clone(), door: Door::new(), hubs: Hubs::new(), keys: Keys::default() });
    core.tracker.spawn(hubs::watch(face.clone()));
    serve::accept(core, listener, layers::around(router(), &face)).await
}

fn router() -> Router<Arc<Face>> {
    let api = Router::new()
        .route("/sessions", post(create::create).get(sessions::list))
        .route("/sessions/{ref}", get(sessions::detail).patch(sessions::change).delete(sessions::delete))
        .route("/sessions/{ref}/messages", post(messages::send))
        .route("/sessions/{ref}/abort", post(messages::abort))
        .route("/sessions/{ref}/events", get(events::subscribe))
        .route("/analyze", post(chat::analyze))
        .route("/chat", post(chat::sticky))
        .route("/chat/start", post(chat::start))
        .route("/chat/message", post(chat::message))
        .route("/chat/end", post(chat::end))
        .route("/team-chat", post(chat::team))
        .route("/sessions/{ref}/requests", get(requests::list))
        .route("/sessions/{ref}/requests/{id}", post(requests::answer))
        .route("/sessions/{ref}/members/{user}", put(members::put).delete(members::remove));
    Router::new().nest("/api/v1", api)
}

/// A time as JSON has it, in UTC with milliseconds.
fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
