//! Pages of other origins: none unless they are named, and those may do what any client may.

use hyper::Method;
use serde_json::json;

use crate::{
    common::http::{Answer, Http},
    gateway,
    websocket::open,
};

const APP: &str = "https://app.example.com";

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|v| v.to_str().unwrap())
}

/// What a browser asks before it sends a request that is not simple.
async fn preflight(http: &Http, origin: &str, method: &str) -> Answer {
    let asking = http.clone().with("origin", origin).with("access-control-request-method", method);
    let asking = asking.with("access-control-request-headers", "authorization,content-type,last-event-id");
    asking.send(Method::OPTIONS, "/api/v1/sessions", None).await
}

#[tokio::test]
async fn pages_that_are_named_may_do_what_any_client_may() {
    let more = format!("http.cors = {{ origins = [\"{APP}\", \"http://localhost:3000\"] }}\n");
    let (_stub, gateway, _dir) = gateway(&more).await;
    let anybody = Http::to(&gateway);
    for origin in [APP, "http://localhost:3000"] {
        for method in ["POST", "PATCH", "DELETE"] {
            let answer = preflight(&anybody, origin, method).await;
            assert_eq!(answer.status, 200);
            assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin));
            assert!(header(&answer, "access-control-allow-methods").unwrap().contains(method));
            let headers = header(&answer, "access-control-allow-headers").unwrap();
            assert!(
                ["authorization", "jetway-user", "idempotency-key", "last-event-id"]
                    .iter()
                    .all(|h| headers.contains(h))
            );
            assert_eq!(header(&answer, "access-control-max-age"), Some("600"));
            assert_eq!(header(&answer, "access-control-allow-credentials"), None);
        }
    }
    let ada = Http::user(&gateway, "ada").with("origin", APP);
    let id = ada.create(json!({})).await;
    let answer = ada.get("/api/v1/sessions/nothing").await;
    answer.problem(404, "session-not-found");
    assert_eq!(header(&answer, "access-control-allow-origin"), Some(APP), "a page can read problems too");
    assert!(header(&answer, "access-control-expose-headers").unwrap().contains("retry-after"));
    assert!(answer.headers.get_all("vary").iter().any(|v| v.to_str().unwrap().contains("origin")));
    assert!(answer.headers.contains_key("x-request-id"));
    // What EventSource and fetch read.
    let mut stream = ada.events(&id).await;
    let mut socket = open(&gateway, "ada", &id, Some(("origin", APP))).await.unwrap();
    ada.ask(&id, "hello").await;
    stream.until("jetway.turn_ended").await;
    socket.close(None).await.unwrap();

    for stranger in
        ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"]
    {
        let answer = preflight(&anybody, stranger, "POST").await;
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{stranger}");
        let refused = open(&gateway, "ada", &id, Some(("origin", stranger))).await;
        assert_eq!(refused.err(), Some(403), "{stranger}");
    }
}

#[tokio::test]
async fn no_page_may_unless_it_is_named() {
    let (_stub, closed, _dir) = gateway("").await;
    let answer = preflight(&Http::to(&closed), APP, "POST").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    let more = format!("http.cors = {{ origins = [\"{APP}\"], credentials = true }}\n");
    let (_stub, open, _dir) = gateway(&more).await;
    let answer = preflight(&Http::to(&open), APP, "POST").await;
    assert_eq!(header(&answer, "access-control-allow-credentials"), Some("true"));
}

/// Nobody needs a credential, but a page is not the one who looks at it.
#[tokio::test]
async fn where_nobody_needs_a_credential_strangers_pages_may_not_call() {
    let (stub, gateway, _dir) = gateway(&format!("http.cors = {{ origins = [\"{APP}\"] }}\n")).await;
    let port = gateway.http.unwrap().port();
    let empty = |headers: &[(&str, &str)]| {
        let http = headers.iter().fold(Http::to(&gateway), |http, (name, value)| http.with(name, value));
        async move { http.send(Method::POST, "/api/v1/sessions", None).await }
    };
    // What browsers send without asking, and by a name that was made to resolve to this machine.
    let rebound = format!("evil.example:{port}");
    for stranger in [
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("host", rebound.as_str())],
        vec![("host", rebound.as_str()), ("origin", &format!("http://{rebound}"))],
    ] {
        empty(&stranger).await.problem(403, "forbidden");
    }
    assert!(stub.received().iter().all(|r| r.method != "session.create"));
    let own = format!("http://127.0.0.1:{port}");
    for welcome in [
        vec![],
        vec![("origin", own.as_str())],
        vec![("origin", APP)],
        vec![("host", "localhost")],
        vec![("host", "app.example.com")],
    ] {
        assert_eq!(empty(&welcome).await.status, 201, "{welcome:?}");
    }
}
