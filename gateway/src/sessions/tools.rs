//! Tools of applications' own in a session that several people share.
//!
//! The CLI takes a tool's name from one connection only, and refuses every other that brings it. It tells all that
//! are attached of a call, though, and takes the first answer. So who comes later attaches without the names that
//! are taken, and answers calls all the same; when the one who has them leaves, they are offered anew.

use std::{borrow::Cow, sync::Arc};

use serde_json::json;
use tracing::{debug, warn};

use jetway_wire::{Value, envelope::Request, json as text};

use super::{leg::Leg, registry::Session, revival::Route};
use crate::{app::Core, stack::Refusal};

/// The CLI's words for a name that is taken, around the names.
const CLASH: (&str, &str) = ("External tool name clash: ", " already registered by another connection");

/// A request that attaches a session, for another try without what clashed.
pub(crate) struct Offer {
    request: Arc<Request>,
    /// Names were left out of it.
    withheld: bool,
}

impl Offer {
    /// Of a request that brings tools into a session that others share.
    pub(crate) fn of(request: &Arc<Request>, session: &Session) -> Option<Box<Self>> {
        let brings = request.params().is_some_and(|p| p.get("tools").is_some());
        let offer = Self { request: request.clone(), withheld: false };
        (brings && session.is_shared()).then(|| Box::new(offer))
    }

    /// Whether names were left out.
    pub(crate) fn was_cut(&self) -> bool {
        self.withheld
    }

    /// What to ask when the CLI refused it with `error`, if that was for names that are taken.
    pub(crate) fn cut(&mut self, error: Value<'_>) -> Option<Arc<Request>> {
        let params = cut(self.request.params()?, error.text())?;
        self.withheld = true;
        // Whatever its client said: a session in which somebody has tools is there.
        Arc::make_mut(&mut self.request).rewrite("session.resume", &params);
        Some(self.request.clone())
    }
}

/// Params without the tools whose names are taken, if `error` says that some are and they bring one.
pub(crate) fn cut(params: Value<'_>, error: &[u8]) -> Option<Vec<u8>> {
    let taken = taken(error)?;
    let tools = params.get("tools")?;
    let is_free = |tool: &Value<'_>| {
        let name = tool.get("name").and_then(Value::as_str);
        name.is_none_or(|name| !taken.iter().any(|t| **t == *name))
    };
    let free: Vec<_> = tools.elements().filter(is_free).collect();
    // It must become less, or this would go on for ever.
    if free.len() == tools.elements().count() {
        return None;
    }
    let mut out = b"{".to_vec();
    for (name, value) in params.members() {
        if out.len() > 1 {
            out.push(b',');
        }
        text::write_str(&mut out, &name.text());
        out.push(b':');
        match name.is("tools") {
            true => write_array(&mut out, &free),
            false => out.extend_from_slice(value.text()),
        }
    }
    out.push(b'}');
    Some(out)
}

fn write_array(out: &mut Vec<u8>, elements: &[Value<'_>]) {
    out.push(b'[');
    for (n, element) in elements.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(element.text());
    }
    out.push(b']');
}

/// The names that are taken, as the CLI's error says.
fn taken(error: &[u8]) -> Option<Vec<String>> {
    let message = Value::new(error).get("message").and_then(Value::as_str)?;
    let (_, rest) = message.split_once(CLASH.0)?;
    let (names, _) = rest.split_once(CLASH.1)?;
    Some(names.split(", ").map(str::to_owned).collect())
}

/// Offers the tools that a client brought and that were left out, in case nobody has their names any more.
pub(crate) async fn offer_again(session: &Session, leg: &Leg) -> Result<(), Refusal> {
    let Some(route) = leg.route_to(session.key.id.as_str()).filter(Route::withholds) else { return Ok(()) };
    let mut params = json!({ "sessionId": session.key.id }).to_string().into_bytes();
    params.pop();
    params.extend_from_slice(b",\"tools\":");
    params.extend_from_slice(&route.tools());
    params.push(b'}');
    let (mut params, mut withheld) = (Cow::from(params), false);
    loop {
        let Err(error) = leg.call("session.tools.set", &params).await? else { break };
        let Some(less) = cut(Value::new(&params), &error) else {
            warn!(session = %session.key, "tools could not be offered again");
            return Ok(());
        };
        (params, withheld) = (less.into(), true);
    }
    debug!(session = %session.key, withheld, "tools offered again");
    route.withhold(withheld);
    Ok(())
}

/// Somebody has left a session: what nobody could bring because of them is offered by whoever has it.
pub(crate) async fn offer_all(core: &Core, session: &Session) {
    let legs = core.clients.all().into_iter().filter_map(|client| client.leg_with(session));
    for leg in legs.collect::<Vec<_>>() {
        // A leg that is lost offers what it has when it is back.
        let _ = offer_again(session, &leg).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &[u8] = br#"{"code":-32603,"message":"Request session.resume failed with message: GenericFailure, External tool name clash: echo, two already registered by another connection"}"#;

    fn less(params: &str) -> Option<String> {
        cut(Value::new(params.as_bytes()), ERROR).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_the_names_that_are_taken_go() {
        let params = r#"{"a":[1],"tools":[{"name":"two"},{"name":"three","x":{}},{"name":"echo"}],"b":2}"#;
        assert_eq!(less(params).unwrap(), r#"{"a":[1],"tools":[{"name":"three","x":{}}],"b":2}"#);
        assert_eq!(less(r#"{"tools":[{"name":"two"}]}"#).unwrap(), r#"{"tools":[]}"#);
    }

    #[test]
    fn what_would_not_become_less_is_not_tried_again() {
        assert_eq!(less(r#"{"tools":[{"name":"three"}]}"#), None);
        assert_eq!(less(r#"{"tools":[]}"#), None);
        assert_eq!(less("{}"), None);
        assert!(cut(Value::new(br#"{"tools":[{"name":"two"}]}"#), br#"{"message":"no"}"#).is_none());
    }
}
