//! What a call that makes or resumes a session says to Jetway, and the CLI server does not hear.
//!
//! `members: [{"user", "role"}]` and `jetway: {"name", "ephemeral", "busy"}` in the params of `session.create`;
//! of an owner's `session.resume`, `jetway: {"busy"}` only.

use serde::Deserialize;

use jetway_config::UserId;
use jetway_wire::{
    Value,
    envelope::{Request, code},
    json,
};

use super::Refusal;
use crate::directory::{MAX_MEMBERS, Member, Name};

/// What the new session is to be, beyond what the CLI server makes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) name: Option<Name>,
    pub(crate) members: Vec<Member>,
    pub(crate) ephemeral: bool,
    pub(crate) busy: Option<Busy>,
}

/// What becomes of a prompt to a shared session in which a turn runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Busy {
    /// It waits its turn.
    #[default]
    Wait,
    /// It is refused at once.
    Refuse,
    /// It joins the turn that runs.
    Steer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    user: UserId,
    #[serde(default)]
    role: RawRole,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawRole {
    Viewer,
    #[default]
    Member,
    Owner,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawJetway {
    name: Option<String>,
    ephemeral: bool,
    busy: Option<Busy>,
}

/// Takes it out of a request, if it is there.
pub(super) fn take(method: &str, request: &mut Request) -> Result<Option<Wish>, Refusal> {
    let Some(params) = request.params() else { return Ok(None) };
    let (members, jetway) = (params.get("members"), params.get("jetway"));
    if members.is_none() && jetway.is_none() {
        return Ok(None);
    }
    let invalid = |at: &str, why: String| Refusal::Invalid(code::INVALID_PARAMS, format!("{at}: {why}"));
    let mut wish = Wish::default();
    if let Some(members) = members {
        let members: Vec<RawMember> =
            serde_json::from_slice(members.text()).map_err(|e| invalid("members", e.to_string()))?;
        if members.len() > MAX_MEMBERS {
            return Err(invalid("members", format!("at most {MAX_MEMBERS}")));
        }
        wish.members = members.into_iter().map(RawMember::into_member).collect();
    }
    if let Some(jetway) = jetway {
        let raw: RawJetway =
            serde_json::from_slice(jetway.text()).map_err(|e| invalid("jetway", e.to_string()))?;
        let name = raw.name.map(|name| name.parse()).transpose();
        wish.name = name.map_err(|e| invalid("jetway.name", format!("{e}")))?;
        wish.ephemeral = raw.ephemeral;
        wish.busy = raw.busy;
    }
    let rest = without(params, &["members", "jetway"]);
    if method == "session.resume" && wish != (Wish { busy: wish.busy, ..Wish::default() }) {
        return Err(invalid("session.resume", "of members and jetway it takes jetway.busy".into()));
    }
    request.rewrite(method, &rest);
    Ok(Some(wish))
}

/// An object without some of its members.
pub(super) fn without(object: Value<'_>, names: &[&str]) -> Vec<u8> {
    let mut out = b"{".to_vec();
    for (name, value) in object.members().filter(|(name, _)| !names.iter().any(|n| name.is(n))) {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_str(&mut out, &name.text());
        out.push(b':');
        out.extend_from_slice(value.text());
    }
    out.push(b'}');
    out
}

impl RawMember {
    fn into_member(self) -> Member {
        use crate::directory::Role;
        let role = match self.role {
            RawRole::Viewer => Role::Viewer,
            RawRole::Member => Role::Member,
            RawRole::Owner => Role::Owner,
        };
        Member { user: self.user, role }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetway_wire::Envelope;

    fn request(params: &str) -> Request {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"session.create","params":{params}}}"#);
        Envelope::strict(body.as_bytes(), 20).unwrap().to_request().unwrap()
    }

    #[test]
    fn what_is_said_to_jetway_goes_no_further() {
        let mut create =
            request(r#"{"sessionId":"s","members":[{"user":"bob"}],"model":"m","jetway":{"name":"N"}}"#);
        let wish = take("session.create", &mut create).unwrap().unwrap();
        assert_eq!(wish.members[0].role, crate::directory::Role::Member);
        assert_eq!(wish.name.unwrap().as_str(), "N");
        assert_eq!(create.params().unwrap().text(), br#"{"sessionId":"s","model":"m"}"#);
        assert_eq!(take("session.create", &mut request(r#"{"sessionId":"s"}"#)), Ok(None));
        assert!(take("session.resume", &mut request(r#"{"members":[]}"#)).is_ok());
        assert!(take("session.resume", &mut request(r#"{"jetway":{"name":"N"}}"#)).is_err());
        for bad in [r#"{"members":7}"#, r#"{"members":[{"user":"a/b"}]}"#, r#"{"jetway":{"nmae":"x"}}"#] {
            assert!(take("session.create", &mut request(bad)).is_err(), "{bad}");
        }
    }
}
