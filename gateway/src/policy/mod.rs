//! What a call may reach beyond the sessions that it names: which methods, which machines, which paths, programs and
//! tools. Pure: names are resolved first ([`names`]), then everything is judged ([`judge`]); [`check`] does both.
//!
//! # What this does not cover
//!
//! The CLI server connects, not Jetway. A name that is public when it is judged may be private when the CLI resolves
//! it (DNS rebinding), a public server may redirect the CLI to a private one, and on another machine or in another
//! network the same name may mean another machine. Against these stands the way out of a sandboxed CLI, which sees
//! every connection: it must judge the address that it connects to by [`address::Kind`] and the same rules.
//! Nor are links followed in paths: the files are on the CLI server's host.

use std::{collections::HashMap, fmt, net::IpAddr, net::Ipv4Addr};

use jetway_config::{TenantId, tenants::Tenant};
use jetway_wire::{
    Value,
    catalogue::{Class, Grant, Method, Starts, Surface, Thing},
};

pub(crate) mod address;
pub(crate) mod filter;
pub(crate) mod patterns;
pub(crate) mod provider;
mod resolve;
mod role;
mod tools;

use self::address::{Host, Kind, Target};
pub(crate) use self::{
    resolve::{Resolve, System},
    role::plays,
};
use crate::directory::Role;

/// How far a caller's calls may reach.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach<'a> {
    /// Whose the CLI server is.
    pub(crate) surface: Surface,
    /// The caller's tenant, for the keys that refusals name.
    pub(crate) tenant: &'a TenantId,
    /// What the operator says of that tenant.
    pub(crate) rules: &'a Tenant,
    /// Whether loopback addresses are as good as public ones: nobody but this machine's own users can call.
    pub(crate) loopback: bool,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The method is not for this surface, or the operator denies it.
    Method,
    /// A machine with an address of that kind.
    Address(Kind),
    /// A name without addresses.
    Unresolved,
    /// Not a URL of http or https in its plain spelling.
    Url,
    /// More names than are resolved for one call.
    Names,
    /// Headers that are malformed, or that belong to the connection.
    Headers,
    /// A path outside the tenant's own.
    Path,
    /// A path that leaves the session's own directory.
    Inside,
    /// A program to run.
    Command,
    /// A tool that reaches the host.
    Tools,
    /// A tool of the client's own, called as one of the CLI's.
    ToolName,
    /// Something that is not for servers with other users on them.
    Shared,
    /// More than one's role in the session allows.
    Role(Role),
    /// Turns that begin by themselves, in a session where others have turns.
    OwnTime,
}

impl Rule {
    /// For error data, metrics and the audit log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Rule::Method => "method",
            Rule::Address(_) => "address",
            Rule::Unresolved => "unresolved_name",
            Rule::Url => "url",
            Rule::Names => "too_many_names",
            Rule::Headers => "headers",
            Rule::Path => "path",
            Rule::Inside => "path_outside_session",
            Rule::Command => "command",
            Rule::Tools => "host_tools",
            Rule::ToolName => "tool_name",
            Rule::Shared => "shared_server",
            Rule::Role(_) => "role",
            Rule::OwnTime => "own_time",
        }
    }

    /// What an operator would change to allow it: a key of the tenant's section.
    fn key(self) -> Option<&'static str> {
        match self {
            Rule::Method => Some("allow_methods"),
            Rule::Address(_) | Rule::Unresolved => Some("policy.allow_addresses"),
            Rule::Path => Some("policy.allow_paths"),
            Rule::Tools | Rule::ToolName => Some("policy.host_tools"),
            Rule::Command | Rule::Shared => Some("surface"),
            Rule::Url | Rule::Names | Rule::Headers | Rule::Inside | Rule::Role(_) | Rule::OwnTime => None,
        }
    }
}

/// A call that reaches too far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// By which rule.
    pub(crate) rule: Rule,
    /// Where in the params, as `provider.baseUrl`; empty if it is the method itself.
    pub(crate) at: String,
    /// Which key of the configuration an operator would change, if there is one.
    pub(crate) key: Option<String>,
}

impl Denied {
    fn new(rule: Rule, at: &str, reach: &Reach<'_>) -> Self {
        let key = rule.key().map(|key| format!("tenants.{}.{key}", reach.tenant));
        Self { rule, at: at.to_owned(), key }
    }
}

