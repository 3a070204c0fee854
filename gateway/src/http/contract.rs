//! The contract: OpenAPI from the handlers' own annotations, and a page that shows it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use jetway_config::MAX_ID_LEN;

use super::{Face, fault::Kind};
use crate::directory::NAME_CHARS;

const PAGE: &str = include_str!("docs.html");
/// The page is all that it needs, but for the contract and what is tried out.
const ONLY_ITSELF: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const ABOUT: &str = "Sessions of GitHub Copilot CLI servers over HTTP. A session that is made here can be used with \
    the official SDKs on the SDK port, and the other way round.";
/// What any request may come to.
const ALWAYS: &[u16] = &[400, 401, 405, 408, 429, 500, 501, 502, 503, 504];
/// As well, if it names a session.
const WITH_PATH: &[u16] = &[403, 404, 409, 410, 422];
/// As well, if it has a body.
const WITH_BODY: &[u16] = &[403, 404, 409, 410, 413, 415, 422];
/// As well, if it has a query.
const WITH_QUERY: &[u16] = &[422];

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "contract", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn document(State(face): State<Arc<Face>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], face.contract.clone())
}

/// This document, to read and to try out.
#[utoipa::path(get, path = "/docs", tag = "contract", security(()),
    responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(super) async fn docs() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, ONLY_ITSELF),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE)
}

/// The document that the handlers' annotations make, and what is the same for all of them.
pub(super) fn complete(annotated: OpenApi) -> Bytes {
    let mut document = json!(annotated);
    document["info"] =
        json!({ "title": "Jetway", "description": ABOUT, "version": env!("CARGO_PKG_VERSION") });
    document["security"] = json!([{ "credential": [] }]);
    let components = &mut document["components"];
    components["securitySchemes"] = json!({ "credential": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `<key>:<user>`, or a JWT. Where callers are anonymous: the user's name, or nothing.",
    } });
    components["schemas"]["Problem"] = problem();
    components["responses"] = problems().into();
    components["parameters"] = json!({ "user": {
        "name": "jetway-user",
        "in": "header",
        "description": "For which user an API key acts, if it is not pinned to one",
        "schema": named(USER),
    } });
    components["schemas"]["RequestReply"]["oneOf"] = json!([
        { "required": ["decision"], "properties": { "decision": { "type": "string" }, "answer": { "type": "null" } } },
        { "required": ["answer"], "properties": { "answer": { "type": "string" }, "decision": { "type": "null" } } },
    ]);
    for (text, pattern, most) in TEXTS {
        if let Some(Value::Object(schema)) = components["schemas"].pointer_mut(text) {
            schema.insert("pattern".into(), json!(pattern));
            schema.insert("maxLength".into(), json!(most));
        }
    }
    let schemas = components["schemas"].clone();
    for path in members(&mut document["paths"]) {
        for operation in members(path) {
            complete_operation(operation);
            complete_body(operation, &schemas);
        }
    }
    document.to_string().into()
}

fn members(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flat_map(Map::values_mut)
}

fn complete_operation(operation: &mut Value) {
    if operation["security"] == json!([{}]) {
        return;
    }
    let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    // What may be left out is not therefore `null`: there is no such text.
    for kind in parameters.iter_mut().map(|p| &mut p["schema"]["type"]) {
        if let Some(text) = kind.as_array().and_then(|kinds| kinds.iter().find(|k| **k != "null").cloned()) {
            *kind = text;
        }
    }
    let has = |place: &str| parameters.iter().any(|p| p["in"] == place);
    let statuses = [
        (true, ALWAYS),
        (has("path"), WITH_PATH),
        (has("query"), WITH_QUERY),
        (operation.get("requestBody").is_some(), WITH_BODY),
    ];
    for status in statuses.iter().filter(|(applies, _)| *applies).flat_map(|(_, statuses)| *statuses) {
        operation["responses"][status.to_string()] =
            json!({ "$ref": format!("#/components/responses/{status}") });
    }
    for parameter in parameters.iter_mut().filter(|p| p["in"] == "path") {
        let (about, pattern) = match parameter["name"].as_str() {
            Some("ref") => ("An id, an exact name, the beginning of an id, or `latest`", "^[^/]+$"),
            Some("user") => ("A user of the caller's tenant", USER),
            _ => ("As it is listed", "^[^/]+$"),
        };
        parameter["description"] = json!(about);
        parameter["schema"] = named(pattern);
    }
    for parameter in parameters.iter_mut().filter(|p| p["name"] == "idempotency-key") {
        parameter["schema"] = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": KEY });
    }
    parameters.push(json!({ "$ref": "#/components/parameters/user" }));
    operation["parameters"] = parameters.into();
}

/// No body is as an empty object.
fn complete_body(operation: &mut Value, schemas: &Value) {
    let Some(body) = operation.get_mut("requestBody") else { return };
    let reference = body["content"]["application/json"]["schema"]["$ref"].as_str().unwrap_or_default();
    let shape = &schemas[reference.rsplit('/').next().unwrap_or_default()];
    body["required"] = json!(shape.get("required").or(shape.get("oneOf")).is_some());
}

/// See [`jetway_config::UserId`].
const USER: &str = "^([A-Za-z0-9_@+]|[.][.]?[A-Za-z0-9_@+-]|[.]{3})[A-Za-z0-9_.@+-]*$";
/// See [`jetway_config::SessionId`].
const SESSION: &str = "^[A-Za-z0-9_][A-Za-z0-9_-]*$";
/// See [`crate::directory::Name`].
const NAME: &str = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f]+$";
/// See [`crate::directory::Role`].
const ROLE: &str = "^(viewer|member|owner)$";
/// Which texts of requests are of such, and how long they may be.
const TEXTS: [(&str, &str, usize); 6] = [
    ("/Create/properties/session_id", SESSION, MAX_ID_LEN),
    ("/Create/properties/name", NAME, NAME_CHARS),
    ("/Change/properties/name", NAME, NAME_CHARS),
    ("/MemberWish/properties/user", USER, MAX_ID_LEN),
    ("/MemberWish/properties/role", ROLE, MAX_ID_LEN),
    ("/Sharing/properties/role", ROLE, MAX_ID_LEN),
];
/// See [`super::idempotency::Named`]. What stands around a header's value is not part of it.
const KEY: &str = r"^[ -~\t]*[!-~][ -~\t]*$";

fn named(pattern: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": MAX_ID_LEN, "pattern": pattern })
}

fn problem() -> Value {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| format!("urn:jetway:problem:{}", kind.slug())).collect();
    json!({
        "type": "object",
        "description": "RFC 9457's problem details. Some have more members: `field`, `candidates`, `turn`, `limit`, …",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "enum": kinds },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
        },
    })
}

/// What each status may mean, by status.
fn problems() -> Map<String, Value> {
    let mut by_status = BTreeMap::<u16, Vec<String>>::new();
    for kind in Kind::ALL {
        let meaning = format!("{} (`{}`)", kind.title(), kind.slug());
        by_status.entry(kind.status()).or_default().push(meaning);
    }
    let response = |(status, meanings): (u16, Vec<String>)| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        let mut response = json!({
            "description": meanings.join("; "),
            "content": { "application/problem+json": { "schema": schema } },
        });
        if matches!(status, 429 | 503) {
            let seconds = json!({ "type": "integer", "minimum": 1 });
            response["headers"] = json!({ "retry-after": { "description": "Seconds", "schema": seconds } });
        }
        (status.to_string(), response)
    };
    by_status.into_iter().map(response).collect()
}
