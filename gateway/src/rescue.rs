//! The one place where a refusal becomes a reply.

pub(crate) mod http;

use serde_json::{Value, json};

use jetway_wire::{Id, envelope};

use crate::stack::{Limit, Refusal};

/// JSON-RPC error codes of Jetway's own.
mod code {
    pub(super) const UNAUTHENTICATED: i64 = -32010;
    pub(super) const SESSION_NOT_FOUND: i64 = -32011;
    pub(super) const METHOD_NOT_ALLOWED: i64 = -32012;
    pub(super) const SESSION_BUSY: i64 = -32013;
    pub(super) const OVERLOADED: i64 = -32014;
    pub(super) const TURN_INDETERMINATE: i64 = -32015;
    pub(super) const DRAINING: i64 = -32016;
    pub(super) const ABORTED: i64 = -32017;
    pub(super) const NOT_STARTED: i64 = -32018;
}

/// Appends the JSON-RPC error that tells of a refusal.
pub(crate) fn write(refusal: &Refusal, id: Option<&Id>, out: &mut Vec<u8>) {
    let (code, message, data) = describe(refusal);
    let data = data.map(|d| d.to_string());
    envelope::write_error(out, id, code, &message, data.as_deref().map(str::as_bytes));
}

/// The refusal's name, for logs and metrics.
pub(crate) fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unauthenticated(_) => "unauthenticated",
        Refusal::SessionNotFound => "session_not_found",
        Refusal::MethodNotAllowed { .. } => "method_not_allowed",
        Refusal::Busy { .. } => "session_busy",
        Refusal::Overloaded(..) => "overloaded",
        Refusal::Indeterminate { .. } => "turn_indeterminate",
        Refusal::Aborted => "aborted",
        Refusal::NotStarted { .. } => "cloud_not_started",
        Refusal::Draining(_) => "draining",
        Refusal::Invalid(..) => "invalid_request",
    }
}

fn describe(refusal: &Refusal) -> (i64, String, Option<Value>) {
    match refusal {
        Refusal::Unauthenticated(why) => {
            (code::UNAUTHENTICATED, format!("AUTHENTICATION_FAILED: {why}"), None)
        }
        Refusal::SessionNotFound => (code::SESSION_NOT_FOUND, "Session not found".into(), None),
        Refusal::MethodNotAllowed { method, denied: None } => (
            code::METHOD_NOT_ALLOWED,
            format!("Method not allowed: {method}"),
            Some(json!({ "method": method })),
        ),
        Refusal::MethodNotAllowed { method, denied: Some(denied) } => {
            let data =
                json!({ "method": method, "rule": denied.rule.as_str(), "at": denied.at, "key": denied.key });
            (code::METHOD_NOT_ALLOWED, format!("Method not allowed: {method}: {denied}"), Some(data))
        }
        Refusal::Busy { position, holder, retry_after } => {
            let retry_after = retry_after.as_millis() as u64;
            let data = json!({ "position": position, "holder": holder, "retryAfterMs": retry_after });
            (code::SESSION_BUSY, "Another turn holds the session".into(), Some(data))
        }
        Refusal::Overloaded(limit, retry_after) => {
            let data = json!({ "limit": limit.as_str(), "retryAfterMs": retry_after.as_millis() as u64 });
            (code::OVERLOADED, overloaded(*limit).into(), Some(data))
        }
        Refusal::Indeterminate { session, turn } => {
            let turn = turn.map(|t| t.to_string());
            let data = session.as_ref().map(|s| json!({ "sessionId": s, "turnId": turn }));
            let message =
                "The CLI server was lost before it answered; the outcome is unknown and it is not retried";
            (code::TURN_INDETERMINATE, message.into(), data)
        }
        Refusal::Aborted => {
            (code::ABORTED, "Given up before it began: the session was aborted or left".into(), None)
        }
        Refusal::NotStarted { session, waited } => {
            let waited = waited.as_millis() as u64;
            let data = json!({ "sessionId": session, "waitedMs": waited });
            let message = format!(
                "The agent of the cloud session did not come within {} s; the prompt was not sent and will not be",
                waited / 1000
            );
            (code::NOT_STARTED, message, Some(data))
        }
        Refusal::Draining(retry_after) => {
            let data = json!({ "retryAfterMs": retry_after.as_millis() as u64 });
            (code::DRAINING, "Jetway is draining; connect again to reach another instance".into(), Some(data))
        }
        Refusal::Invalid(code, message) => (*code, message.clone(), None),
    }
}

fn overloaded(limit: Limit) -> &'static str {
    match limit {
        Limit::InFlight => "Too many requests of this connection await their answers",
        Limit::SessionsPerConnection => "Too many sessions are attached to this connection",
        Limit::ServerStart => "The CLI server could not be started",
        Limit::Servers => "No CLI server has room",
        Limit::Connections => "Too many connections",
        Limit::Rate => "Too many requests in a second",
        Limit::BytesInFlight => "Too many bytes of requests are under way",
        Limit::WaitingTurns => "Too many turns wait already",
        Limit::TurnWait => "There is no room for another turn in time",
        Limit::ActiveSessions => "All sessions of the CLI server are busy",
        Limit::TenantSessions => "All sessions of the tenant are busy",
        Limit::TenantProcesses => "All CLI processes of the tenant are in use",
        Limit::Directory => "The session directory does not answer",
        Limit::Locks => "The lock store does not answer",
        Limit::SessionsPerUser => "Too many sessions: delete some",
    }
}
