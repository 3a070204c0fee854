//! Turns whose CLI process was lost while they waited for their people, and for nothing else: those go on.
//!
//! A CLI process that resumes a session with `continuePendingWork` takes answers to what its predecessor asked, by
//! the old request's id, and goes on with the turn. But it also runs again every tool call that was under way, which
//! may have acted. So it is told to only when its own journal says that nothing was under way; all other turns are
//! told of as lost.

use serde_json::json;

use jetway_wire::Value;

use super::{leg::Leg, revival::Route};

/// How many of a session's last events are looked at: a turn asks its people a few things at once.
const LOOK_BACK: u16 = 200;

/// Reads a session's journal, which is there before the session is attached.
pub(crate) const READ: &str = "sessions.readPersistedEvents";

/// The params of [`READ`] for what [`waits_for`] is to see.
pub(crate) fn last_events(session: &str) -> serde_json::Value {
    json!({ "sessionId": session, "direction": "backward", "max": LOOK_BACK })
}

/// Whether the turn in which a session's CLI process was lost can go on, as the process at the other end of `leg`
/// reads in the session's journal; which must agree with what was seen until then.
pub(super) async fn can_go_on(route: &Route, leg: &Leg) -> bool {
    if !route.session.is_stranded() {
        return false;
    }
    let params = last_events(route.id().as_str()).to_string();
    let Ok(Ok(page)) = leg.call(READ, params.as_bytes()).await else { return false };
    waits_for(Value::new(&page), true).is_some_and(|open| route.session.may_go_on(&open))
}

/// A tool call that has no result yet.
struct Call {
    id: Box<str>,
    /// What its people were asked about it, if they have not answered.
    request: Option<Box<str>>,
}

/// The ids of what a session's people are asked, if that is all that its turn waits for. Reads the last events of its
/// journal, oldest first. `tools`: whether whoever has the tools that a client brought is still there to answer; if
/// not, a call of one is like any that is under way.
pub(crate) fn waits_for(page: Value<'_>, tools: bool) -> Option<Vec<Box<str>>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut whole = page.get("hasMore").and_then(Value::as_bool) == Some(false);
    for event in page.get("events")?.elements() {
        let data = event.get("data")?;
        let text = |value: Option<Value<'_>>| value.and_then(Value::as_str).map(Box::<str>::from);
        let id = |name| text(data.get(name));
        match &*event.get("type").and_then(Value::as_str)? {
            "user.message" => whole = true,
            "assistant.message" => {
                let of_it = data.get("toolRequests").into_iter().flat_map(Value::elements);
                for id in of_it.filter_map(|call| text(call.get("toolCallId"))) {
                    calls.push(Call { id, request: None });
                }
            }
            "permission.requested" => {
                let call = text(data.get("permissionRequest").and_then(|asked| asked.get("toolCallId")))?;
                asked(&mut calls, &call, id("requestId")?);
            }
            "external_tool.requested" if tools => asked(&mut calls, &id("toolCallId")?, id("requestId")?),
            // Answered: from now on the call itself is under way, until it has a result.
            "permission.completed" | "external_tool.completed" => {
                let request = id("requestId");
                calls.iter_mut().filter(|call| call.request == request).for_each(|call| call.request = None);
            }
            "tool.execution_complete" => {
                let over = id("toolCallId")?;
                calls.retain(|call| call.id != over);
            }
            _ => {}
        }
    }
    let open: Option<Vec<_>> = calls.into_iter().map(|call| call.request).collect();
    // What began before the page may be under way still.
    open.filter(|open| whole && !open.is_empty())
}

/// Notes what people are asked about a call. One that no message told of is unknown, so under way.
fn asked(calls: &mut Vec<Call>, id: &str, request: Box<str>) {
    match calls.iter_mut().find(|call| *call.id == *id) {
        Some(call) => call.request = Some(request),
        None => calls.push(Call { id: id.into(), request: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: serde_json::Value) -> serde_json::Value {
        json!({ "type": kind, "id": "e", "data": data })
    }

    /// A turn's events until it calls those tools.
    fn calling(calls: &[&str]) -> Vec<serde_json::Value> {
        let requests: Vec<_> = calls.iter().map(|id| json!({ "toolCallId": id })).collect();
        vec![
            event("user.message", json!({ "content": "x" })),
            event("assistant.message", json!({ "content": "", "toolRequests": requests })),
        ]
    }

    fn permission(call: &str, id: &str) -> serde_json::Value {
        event("permission.requested", json!({ "requestId": id, "permissionRequest": { "toolCallId": call } }))
    }

    fn tool(call: &str, id: &str) -> serde_json::Value {
        event("external_tool.requested", json!({ "requestId": id, "toolCallId": call }))
    }

    fn judged(events: &[serde_json::Value], has_more: bool) -> Option<Vec<String>> {
        let page = json!({ "events": events, "hasMore": has_more }).to_string();
        let open = waits_for(Value::new(page.as_bytes()), true)?;
        Some(open.into_iter().map(String::from).collect())
    }

    #[test]
    fn a_turn_that_waits_for_its_people_goes_on() {
        let mut events = calling(&["a", "b"]);
        events.extend([permission("a", "p"), tool("b", "t")]);
        assert_eq!(judged(&events, false).unwrap(), ["p", "t"]);
        // Its beginning is in the page, so the rest does not matter.
        assert_eq!(judged(&events, true).unwrap(), ["p", "t"]);
        events.push(event("external_tool.completed", json!({ "requestId": "t" })));
        assert_eq!(judged(&events, false), None, "what is made of the answer is under way");
        events.push(event("tool.execution_complete", json!({ "toolCallId": "b" })));
        assert_eq!(judged(&events, false).unwrap(), ["p"]);
    }

    #[test]
    fn one_with_anything_under_way_does_not() {
        // The model is asked.
        assert_eq!(judged(&calling(&[]), false), None);
        // A tool that nobody had to allow.
        let mut events = calling(&["a", "b"]);
        events.push(permission("a", "p"));
        assert_eq!(judged(&events, false), None);
        // One that somebody allowed.
        let mut events = calling(&["a"]);
        let yes = event("permission.completed", json!({ "requestId": "p", "toolCallId": "a" }));
        events.extend([permission("a", "p"), yes]);
        assert_eq!(judged(&events, false), None);
        // Nothing, for the turn has ended.
        events.push(event("tool.execution_complete", json!({ "toolCallId": "a" })));
        assert_eq!(judged(&events, false), None);
    }

    #[test]
    fn what_cannot_be_known_is_under_way() {
        let mut events = calling(&["a"]);
        events.push(permission("a", "p"));
        assert_eq!(judged(&events[1..], true), None, "the turn began before");
        events.push(permission("unknown", "q"));
        assert_eq!(judged(&events, false), None);
        assert_eq!(judged(&[json!({ "type": "user.message" })], false), None);
        assert!(waits_for(Value::new(br#"{"cursorStatus":"expired"}"#), true).is_none());
        let page = |event| {
            let mut events = calling(&["a"]);
            events.push(event);
            json!({ "events": events, "hasMore": false }).to_string()
        };
        assert!(
            waits_for(Value::new(page(tool("a", "t")).as_bytes()), false).is_none(),
            "nobody has the tool"
        );
        assert!(waits_for(Value::new(page(permission("a", "p")).as_bytes()), false).is_some());
    }
}
