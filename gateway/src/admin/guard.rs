//! Who may operate the gateway: whoever has the token; without one, whoever is on this machine and is no web page.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{app::Core, net::host};

/// Lets operators through.
pub(super) async fn guard(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let refusal = match &core.config.admin.token {
        Some(token) if presents(headers, token.expose()) => None,
        Some(_) => {
            Some((StatusCode::UNAUTHORIZED, "the operators' token is wanted: Authorization: Bearer …"))
        }
        None if is_of_a_page(headers) => {
            Some((StatusCode::FORBIDDEN, "web pages may not operate the gateway"))
        }
        None => None,
    };
    match refusal {
        None => next.run(request).await,
        Some((status, why)) => (status, axum::Json(json!({ "error": why }))).into_response(),
    }
}

fn presents(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default();
    // Of one length, so that the comparison tells nothing of the token's.
    Sha256::digest(given).ct_eq(&Sha256::digest(token)).into()
}

/// Pages of other sites reach loopback too: by a request that names its origin, or by a name of theirs that
/// resolves to this machine.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    headers.contains_key(header::ORIGIN) || !host::is_local(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_by_origin_and_by_name() {
        let of = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            origin.map(|o| headers.insert(header::ORIGIN, o.parse().unwrap()));
            is_of_a_page(&headers)
        };
        for host in ["127.0.0.1:9090", "127.0.0.1", "localhost:9090", "[::1]:9090", "[::1]"] {
            assert!(!of(host, None), "{host}");
            assert!(of(host, Some("http://127.0.0.1:9090")), "{host}");
        }
        for host in ["evil.example:9090", "127.0.0.1.evil.example", "", "localhost.evil.example"] {
            assert!(of(host, None), "{host}");
        }
    }
}
