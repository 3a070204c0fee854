//! Who sends a request.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use jetway_config::{Identity, http::Cors, limits};

use super::{
    Face,
    fault::{Fault, Kind},
};
use crate::{auth, net::host};

/// Where a request's connection comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A request's user, known by its `Authorization` and `Jetway-User` headers.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Identity);

/// The same, with what vouches for the user: for what may last longer than that.
#[derive(Debug, Clone)]
pub(super) struct Admitted(pub(super) auth::Caller);

impl FromRequestParts<Arc<Face>> for Admitted {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, face: &Arc<Face>) -> Result<Self, Fault> {
        let credential = bearer(&parts.headers)?;
        if face.core.live().auth.anonymous {
            no_strangers_page(parts, &face.core.config.http.cors)?;
        }
        let user = one(&parts.headers, "jetway-user")?;
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        Ok(Self(face.core.authenticate(credential, user, peer).await?))
    }
}

impl FromRequestParts<Arc<Face>> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, face: &Arc<Face>) -> Result<Self, Fault> {
        Admitted::from_request_parts(parts, face).await.map(|Admitted(caller)| Self(caller.who))
    }
}

/// Where callers need no credential, a page of another site must not call in the name of whoever looks at it: not by a
/// request that browsers send without asking, nor by a name of its own that resolves to this machine.
fn no_strangers_page(parts: &Parts, cors: &Cors) -> Result<(), Fault> {
    let host = one(&parts.headers, header::HOST.as_str())?;
    let host = host.or(parts.uri.authority().map(|a| a.as_str())).unwrap_or_default();
    let origin = one(&parts.headers, header::ORIGIN.as_str())?;
    let own =
        |origin: &str| host::is_local(host) && origin.split_once("://").is_some_and(|(_, of)| of == host);
    let named = |origin: &str| cors.allows(origin);
    let welcome = match origin {
        Some(origin) => own(origin) || named(origin),
        None => host::is_local(host) || ["http", "https"].iter().any(|s| named(&format!("{s}://{host}"))),
    };
    if welcome {
        return Ok(());
    }
    let why = "Pages of other sites may not call where callers need no credential; name them in `http.cors.origins`, \
               or call by an address or as localhost";
    Err(Fault::new(Kind::Forbidden, why))
}

/// What follows `Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Fault> {
    let Some(text) = one(headers, header::AUTHORIZATION.as_str())? else { return Ok(None) };
    if text.len() > limits::CREDENTIAL_BYTES {
        return Err(Fault::new(Kind::Unauthenticated, "The credential is too long"));
    }
    match text.split_once(' ') {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(credential.trim())),
        _ => Err(Fault::new(Kind::Unauthenticated, "Expected `Authorization: Bearer <credential>`")),
    }
}

/// A header that may stand there once: of two, proxies and servers take different ones.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    let bad = || Fault::new(Kind::Malformed, format!("Expected at most one readable `{name}` header"));
    if values.next().is_some() {
        return Err(bad());
    }
    value.map(|v| v.to_str().map_err(|_| bad())).transpose()
}