/// One line for the caller. It says nothing of addresses that a name has: those may be the operator's secret.
impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        match self.rule {
            Rule::Method => f.write_str("the method is not allowed"),
            Rule::Address(kind) => write!(f, "the machine has a {} address", kind.as_str()),
            Rule::Unresolved => f.write_str("the name has no address"),
            Rule::Url => {
                f.write_str("expected a URL of http or https in its plain spelling, without user or password")
            }
            Rule::Names => write!(f, "more than {MAX_NAMES} machines in one call"),
            Rule::Headers => {
                f.write_str("expected an object of header names and texts, without those of the connection")
            }
            Rule::Path => f.write_str("the path is outside the tenant's directories"),
            Rule::Inside => f.write_str("the path leaves the session's directory"),
            Rule::Command => f.write_str("programs are not run on servers with other users"),
            Rule::Tools => f.write_str(
                "only tools that stay inside the session, as `builtin:ask_user`, `mcp:*` or `custom:*`",
            ),
            Rule::ToolName => f.write_str("one of the CLI's own tools has that name; choose another"),
            Rule::Shared => f.write_str("not on servers with other users"),
            Rule::Role(role) => write!(f, "a {} of the session may not", role.as_str()),
            Rule::OwnTime => f.write_str("turns that begin by themselves, in a session that is shared"),
        }?;
        match &self.key {
            Some(key) => write!(f, " (see {key})"),
            None => Ok(()),
        }
    }
}

/// The most names that are resolved for one call.
const MAX_NAMES: usize = 32;

/// What names resolved to.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<String, Vec<IpAddr>>);

impl Names {
    /// Notes the addresses of a name; none if it has none.
    pub(crate) fn insert(&mut self, name: String, addresses: Vec<IpAddr>) {
        self.0.insert(name, addresses);
    }
}

/// Resolves what must be, then judges. Where the call names no machine it waits for nothing.
pub(crate) async fn check(
    method: &Method,
    params: Value<'_>,
    reach: &Reach<'_>,
    resolver: &impl Resolve,
) -> Result<(), Denied> {
    permits(method, reach)?;
    let mut known = Names::default();
    for name in names(method, params, reach)? {
        let addresses = resolver.resolve(&name).await;
        known.insert(name, addresses);
    }
    judge(method, params, reach, &known)
}

/// Whether the method may be called in a session that several people share: there everybody's turn is waited for.
pub(crate) fn keeps_to_turns(method: &Method) -> Result<(), Denied> {
    match method.starts {
        Starts::Later => Err(Denied { rule: Rule::OwnTime, at: String::new(), key: None }),
        Starts::Nothing | Starts::Turn => Ok(()),
    }
}

/// Whether the method itself may be called.
pub(crate) fn permits(method: &Method, reach: &Reach<'_>) -> Result<(), Denied> {
    let named =
        |patterns: &[jetway_config::tenants::MethodPattern]| patterns.iter().any(|p| p.matches(method.name));
    let allowed = match method.grant(reach.surface) {
        Grant::Never => return Err(Denied { rule: Rule::Method, at: String::new(), key: None }),
        Grant::Operator => named(&reach.rules.allow_methods),
        Grant::Own | Grant::Read | Grant::Write => true,
    };
    if named(&reach.rules.deny_methods) {
        let key = format!("tenants.{}.deny_methods", reach.tenant);
        return Err(Denied { rule: Rule::Method, at: String::new(), key: Some(key) });
    }
    if allowed { Ok(()) } else { Err(Denied::new(Rule::Method, "", reach)) }
}

/// The names of machines in `params` whose addresses [`judge`] must know.
pub(crate) fn names(method: &Method, params: Value<'_>, reach: &Reach<'_>) -> Result<Vec<String>, Denied> {
    let mut names = Vec::new();
    method.things(params, |thing| {
        if let Some(Target { host: Host::Name(name), .. }) = target(&thing)
            && Kind::of_name(&name).is_none()
            && !names.contains(&name)
        {
            if names.len() >= MAX_NAMES {
                return Err(Denied::new(Rule::Names, thing.at, reach));
            }
            names.push(name);
        }
        Ok(())
    })?;
    Ok(names)
}

/// The machines that `params` name.
pub(crate) fn targets(method: &Method, params: Value<'_>) -> Vec<Target> {
    let mut targets = Vec::new();
    let found = method.things(params, |thing| {
        targets.extend(target(&thing));
        Ok::<_, std::convert::Infallible>(())
    });
    match found {
        Ok(()) => targets,
        Err(never) => match never {},
    }
}

fn target(thing: &Thing<'_, '_>) -> Option<Target> {
    match thing.class {
        Class::Url => thing.value.as_str().and_then(|url| Target::of_url(&url)),
        Class::Host => thing.value.as_str().and_then(|host| Target::of_host(&host)),
        _ => None,
    }
}

/// Whether a call may go to a CLI server; the first thing that may not decides.
pub(crate) fn judge(
    method: &Method,
    params: Value<'_>,
    reach: &Reach<'_>,
    names: &Names,
) -> Result<(), Denied> {
    permits(method, reach)?;
    method.things(params, |thing| {
        judge_thing(&thing, reach, names).map_err(|rule| Denied::new(rule, thing.at, reach))
    })
}

