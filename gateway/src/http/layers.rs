//! What every HTTP request goes through before its handler: the whole order, in one function.

use std::{any::Any, iter::once, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, Response, header},
    response::IntoResponse as _,
};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    sensitive_headers::SetSensitiveRequestHeadersLayer,
    trace::{DefaultOnResponse, TraceLayer},
};
use tracing::{Level, Span, error, info_span};

use jetway_config::http::Cors;

use super::{
    Face,
    fault::{Fault, Kind},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a browser need not ask again: what is allowed changes with a restart only.
const PREFLIGHT: Duration = Duration::from_secs(600);
/// The longest request id that is taken over from a caller.
const REQUEST_ID_BYTES: usize = 64;

/// The router with its layers, outermost first.
pub(super) fn around(router: Router<Arc<Face>>, face: &Arc<Face>) -> Router {
    let layers = ServiceBuilder::new()
        // Outermost, so that whatever happens inside has a name.
        .map_request(sane_request_id)
        .layer(SetRequestIdLayer::new(REQUEST_ID, Ids))
        // Before anything is logged.
        .layer(SetSensitiveRequestHeadersLayer::new(once(header::AUTHORIZATION)))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::DEBUG)),
        )
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        // Before anybody is asked who they are: browsers ask without saying.
        .option_layer(cors(&face.core.config.http.cors))
        // Leaves streams of events as they are, so that each goes out when it comes.
        .layer(CompressionLayer::new())
        // Innermost: its answer goes the way of every other.
        .layer(CatchPanicLayer::custom(panicked));
    router
        .fallback(async || {
            Fault::new(Kind::NotFound, "There is nothing under this path; see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(async || {
            Fault::new(Kind::MethodNotAllowed, "See the Allow header for what can be done here")
        })
        .layer(layers)
        .with_state(face.clone())
}

/// What pages of other origins may send and see, if any may.
fn cors(config: &Cors) -> Option<CorsLayer> {
    let origins: Vec<_> =
        config.origins.iter().filter_map(|o| HeaderValue::from_str(o.as_str()).ok()).collect();
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("jetway-user"),
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            REQUEST_ID,
        ])
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            HeaderName::from_static("idempotency-replayed"),
            REQUEST_ID,
        ])
        .allow_credentials(config.credentials)
        .max_age(PREFLIGHT);
    (!origins.is_empty()).then(|| layer.allow_origin(origins))
}

/// Takes away what is no sensible request id, so that a new one is made.
fn sane_request_id(mut request: Request) -> Request {
    let sane = |v: &HeaderValue| {
        v.len() <= REQUEST_ID_BYTES
            && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if request.headers().get(REQUEST_ID).is_some_and(|id| !sane(id)) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

#[derive(Clone)]
struct Ids;

impl MakeRequestId for Ids {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok().map(RequestId::new)
    }
}

/// The route rather than the path, and no query: neither names, nor ids, nor what was mistakenly put there.
fn span<B>(request: &axum::http::Request<B>) -> Span {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let id = request.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok()).unwrap_or_default();
    info_span!("http", method = %request.method(), route, request = id)
}

fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    error!("a handler panicked");
    Fault::new(Kind::Internal, "This should not have happened; the log has more under the request's id")
        .into_response()
}
