//! Who decides about permissions, and what becomes of questions that nobody answers.

use std::{
    path::{Component, Path},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::warn;

use super::{
    Hub,
    requests::{Matter, Request},
};
use crate::http::{
    Face,
    fault::{Fault, Kind},
    profile::Permissions,
    rfc3339,
};

/// An answer to a permission prompt or a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Verdict {
    /// Once, or for the rest of the session.
    Approve {
        session: bool,
    },
    /// Why, for the model.
    Deny(String),
    Answer(String),
}

impl Hub {
    /// Somebody is asked: the session's policy answers, or a person within a time. Only in turns that this face
    /// began: of others, those who began them decide.
    pub(super) fn decide(&self, request: Request) {
        let ours = self.with(|s| s.turn.is_some());
        if request.matter == Matter::Question {
            self.tell("jetway.question_requested", &request.to_json());
        }
        if ours {
            self.decide_here(request);
        }
    }

    /// The same, whoever began the turn: nobody else is there.
    fn decide_here(&self, request: Request) {
        let Some(face) = self.face() else { return };
        let policy = match self.profile().permissions {
            // The tenant's policy may have changed since.
            policy if face.may_have(self.client.who(), policy).is_err() => Permissions::Deny,
            policy => policy,
        };
        let workspace = self.with(|s| s.workspace.clone());
        let verdict = match (policy, request.matter) {
            (Permissions::Ask, _) => {
                return self.wait_for_a_person(&request.id, face.core.config.http.answer_within);
            }
            (_, Matter::Question) => Verdict::Deny("nobody is there to answer".into()),
            (Permissions::Approve, _) if may_be_automatic(&request) => Verdict::Approve { session: false },
            (Permissions::ApproveSafe, _) if is_safe(&request, workspace.as_deref()) => {
                Verdict::Approve { session: false }
            }
            _ => Verdict::Deny("the session's policy does not allow it".into()),
        };
        self.answer_later(request.id, verdict, None);
    }

    fn wait_for_a_person(&self, id: &str, within: Duration) {
        let now = SystemTime::now();
        self.with(|state| {
            if let Some(request) = state.requests.find_mut(id) {
                request.times = Some((rfc3339(now), rfc3339(now + within)));
            }
        });
        self.answer_later(id.to_owned(), Verdict::Deny("nobody answered in time".into()), Some(within));
    }

    /// What was asked in a turn that came to nothing is not to be answered any more.
    pub(super) fn lapse(&self) {
        for id in self.with(|state| state.requests.take()) {
            self.tell("jetway.request_expired", &json!({ "id": id, "reason": "the turn has ended" }));
        }
    }

    /// What the CLI server waits for that was asked before this hold on the session; `alone`: nobody else is there.
    pub(super) async fn recall(&self, face: &Face, alone: bool) -> Result<(), Fault> {
        let pending = self.call(face, "session.permissions.pendingRequests", json!({})).await?;
        let items = pending["items"].as_array().cloned().unwrap_or_default();
        for request in items.iter().filter_map(Request::permission) {
            if self.with(|state| state.requests.add(request.clone())) && alone {
                self.decide_here(request);
            }
        }
        Ok(())
    }

    /// Answers at once or, if it still waits by then, after a time.
    fn answer_later(&self, id: String, verdict: Verdict, after: Option<Duration>) {
        let (Some(face), Some(hub)) = (self.face(), self.me.upgrade()) else { return };
        let closing = face.core.drain.closing().clone();
        face.core.tracker.clone().spawn(async move {
            if let Some(after) = after {
                if closing.run_until_cancelled(sleep(after)).await.is_none() {
                    return;
                }
                if hub.with(|s| s.requests.find(&id).is_none()) {
                    return;
                }
                let reason = "nobody answered in time";
                hub.tell("jetway.request_expired", &json!({ "id": id, "reason": reason }));
            }
            if let Err(fault) = hub.answer(&face, &id, &verdict).await {
                warn!(session = hub.id(), why = %fault.detail, "answering a request of the CLI server");
            }
        });
    }

    /// Answers what waits under `id`. Of several who answer, the first is heard.
    pub(in crate::http) async fn answer(
        self: &Arc<Self>,
        face: &Face,
        id: &str,
        verdict: &Verdict,
    ) -> Result<(), Fault> {
        let Some(request) = self.with(|s| s.requests.find(id).cloned()) else { return Err(nothing_waits()) };
        match request.matter {
            Matter::Question => {
                let Some(question) = request.question else { return Err(nothing_waits()) };
                self.reply(question, outcome(&request.details, verdict)?);
            }
            Matter::Permission => {
                let result = decision(&request.details, verdict)?;
                let params = json!({ "requestId": id, "result": result });
                let answer =
                    self.call(face, "session.permissions.handlePendingPermissionRequest", params).await?;
                if answer["success"] == json!(false) {
                    self.with(|s| s.requests.remove(id));
                    return Err(nothing_waits());
                }
            }
        }
        self.with(|s| s.requests.remove(id));
        Ok(())
    }
}

pub(in crate::http) fn nothing_waits() -> Fault {
    Fault::new(Kind::NotFound, "No such request waits; it may have been answered")
}

