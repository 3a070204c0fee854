//! Refusals and faults as HTTP responses: RFC 9457 problem details.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Map, Value, json};

use crate::{
    http::fault::{Fault, Kind},
    stack::{Limit, Refusal},
};

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// RFC 6750's scheme; a browser that sees it asks nobody for a password.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"jetway\"");

/// What a refusal of the stack is over HTTP.
pub(crate) fn fault(refusal: Refusal) -> Fault {
    let (_, message, data) = super::describe(&refusal);
    let more = data.and_then(|d| if let Value::Object(map) = d { Some(map) } else { None });
    let (kind, retry_after) = match &refusal {
        Refusal::Unauthenticated(_) => (Kind::Unauthenticated, None),
        Refusal::SessionNotFound => return Fault::no_session(),
        Refusal::MethodNotAllowed { .. } => (Kind::Forbidden, None),
        Refusal::Busy { retry_after, .. } => (Kind::Busy, Some(*retry_after)),
        Refusal::Overloaded(Limit::ServerStart | Limit::Servers, after) => (Kind::Unavailable, Some(*after)),
        Refusal::Overloaded(_, after) => (Kind::Overloaded, Some(*after)),
        Refusal::Indeterminate { .. } => (Kind::Indeterminate, None),
        Refusal::Draining(after) => (Kind::Draining, Some(*after)),
        Refusal::Aborted => (Kind::Aborted, None),
        Refusal::NotStarted { .. } => (Kind::NotStarted, None),
        Refusal::Invalid(..) => (Kind::Invalid, None),
    };
    Fault { kind, detail: message, retry_after, more: snake_case(more.unwrap_or_default()) }
}

/// The data of JSON-RPC errors, named as HTTP's members are.
fn snake_case(data: Map<String, Value>) -> Map<String, Value> {
    let name = |name: &str| {
        name.chars().fold(String::new(), |mut out, c| {
            if c.is_ascii_uppercase() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
            out
        })
    };
    data.into_iter().map(|(key, value)| (name(&key), value)).collect()
}

impl Fault {
    /// The problem's members, `more` first so that none of them hides one of RFC 9457's.
    pub(crate) fn to_json(&self) -> Value {
        let mut body = self.more.clone();
        let own = json!({
            "type": format!("urn:jetway:problem:{}", self.kind.slug()),
            "title": self.kind.title(),
            "status": self.kind.status(),
            "detail": self.detail,
        });
        if let Value::Object(own) = own {
            body.extend(own);
        }
        Value::Object(body)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() =
            StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM);
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, and never "at once".
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(after.as_millis().div_ceil(1000).max(1) as u64),
            );
        }
        response
    }
}
