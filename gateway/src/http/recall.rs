//! What became of a turn that this gateway has not seen the end of: of one that another gateway had, or this one before
//! it was started. The session's history tells, once nothing runs in it any more.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, json};
use tokio::time::{Instant, sleep};

use jetway_config::UserId;
use jetway_wire::Value;

use super::{
    Face,
    fault::{Fault, Kind},
    hub::{Done, Ending, Hub},
    messages::still_runs,
};
use crate::directory::Mark;

/// How often it is looked whether a turn still runs.
const LOOK: Duration = Duration::from_millis(500);

/// What became of the turn that `user` began with a prompt of that mark; while it runs, for `patience` at most.
pub(super) async fn outcome(
    face: &Arc<Face>,
    hub: &Hub,
    user: UserId,
    mark: &Mark,
    patience: Duration,
) -> Result<Done, Fault> {
    let lost = "It is not known what became of the turn that this `Idempotency-Key` stands for; see the session's history";
    let lost = || Fault::new(Kind::Indeterminate, lost).with("turn", mark.turn.as_str());
    let message = mark.message.as_deref().ok_or_else(lost)?;
    let deadline = Instant::now() + patience;
    hub.attach(face).await?;
    while runs(face, hub).await {
        if Instant::now() >= deadline {
            return Err(still_runs(&mark.turn));
        }
        sleep(LOOK).await;
    }
    let events = hub.call_raw(face, "session.getMessages", json!({})).await?;
    let (how, content) = ended(Value::new(&events), message).ok_or_else(lost)?;
    Ok(Done {
        turn: mark.turn.clone(),
        user,
        message: Some(message.to_owned()),
        how,
        content,
        usage: Map::new(),
        error: None,
        ended: SystemTime::now(),
    })
}

/// Whether the session's CLI server works on something, whoever asked for that.
async fn runs(face: &Face, hub: &Hub) -> bool {
    let says = hub.call(face, "session.metadata.isProcessing", json!({})).await;
    // One that does not know runs nothing that could be waited for.
    says.is_ok_and(|says| says["processing"] == json!(true))
}

/// How the turn of that message ended, and what was said last in it; nothing, if its end is not there.
fn ended(history: Value<'_>, message: &str) -> Option<(Ending, Option<String>)> {
    let is_prompt =
        |(kind, data): &Event<'_>| kind == "user.message" && text(*data, "messageId") == Some(message.into());
    let mut turn = history.get("events")?.elements().filter_map(event).skip_while(|event| !is_prompt(event));
    turn.next()?;
    let mut last = None;
    // What was said into it belongs to it as well.
    let next = |(kind, data): &Event<'_>| {
        kind == "user.message" && text(*data, "delivery") != Some("steering".into())
    };
    for (kind, data) in turn.take_while(|event| !next(event)) {
        match &*kind {
            "assistant.message" => {
                let calls = data.get("toolRequests").is_some_and(|calls| calls.elements().next().is_some());
                // After what its tools gave there is more to come.
                last = (!calls).then(|| (Ending::Completed, text(data, "content").map(Cow::into_owned)));
            }
            "abort" => last = Some((Ending::Aborted, None)),
            _ => {}
        }
    }
    last
}

/// What an event tells, and of what.
type Event<'a> = (Cow<'a, str>, Value<'a>);

fn event(event: Value<'_>) -> Option<Event<'_>> {
    Some((event.get("type")?.as_str()?, event.get("data")?))
}

fn text<'a>(data: Value<'a>, name: &str) -> Option<Cow<'a, str>> {
    data.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(events: &[serde_json::Value], message: &str) -> Option<(Ending, Option<String>)> {
        ended(Value::new(json!({ "events": events }).to_string().as_bytes()), message)
    }

    fn prompt(message: &str) -> serde_json::Value {
        json!({ "type": "user.message", "data": { "content": "x", "messageId": message } })
    }

    fn said(content: &str, tools: serde_json::Value) -> serde_json::Value {
        json!({ "type": "assistant.message", "data": { "content": content, "toolRequests": tools } })
    }

    #[test]
    fn a_turn_ends_with_what_is_said_last_in_it() {
        let tool = json!([{ "toolCallId": "t" }]);
        let events = [
            prompt("1"),
            said("I look", tool.clone()),
            json!({ "type": "tool.execution_complete", "data": {} }),
            said("found", json!([])),
            prompt("2"),
            said("second", json!(null)),
            prompt("3"),
            said("I try", tool),
        ];
        assert_eq!(judged(&events, "1"), Some((Ending::Completed, Some("found".into()))));
        assert_eq!(judged(&events, "2"), Some((Ending::Completed, Some("second".into()))));
        assert_eq!(judged(&events, "3"), None, "its tool has not answered");
        assert_eq!(judged(&events, "4"), None, "it never began");
        let aborted = [prompt("1"), json!({ "type": "abort", "data": {} })];
        assert_eq!(judged(&aborted, "1"), Some((Ending::Aborted, None)));
        assert_eq!(judged(&[prompt("1")], "1"), None);
    }
}
