//! The model provider of those who name none.

use serde_json::{Map, Value, json};

use jetway_config::tenants::Provider;

/// The members of `session.create` or `session.resume` that `params` lack and the tenant's provider gives, with
/// their JSON. They hold its key.
pub(crate) fn given(provider: &Provider, params: jetway_wire::Value<'_>) -> Vec<(&'static str, String)> {
    if ["provider", "providers", "cloud"].iter().any(|name| params.get(name).is_some()) {
        return Vec::new();
    }
    let mut members = vec![("provider", spelled(provider))];
    if let (Some(model), None) = (&provider.model, params.get("model")) {
        members.push(("model", json!(model).to_string()));
    }
    members
}

/// As the SDKs spell it.
fn spelled(provider: &Provider) -> String {
    let mut out = Map::new();
    out.insert("type".into(), json!(provider.kind.as_str()));
    out.insert("baseUrl".into(), json!(provider.base_url.as_str()));
    if let Some(key) = &provider.api_key {
        out.insert("apiKey".into(), json!(key.expose()));
    }
    if let Some(api) = provider.wire_api {
        out.insert("wireApi".into(), json!(api.as_str()));
    }
    Value::Object(out).to_string()
}