/// What the CLI takes for a decision.
fn decision(details: &Value, verdict: &Verdict) -> Result<Value, Fault> {
    Ok(match verdict {
        Verdict::Approve { session: false } => json!({ "kind": "approve-once" }),
        Verdict::Approve { session: true } => match for_session(details) {
            Some(approval) => json!({ "kind": "approve-for-session", "approval": approval }),
            None => return Err(Fault::invalid("scope", "This can be approved once only")),
        },
        Verdict::Deny(why) => json!({ "kind": "reject", "feedback": why }),
        Verdict::Answer(_) => {
            return Err(Fault::invalid("answer", "This is a permission: send a `decision`"));
        }
    })
}

/// What is approved for the rest of the session, when that is asked for.
fn for_session(details: &Value) -> Option<Value> {
    let kind = details["kind"].as_str()?;
    Some(match kind {
        "shell" => {
            let commands = details["commands"].as_array()?;
            let names: Vec<_> = commands.iter().filter_map(|c| c["identifier"].as_str()).collect();
            if names.is_empty() || details["canOfferSessionApproval"] == json!(false) {
                return None;
            }
            json!({ "kind": "commands", "commandIdentifiers": names })
        }
        "read" | "write" | "memory" => json!({ "kind": kind }),
        "mcp" => {
            json!({ "kind": kind, "serverName": details["serverName"], "toolName": details["toolName"] })
        }
        "custom-tool" => json!({ "kind": kind, "toolName": details["toolName"] }),
        _ => return None,
    })
}

/// The reply to a question.
fn outcome(details: &Value, verdict: &Verdict) -> Result<Value, Fault> {
    Ok(match verdict {
        Verdict::Answer(text) => {
            let choices = details["choices"].as_array();
            let chosen = choices.is_some_and(|c| c.iter().any(|c| c == text.as_str()));
            if !chosen && details["allowFreeform"] == json!(false) {
                return Err(Fault::invalid("answer", "`answer` must be one of the choices"));
            }
            json!({ "jsonrpc": "2.0", "id": 0, "result": { "answer": text, "wasFreeform": !chosen } })
        }
        Verdict::Deny(why) => {
            json!({ "jsonrpc": "2.0", "id": 0, "error": { "code": -32603, "message": why } })
        }
        Verdict::Approve { .. } => {
            return Err(Fault::invalid("decision", "This is a question: send an `answer`"));
        }
    })
}

/// Some permissions are for people only, by the policy of those who manage the CLI.
fn may_be_automatic(request: &Request) -> bool {
    request.details["managedApprovalRequired"] != json!(true)
        && request.details["requestSandboxBypass"] != json!(true)
}

/// Whether it only reads, inside the workspace.
fn is_safe(request: &Request, workspace: Option<&str>) -> bool {
    let details = &request.details;
    let path = details["resolvedPath"].as_str().or_else(|| details["path"].as_str());
    let (Some(path), Some(workspace)) = (path, workspace) else { return false };
    details["kind"] == "read" && may_be_automatic(request) && is_inside(Path::new(path), Path::new(workspace))
}

fn is_inside(path: &Path, workspace: &Path) -> bool {
    let plain = |p: &Path| {
        p.is_absolute() && p.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
    };
    plain(path) && plain(workspace) && workspace != Path::new("/") && path.starts_with(workspace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(details: Value) -> Request {
        Request::permission(&json!({ "requestId": "r", "permissionRequest": details })).unwrap()
    }

    #[test]
    fn only_reading_inside_the_workspace_is_safe() {
        let read = |path: &str| request(json!({ "kind": "read", "path": path, "intention": "look" }));
        assert!(is_safe(&read("/work/a/b.txt"), Some("/work/a")));
        for outside in ["/work/ab", "/etc/passwd", "/work/a/../b", "a.txt", ""] {
            assert!(!is_safe(&read(outside), Some("/work/a")), "{outside}");
        }
        assert!(!is_safe(&read("/work/a/b"), None) && !is_safe(&read("/etc"), Some("/")));
        let linked = json!({ "kind": "read", "path": "/work/a/link", "resolvedPath": "/etc/passwd" });
        assert!(!is_safe(&request(linked), Some("/work/a")));
        let managed = json!({ "kind": "read", "path": "/work/a/b", "managedApprovalRequired": true });
        assert!(!is_safe(&request(managed), Some("/work/a")));
        assert!(!is_safe(&request(json!({ "kind": "write", "path": "/work/a/b" })), Some("/work/a")));
        assert!(!is_safe(&request(json!({ "kind": "shell", "path": "/work/a/b" })), Some("/work/a")));
    }

    #[test]
    fn what_is_approved_for_a_session_is_what_was_asked() {
        let shell = json!({ "kind": "shell", "commands": [{ "identifier": "git" }], "canOfferSessionApproval": true });
        let approve = Verdict::Approve { session: true };
        let decided = decision(&shell, &approve).unwrap();
        assert_eq!(decided["approval"], json!({ "kind": "commands", "commandIdentifiers": ["git"] }));
        for never in [json!({ "kind": "shell", "commands": [] }), json!({ "kind": "url" }), json!({})] {
            assert!(decision(&never, &approve).is_err(), "{never}");
        }
    }
}
