//! The contract at `/api/v1/openapi.json` is the router's, and `/docs` needs nothing from elsewhere.

use std::collections::{BTreeSet, HashSet};

use hyper::Method;
use serde_json::Value;

use crate::{common::http::Http, gateway};

/// Every `$ref` below `value`.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// What is documented can be done, and nothing else can be done under the same path.
#[tokio::test]
async fn the_contract_is_the_routers() {
    let (_stub, gateway, _dir) = gateway("").await;
    let anybody = Http::to(&gateway);
    let contract = anybody.get("/api/v1/openapi.json").await.json();
    let paths = contract["paths"].as_object().unwrap();
    assert!(paths.len() > 10, "{paths:?}");
    for (path, operations) in paths {
        let mut documented: BTreeSet<_> =
            operations.as_object().unwrap().keys().map(|m| m.to_ascii_uppercase()).collect();
        if documented.contains("GET") {
            documented.insert("HEAD".into());
        }
        let refused = anybody.send(Method::TRACE, &path.replace(['{', '}'], ""), None).await;
        refused.problem(405, "method-not-allowed");
        let allowed = refused.headers["allow"].to_str().unwrap().split(',').map(str::to_owned).collect();
        assert_eq!(documented, allowed, "{path}");
    }
}

#[tokio::test]
async fn the_contract_is_whole() {
    let (_stub, gateway, _dir) = gateway("").await;
    let contract = Http::to(&gateway).get("/api/v1/openapi.json").await.json();
    let mut found = Vec::new();
    references(&contract, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(contract.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = HashSet::new();
    for (path, operations) in contract["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}: {operation}");
            assert!(ids.insert(operation["operationId"].as_str().expect(&what)), "{what}");
            assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
            // All but the contract itself may be refused, as a problem.
            let public = operation["security"] == serde_json::json!([{}]);
            assert_eq!(public, !responses.contains_key("401"), "{what}");
        }
    }
    let problem = &contract["components"]["responses"]["401"]["content"]["application/problem+json"];
    assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem");
}

#[tokio::test]
async fn the_page_brings_all_it_needs() {
    let (_stub, gateway, _dir) = gateway("").await;
    let page = Http::to(&gateway).get("/docs").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    for elsewhere in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.text.contains(elsewhere), "{elsewhere}");
    }
}
