//! JSON bodies: read within bounds, checked strictly, then parsed into a shape.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::{Buf as _, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Number, Value};
use tokio::time::{Instant, timeout_at};

use jetway_config::limits;
use jetway_wire::json;

use super::{
    Face,
    fault::{Fault, Kind},
};

/// A body under way that brings less than this in one `partial_frame_timeout` is a slow drip.
const DRIP: usize = 16 << 10;

/// A request's body, of a shape. No body is as an empty object.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The body itself beside its shape: what tells one request from another.
#[derive(Debug)]
pub(super) struct Exact<T>(pub(super) T, pub(super) bytes::Bytes);

impl<T: DeserializeOwned> FromRequest<Arc<Face>> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, face: &Arc<Face>) -> Result<Self, Fault> {
        Exact::from_request(request, face).await.map(|Exact(value, _)| Json(value))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Face>> for Exact<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, face: &Arc<Face>) -> Result<Self, Fault> {
        let (most, patience) = {
            let live = face.core.live();
            (live.limits.max_http_body, live.limits.partial_frame_timeout)
        };
        let (parts, body) = request.into_parts();
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        if declared.is_some_and(|n: u64| n > most as u64) {
            return Err(too_large(most));
        }
        let bytes = read(body, most, patience).await?;
        if !bytes.is_empty() && !is_json(&parts.headers) {
            return Err(Fault::new(Kind::MediaType, "Send the body as `Content-Type: application/json`"));
        }
        parse(&bytes).map(|value| Exact(value, bytes))
    }
}

fn too_large(limit: usize) -> Fault {
    Fault::new(Kind::TooLarge, format!("The body is longer than {limit} bytes")).with("limit", limit)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let json = kind.eq_ignore_ascii_case("application/json");
    json || (kind.len() > 5
        && kind.is_char_boundary(kind.len() - 5)
        && kind[kind.len() - 5..].eq_ignore_ascii_case("+json"))
}

async fn read(mut body: Body, limit: usize, patience: Duration) -> Result<bytes::Bytes, Fault> {
    let mut whole = BytesMut::new();
    let (mut since, mut so_far) = (Instant::now(), 0);
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
        let Ok(frame) = timeout_at(since + patience, frame).await else {
            return Err(Fault::new(Kind::TooSlow, "The body arrives too slowly"));
        };
        let data = match frame {
            None => return Ok(whole.freeze()),
            Some(Err(_)) => return Err(Fault::new(Kind::Malformed, "The body ended early")),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if whole.len() + data.remaining() > limit {
            return Err(too_large(limit));
        }
        so_far += data.len();
        if so_far >= DRIP {
            (since, so_far) = (Instant::now(), 0);
        }
        whole.extend_from_slice(&data);
    }
}

/// Strictly first, so that no two readers of it differ; then into its shape.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    json::check(bytes, limits::JSON_DEPTH)
        .map_err(|e| Fault::new(Kind::Malformed, format!("The body is not JSON: {e}")))?;
    // serde would take a list of an object's values for the object.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Fault::new(Kind::Invalid, "The body must be an object"));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let detail = e.to_string();
        // serde names the field between backticks.
        let field = detail.split('`').nth(1).map(str::to_owned);
        let fault = Fault::new(Kind::Invalid, detail);
        match field {
            Some(field) => fault.with("field", field),
            None => fault,
        }
    })
}

/// An object, and not a list of its values.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<T, D::Error> {
    Map::deserialize(d).and_then(|map| T::deserialize(Value::Object(map)).map_err(D::Error::custom))
}

/// The same, or nothing.
pub(super) fn maybe_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    d: D,
) -> Result<Option<T>, D::Error> {
    let map = Option::<Map<String, Value>>::deserialize(d)?;
    map.map(|map| T::deserialize(Value::Object(map)).map_err(D::Error::custom)).transpose()
}

/// A list of such.
pub(super) fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<Vec<T>, D::Error> {
    let maps = Vec::<Map<String, Value>>::deserialize(d)?;
    maps.into_iter().map(|map| T::deserialize(Value::Object(map)).map_err(D::Error::custom)).collect()
}

/// A whole number, also if it is written as `60.0`: to JSON that is the same.
pub(super) fn whole<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(d)? else { return Ok(None) };
    let float = || number.as_f64().filter(|f| f.fract() == 0.0 && (0.0..1e19).contains(f)).map(|f| f as u64);
    let whole = number.as_u64().or_else(float);
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("expected a whole number, not {number}")))
}
