//! Query strings, parsed into a shape.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Query as Plain},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::{
    Face,
    fault::{Fault, Kind},
};

/// A request's query. What it does not know is refused, rather than passed over.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Face>> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, face: &Arc<Face>) -> Result<Self, Fault> {
        let Plain(value) = Plain::from_request_parts(parts, face)
            .await
            .map_err(|e| Fault::new(Kind::Invalid, e.body_text()))?;
        Ok(Self(value))
    }
}
