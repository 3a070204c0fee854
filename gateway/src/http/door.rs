//! How HTTP handlers enter the stack: the same calls as a client's on the SDK port.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::oneshot, time::timeout};
use tower::{Service as _, ServiceExt as _, util::BoxCloneSyncService};

use jetway_config::{UserId, limits};
use jetway_wire::{Envelope, catalogue, envelope};

use super::fault::{Fault, Kind};
use crate::{
    sessions::{client::Client, pending::Origin},
    stack::{self, Accepted, Busy, Call, Refusal, Target, later::settle},
};

/// How long a CLI server may take to answer, beside the time that a turn may wait its turn: nothing that is asked
/// here waits for a model.
const ANSWER: Duration = Duration::from_secs(60);
/// The most of a CLI server's own words that is passed on.
const WORDS: usize = 500;

/// The stack, for callers inside Jetway.
pub(super) struct Door(BoxCloneSyncService<Call, Accepted, Refusal>);

impl Door {
    pub(super) fn new() -> Self {
        Self(BoxCloneSyncService::new(stack::stack()))
    }

    /// Calls a method as `client` and waits for its result.
    pub(super) async fn call(
        &self,
        client: &Arc<Client>,
        method: &'static str,
        params: &Value,
    ) -> Result<Value, Fault> {
        read(&self.call_raw(client, method, params).await?)
    }

    /// Sends a prompt on behalf of one of those for whom the client stands. `busy`: what is to become of it while a
    /// turn runs, if not what its session says.
    pub(super) async fn prompt(
        &self,
        client: &Arc<Client>,
        user: &UserId,
        busy: Option<Busy>,
        params: &Value,
    ) -> Result<Value, Fault> {
        let set = |call: &mut Call| {
            call.user = Some(user.clone());
            call.busy = busy;
        };
        read(&self.enter(client, "session.send", params, set).await?)
    }

    /// The same as [`Door::call`]; the result as the CLI server wrote it.
    pub(super) async fn call_raw(
        &self,
        client: &Arc<Client>,
        method: &'static str,
        params: &Value,
    ) -> Result<Box<[u8]>, Fault> {
        self.enter(client, method, params, |_| ()).await
    }

    async fn enter(
        &self,
        client: &Arc<Client>,
        method: &'static str,
        params: &Value,
        set: impl FnOnce(&mut Call),
    ) -> Result<Box<[u8]>, Fault> {
        let (answer, answered) = oneshot::channel();
        let mut call = call(client, method, params, Origin::Jetway(answer))?;
        set(&mut call);
        let accepted = async {
            let mut stack = self.0.clone();
            let outcome = match stack.ready().await?.call(call).await {
                // An abort ends what waits, as on the SDK port.
                Ok(Accepted::Later(later)) => match later.session().cloned() {
                    Some(session) => client.beside(&session, settle(later)).await,
                    None => settle(later).await,
                },
                outcome => outcome,
            };
            match outcome? {
                // What is asked here is small: nobody has to wait until a slow server has read it.
                Accepted::Forwarded | Accepted::Slowly(_) | Accepted::Later(_) => {
                    Ok(answered.await.unwrap_or_else(|_| Err(Box::default())))
                }
                Accepted::Told(result) => Ok(Ok(result.into_bytes().into())),
                Accepted::Answered(result) | Accepted::Farewell(result) => Ok(Ok(result.as_bytes().into())),
            }
        };
        let Ok(answer) = timeout(ANSWER + client.core().config.locks.wait, accepted).await else {
            return Err(Fault::new(Kind::Timeout, format!("The CLI server did not answer {method} in time")));
        };
        match answer.map_err(|refusal: Refusal| Fault::from(refusal))? {
            Ok(result) => Ok(result),
            // Its leg was lost, with whatever the answer would have been.
            Err(error) if error.is_empty() => {
                Err(Refusal::Indeterminate { session: None, turn: None }.into())
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// A result in some shape.
pub(super) fn read<'a, T: Deserialize<'a>>(result: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(result)
        .map_err(|_| Fault::new(Kind::CliFailed, "The CLI server's answer is not as expected"))
}

fn call(client: &Arc<Client>, method: &'static str, params: &Value, origin: Origin) -> Result<Call, Fault> {
    let unknown = || Fault::new(Kind::NotImplemented, format!("The CLI server has no {method}"));
    let known = catalogue::lookup(method).ok_or_else(unknown)?;
    let body = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"{}","params":{params}}}"#, known.name);
    // As strictly as what comes by the SDK port: there is one idea of what a call is.
    let request = Envelope::strict(body.as_bytes(), limits::JSON_DEPTH + 2)
        .ok()
        .and_then(|message| message.to_request())
        .ok_or_else(|| Fault::new(Kind::Invalid, "The request is nested too deeply"))?;
    Ok(Call {
        client: client.clone(),
        user: None,
        method: known,
        request: Arc::new(request),
        origin,
        target: Target::Home,
        wish: None,
        busy: None,
        lease: None,
        held: None,
        permit: None,
        again: false,
    })
}

/// What a CLI server's error is over HTTP. Its codes say little; see the protocol's notes.
fn failed(error: &[u8]) -> Fault {
    let error = jetway_wire::Value::new(error);
    let code = error.get("code").and_then(|c| c.as_i64()).unwrap_or_default();
    let message = error.get("message").and_then(|m| m.as_str()).unwrap_or_default();
    let message: String = message.chars().take(WORDS).collect();
    if message.to_ascii_lowercase().contains("session not found") {
        return Fault::no_session();
    }
    let kind = match code {
        envelope::code::METHOD_NOT_FOUND => Kind::NotImplemented,
        envelope::code::INVALID_PARAMS => Kind::Invalid,
        _ => Kind::CliFailed,
    };
    Fault::new(kind, message)
}