/// What Jetway puts into the params of a call to a server with other users, where the caller left it out: names and
/// JSON. The CLI's own defaults are those of a server of one's own.
pub(crate) fn imposed(
    method: &Method,
    params: Value<'_>,
    reach: &Reach<'_>,
) -> Vec<(&'static str, &'static str)> {
    if reach.surface == Surface::Full {
        return Vec::new();
    }
    let attaches = matches!(method.name, "session.create" | "session.resume");
    let tools = attaches && !reach.rules.policy.host_tools && params.get(tools::MEMBER).is_none();
    method.missing(params).chain(tools.then_some((tools::MEMBER, tools::INSIDE_ONLY))).collect()
}

fn judge_thing(thing: &Thing<'_, '_>, reach: &Reach<'_>, names: &Names) -> Result<(), Rule> {
    let text = || thing.value.as_str();
    // These hold everywhere: what a caller's CLI can reach, its neighbours may not want it to reach.
    match thing.class {
        Class::Url => return machine(text().and_then(|t| Target::of_url(&t)), reach, names),
        Class::Host => return machine(text().and_then(|t| Target::of_host(&t)), reach, names),
        Class::Headers => return headers(thing.value),
        _ if reach.surface == Surface::Full => return Ok(()),
        _ => {}
    }
    let policy = &reach.rules.policy;
    let (holds, rule) = match thing.class {
        Class::Path => (text().is_some_and(|path| policy.allows_path(&path)), Rule::Path),
        Class::Inside => (text().is_some_and(|path| stays_inside(&path)), Rule::Inside),
        Class::Command => (false, Rule::Command),
        Class::Tools => (policy.host_tools || tools::stay_inside(thing.value), Rule::Tools),
        Class::ToolName => {
            let other = text().is_some_and(|name| !tools::reaches_the_host(&name));
            (policy.host_tools || other, Rule::ToolName)
        }
        Class::No => (false, Rule::Shared),
        Class::Must(json) | Class::Set(json) => (same_json(thing.value, json), Rule::Shared),
        _ => (true, Rule::Shared),
    };
    if holds { Ok(()) } else { Err(rule) }
}

fn machine(target: Option<Target>, reach: &Reach<'_>, names: &Names) -> Result<(), Rule> {
    let Some(Target { host, port }) = target else { return Err(Rule::Url) };
    let allowed = |kind, host: &str, ip| {
        kind == Kind::Public
            || (kind == Kind::Loopback && reach.loopback)
            || reach.rules.policy.allows(host, ip, port)
    };
    match host {
        Host::Ip(ip) => {
            let kind = Kind::of_ip(ip);
            if allowed(kind, "", ip) { Ok(()) } else { Err(Rule::Address(kind)) }
        }
        Host::Name(name) => {
            // An address that no machine has: only a rule for the name, or for all addresses, covers it.
            let vouched = reach.rules.policy.allows(&name, Ipv4Addr::BROADCAST.into(), port);
            if let Some(kind) = Kind::of_name(&name) {
                let local = kind == Kind::Loopback && allowed(kind, &name, Ipv4Addr::LOCALHOST.into());
                return if vouched || local { Ok(()) } else { Err(Rule::Address(kind)) };
            }
            let addresses = names.0.get(&name).map_or(&[][..], Vec::as_slice);
            if addresses.is_empty() && !vouched {
                return Err(Rule::Unresolved);
            }
            let refused = addresses.iter().find(|ip| !allowed(Kind::of_ip(**ip), &name, **ip));
            refused.map_or(Ok(()), |ip| Err(Rule::Address(Kind::of_ip(*ip))))
        }
    }
}

/// Headers of the connection rather than of the request: with them a caller could speak to another server behind
/// the same address, or a second request hide in the first.
const CONNECTION_HEADERS: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "proxy-authorization",
];

fn headers(value: Value<'_>) -> Result<(), Rule> {
    let name_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let good = |(key, value): (jetway_wire::json::Key<'_>, Value<'_>)| {
        let name = key.text();
        let known = CONNECTION_HEADERS.iter().any(|h| name.eq_ignore_ascii_case(h));
        let text = value.as_str();
        let plain = text.is_some_and(|text| !text.chars().any(|c| c.is_control() && c != '\t'));
        !name.is_empty() && name.bytes().all(name_byte) && !known && plain
    };
    if value.is_object() && value.members().all(good) { Ok(()) } else { Err(Rule::Headers) }
}

fn stays_inside(path: &str) -> bool {
    let part = |part: &str| !matches!(part, ".." | "~");
    !path.starts_with('/') && !path.contains(['\\', '\0', ':']) && path.split('/').all(part)
}

fn same_json(value: Value<'_>, json: &str) -> bool {
    let given = serde_json::from_slice::<serde_json::Value>(value.text());
    given.is_ok_and(|given| serde_json::from_str(json).is_ok_and(|must: serde_json::Value| given == must))
}

#[cfg(test)]
mod tests;
