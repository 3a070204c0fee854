//! Draining one CLI server.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tracing::info;

use jetway_pool::{PoolError, ServerId};

use super::{Shared, status};
use crate::{app::Core, audit::Event};

/// How many servers an answer names to somebody who asked for one that is not there.
const NAMED: usize = 20;

/// `GET /admin/v1/servers/{id}`: its row of the status page.
pub(super) async fn get(State((core, _)): Shared, Path(id): Path<String>) -> Response {
    shown(&core, &ServerId::new(id))
}

/// `POST /admin/v1/drain/{id}`. Asking again is no error; progress is seen by `GET`.
pub(super) async fn drain(State((core, _)): Shared, Path(id): Path<String>) -> Response {
    let id = ServerId::new(id);
    changed(&core, &id, "drain", core.pool.drain(&id))
}

/// `POST /admin/v1/undrain/{id}`.
pub(super) async fn undrain(State((core, _)): Shared, Path(id): Path<String>) -> Response {
    let id = ServerId::new(id);
    changed(&core, &id, "undrain", core.pool.undrain(&id))
}

fn changed(core: &Core, id: &ServerId, act: &'static str, outcome: Result<(), PoolError>) -> Response {
    let said = if outcome.is_ok() { "ok" } else { "unknown_server" };
    core.audit.record(&Event::Operated { act, target: Some(&id.to_string()), outcome: said });
    match outcome {
        Ok(()) => {
            info!(server = %id, "an operator changed where sessions are placed");
            shown(core, id)
        }
        Err(_) => unknown(core, id),
    }
}

fn shown(core: &Core, id: &ServerId) -> Response {
    match status::server(core, id) {
        Some((server, load)) => Json(status::row_of_server(&server, load)).into_response(),
        None => unknown(core, id),
    }
}

fn unknown(core: &Core, id: &ServerId) -> Response {
    let mut known: Vec<_> = core.pool.status().into_iter().map(|s| s.id.to_string()).collect();
    known.sort();
    known.truncate(NAMED);
    let body = json!({ "error": format!("there is no server {id}"), "known": known });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
