//! The answer to `session.list`: what the CLI server says of the caller's sessions, and what only the directory
//! knows of: those that live on other servers.

use std::{collections::HashSet, time::UNIX_EPOCH};

use serde_json::json;

use jetway_wire::Value;

use super::leg::Leg;
use crate::directory::{Entry, UnixMs};

/// A server's answer, with the caller's sessions only, all of them, the last used first.
pub(crate) fn merged(result: Value<'_>, entries: &[Entry], filtered: bool, leg: &Leg) -> Vec<u8> {
    let (place, exclusive) = (leg.place(), leg.exclusive());
    let listed = result.get("sessions");
    let here: HashSet<&str> =
        entries.iter().filter(|e| e.place.server == place.server).map(|e| e.key.id.as_str()).collect();
    let mut rows: Vec<(String, Vec<u8>)> = Vec::new();
    let mut seen = HashSet::new();
    for row in listed.iter().flat_map(|l| l.elements()) {
        let Some(id) = row.get("sessionId").and_then(Value::as_str) else { continue };
        if exclusive || here.contains(&*id) {
            let modified = row.get("modifiedTime").and_then(Value::as_str).unwrap_or_default();
            rows.push((modified.into_owned(), row.text().to_vec()));
            seen.insert(id.into_owned());
        }
    }
    // On a server of the caller's own, what the CLI does not list has no message yet, or was deleted.
    let elsewhere = |e: &&Entry| !filtered && (!exclusive || e.place.server != place.server);
    for entry in entries.iter().filter(elsewhere).filter(|e| !seen.contains(e.key.id.as_str())) {
        rows.push((iso(entry.last_used), row_of(entry)));
    }
    // The CLI's own order, which both kinds of time share: RFC 3339 in UTC with milliseconds.
    rows.sort_by(|a, b| b.0.cmp(&a.0));
    let mut out = b"{\"sessions\":[".to_vec();
    for (n, (_, row)) in rows.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(row);
    }
    out.extend_from_slice(b"]}");
    out
}

fn row_of(entry: &Entry) -> Vec<u8> {
    let row = json!({
        "sessionId": entry.key.id,
        "startTime": iso(entry.created),
        "modifiedTime": iso(entry.last_used),
        "summary": entry.name.as_ref().map(|n| n.as_str()),
        "isRemote": false,
    });
    row.to_string().into_bytes()
}

fn iso(at: UnixMs) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + std::time::Duration::from_millis(at.0)).to_string()
}
