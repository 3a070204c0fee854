//! Bad configurations, and exactly what is said about each.

use jetway_config::{Config, Sources};

/// A file, the environment, and what is said.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Unknown keys.
    ("pool.mod = 'fleet'", &[], "error: pool.mod: unknown key; did you mean `pool.mode`?"),
    ("pol.mode = 'fleet'", &[], "error: pol: unknown key; did you mean `pool`?"),
    (
        "colour = 1",
        &[],
        "error: colour: unknown key; known here: listen, http, admin, auth, tenants, pool, locks, directory, redis, drain, log, limits",
    ),
    (
        r#"pool.process."memory budget" = '1GiB'
tenants.acme.polices = {}"#,
        &[],
        r#"error: tenants.acme.polices: unknown key; did you mean `tenants.acme.policy`?
error: pool.process."memory budget": unknown key; did you mean `pool.process.memory_budget`?"#,
    ),
    ("redis.password = 'hunter2'", &[], "error: redis.password: unknown key; known here: url"),
    // Values of the wrong form, type or range.
    (
        "locks.ttl = '10 lightyears'",
        &[],
        r#"error: locks.ttl: "10 lightyears" is not a duration; write a number and a unit, such as "10s" or "15m""#,
    ),
    (
        "locks.ttl = 10",
        &[],
        r#"error: locks.ttl: 10 is not a duration; write a number and a unit, such as "10s" or "15m""#,
    ),
    ("locks.ttl = '5m'", &[], r#"error: locks.ttl: "5m" is out of range; write a value from "1s" to "1m""#),
    (
        "locks.max_waiters = -1",
        &[],
        "error: locks.max_waiters: -1 is not a whole number of 0 or more; write one such as 50",
    ),
    (
        "log.audit = 'stderr'",
        &[],
        r#"error: log.audit: "stderr" is not a place for audit lines; write "off", "stdout" or a path with a slash in it, such as "/var/log/jetway/audit.jsonl""#,
    ),
    (
        "http.cors.origins = ['https://app.example.com', '*']",
        &[],
        r#"error: http.cors.origins[1]: "*" is not a page's origin as browsers write it; write scheme, host and, if it is not the usual one, port, in lower case, such as "https://app.example.com""#,
    ),
    (
        "http.cors.credentials = true",
        &[],
        "error: http.cors.credentials: is true, and no origin may send any; name the pages in http.cors.origins, or remove it",
    ),
    (
        "locks.store = 'postgres'",
        &[],
        r#"error: locks.store: "postgres" is not one of the choices; write "memory" or "redis""#,
    ),
    ("locks = 5", &[], "error: locks: is not a table; write it as { key = value, … }"),
    (
        "pool.process.memory_budget = '120%'",
        &[],
        r#"error: pool.process.memory_budget: "120%" is not an amount of memory; write a share of the host's from "1%" to "100%", or a size such as "8GiB""#,
    ),
    (
        "pool.process = { sandbox = 'none', sandbox_min = 'bwrap' }",
        &[],
        r#"error: pool.process.sandbox: is less than pool.process.sandbox_min, "bwrap"; write "auto", or lower sandbox_min"#,
    ),
    (
        "pool.process = { sandbox = 'landlock', sandbox_min = 'bwrap' }",
        &[],
        r#"error: pool.process.sandbox: is less than pool.process.sandbox_min, "bwrap"; write "auto", or lower sandbox_min"#,
    ),
    (
        "pool.process.upstream_proxy = 'https://proxy:3128'",
        &[],
        r#"error: pool.process.upstream_proxy: begins with https:; write the proxy's address with http: connections through it have TLS of their own"#,
    ),
    (
        "pool.process.uids = '0-10'",
        &[],
        r#"error: pool.process.uids: "0-10" is not a range of account numbers above 9999; write one that nobody has, such as "200000-265535""#,
    ),
    (
        "pool.process.sandbox_paths = ['tools']",
        &[],
        r#"error: pool.process.sandbox_paths[0]: "tools" is not an absolute path without `.` and `..`; write one such as "/srv/acme""#,
    ),
    (
        "pool.process.limits = { memory = '1MiB' }",
        &[],
        r#"error: pool.process.limits.memory: "1MiB" is out of range; write a value from "128MiB" to "1024TiB""#,
    ),
    (
        "pool.process.command = 'copilot'",
        &[],
        r#"error: pool.process.command: "copilot" is not a command; write "auto", or a list of the program and its arguments such as ["node", "copilot.js"]"#,
    ),
    (
        "pool.process.command = []",
        &[],
        r#"error: pool.process.command: a list is not a command; write "auto", or a list of the program and its arguments such as ["node", "copilot.js"]"#,
    ),
    (
        "pool.recycle.max_rss = '2 gigs'",
        &[],
        r#"error: pool.recycle.max_rss: "2 gigs" is not a size; write a number and a unit, such as "8GiB" or "512MB""#,
    ),
    (
        "pool.recycle.latency_factor = nan",
        &[],
        "error: pool.recycle.latency_factor: nan is out of range; write a value from 1.1 to 1000.0",
    ),
    (
        "limits.max_frame = '1KiB'",
        &[],
        r#"error: limits.max_frame: "1KiB" is out of range; write a value from "1MiB" to "512MiB""#,
    ),
    (
        "log.level = 'verbose'",
        &[],
        r#"error: log.level: "verbose" is not one of the choices; write "error" or "warn" or "info" or "debug" or "trace""#,
    ),
    (
        "redis.url = 'localhost:6379'",
        &[],
        r#"error: redis.url: the value is not a Redis URL; write "redis://host:6379", or "rediss://…" for TLS"#,
    ),
    // Listeners.
    (
        "listen.http = 'localhost:8080'",
        &[],
        r#"error: listen.http: "localhost:8080" is not an address; write "ip:port", such as "127.0.0.1:8080", or "off""#,
    ),
    (
        "listen.http = '127.0.0.1:4321'",
        &[],
        "error: listen.http: 127.0.0.1:4321 is taken by listen.sdk; give each its own port",
    ),
    (
        "listen.admin = '0.0.0.0:8080'",
        &[],
        "error: listen.admin: 0.0.0.0:8080 is taken by listen.http; give each its own port",
    ),
    (
        "listen = { sdk = 'off', http = 'off' }",
        &[],
        "error: listen.sdk: is off, and so is listen.http: there is nothing to serve; give one of them an address",
    ),
    (
        "listen.tls = { cert = 'cert.pem', ports = ['sdk', 'ssh'] }",
        &[],
        r#"error: listen.tls.key: is missing; add it to [listen.tls]
error: listen.tls.ports[1]: "ssh" is not one of the choices; write "sdk" or "http" or "admin""#,
    ),
    // Who may operate.
    (
        "listen.admin = '10.0.0.1:9090'
auth.keys = [{ id = 'a', tenant = 't', sha256 = '0000000000000000000000000000000000000000000000000000000000000000' }]",
        &[],
        r#"error: admin.token_env: is missing, and listen.admin = "10.0.0.1:9090" can be reached by other machines; name a variable or, as admin.token_file, a file that holds the operators' token; or put listen.admin on a loopback address"#,
    ),
    (
        "admin.token_env = 'OPS'",
        &[("OPS", "short-secret")],
        "error: admin.token_env: the token has fewer than 16 characters, so it can be guessed; make one with `openssl rand -hex 32`",
    ),
    (
        "admin = { token_env = 'OPS', token_file = 'missing' }",
        &[("OPS", "0123456789abcdef")],
        "error: admin.token_file: the file cannot be read: no such file; name a readable file that holds the secret",
    ),
    // Who may call.
    (
        "listen.http = '0.0.0.0:8080'",
        &[],
        r#"error: auth.anonymous: callers need no credential, and listen.http = "0.0.0.0:8080" can be reached by other machines; add the key that `jetway key new --tenant T` prints, or [auth.jwt], and leave auth.anonymous out; or put every listener on a loopback address"#,
    ),
    (
        "auth.anonymous = false",
        &[],
        "error: auth.anonymous: is false, and there is neither a key nor [auth.jwt]: nobody could call; add the key that `jetway key new --tenant T` prints, or [auth.jwt]",
    ),
    (
        "[[auth.keys]]
id = 'a_b'
tenant = 'a/b'
user = ''",
        &[],
        r#"error: auth.keys[0].id: must not contain '_': allowed are letters and digits; copy the entry that `jetway key new` printed
error: auth.keys[0].tenant: must not contain '/': allowed are letters, digits and `_ - . @ +`; write a name such as "acme"
error: auth.keys[0].sha256: is missing; add it to [[auth.keys]]
error: auth.keys[0].user: must not be empty; write a name such as "ada""#,
    ),
    (
        "[[auth.keys]]
id = 'a'
tenant = 't'
sha256 = 'jw_a_secret'",
        &[],
        "error: auth.keys[0].sha256: the value is not a SHA-256 of 64 hexadecimal digits; copy the entry that `jetway key new` printed, or hash a token with `printf %s TOKEN | sha256sum`",
    ),
    (
        "[auth]
keys = [
  { id = 'a', tenant = 't', sha256 = '0000000000000000000000000000000000000000000000000000000000000000' },
  { id = 'a', tenant = 't', sha256 = '0000000000000000000000000000000000000000000000000000000000000000' },
]",
        &[],
        "error: auth.keys[1].id: is already the id of auth.keys[0]; give each key an id of its own
error: auth.keys[1].sha256: is the same key as auth.keys[0]; remove one of the entries",
    ),
    (
        "auth.jwt = {}",
        &[],
        "error: auth.jwt.issuer: is missing; add it to [auth.jwt]
error: auth.jwt.audience: is missing; add it to [auth.jwt]
error: auth.jwt.jwks_url: is missing, and so is key_file; add one of them to [auth.jwt]",
    ),
    (
        "[auth.jwt]
issuer = 'i'
audience = 'a'
jwks_url = 'http://idp/keys'
algorithms = ['none']",
        &[],
        r#"error: auth.jwt.algorithms[0]: "none" is not one of the choices; write "HS256" or "HS384" or "HS512" or "RS256" or "RS384" or "RS512" or "PS256" or "PS384" or "PS512" or "ES256" or "ES384" or "EdDSA"
error: auth.jwt.jwks_url: is fetched in the clear, so that anybody on the way can replace the keys; use https"#,
    ),
    (
        "[auth.jwt]
issuer = 'i'
audience = 'a'
jwks_url = 'https://idp/keys'
algorithms = ['HS256']",
        &[],
        "error: auth.jwt.algorithms: HS256 needs a shared secret, and a key set is public; remove it, or give the secret as key_file instead of jwks_url",
    ),
    (
        "auth.jwt = { issuer = 'i', audience = 'a', jwks_url = 'https://idp/keys', key_file = 'key.pem' }",
        &[],
        "error: auth.jwt.key_file: the file cannot be read: no such file; name a readable file that holds the secret
error: auth.jwt.jwks_url: key_file is given as well; remove one of them",
    ),
    // Tenants.
    (
        "[tenants.default]
requests_per_second = 0
[tenants.acme]
[tenants.umbrella]",
        &[],
        "error: tenants.default.requests_per_second: 0 is out of range; write a value from 1 to 1000000",
    ),
    (
        "[tenants.'a b']
surface = 'all'",
        &[],
        r#"error: tenants."a b": must not contain ' ': allowed are letters, digits and `_ - . @ +`; write a name such as "acme"
error: tenants."a b".surface: "all" is not one of the choices; write "auto" or "full" or "shared""#,
    ),
    (
        "[tenants.acme.policy]
allow_addresses = ['10.0.0.5/8', 'a b']",
        &[],
        r#"error: tenants.acme.policy.allow_addresses[0]: "10.0.0.5/8" has bits set beyond its prefix; write "10.0.0.0/8"
error: tenants.acme.policy.allow_addresses[1]: "a b" is not an address rule; write a network, an address or a name, with a port or without, such as "10.0.0.0/8" or "ollama.internal:11434""#,
    ),
    (
        "[tenants.acme]
allow_methods = ['session.shell.*', 'session.*.exec', '*', 7]
deny_methods = 'ping'
policy.allow_paths = ['/srv/acme', 'srv', '/srv/../etc']
policy.host_tools = 'no'",
        &[],
        r#"error: tenants.acme.allow_methods[1]: "session.*.exec" is not a method or a group of methods; write a name such as "session.shell.exec", or a group such as "session.shell.*"
error: tenants.acme.allow_methods[2]: "*" is not a method or a group of methods; write a name such as "session.shell.exec", or a group such as "session.shell.*"
error: tenants.acme.allow_methods[3]: 7 is not a method or a group of methods; write a name such as "session.shell.exec", or a group such as "session.shell.*"
error: tenants.acme.deny_methods: is not a list; write it as [ … ]
error: tenants.acme.policy.allow_paths[1]: "srv" is not an absolute path without `.` and `..`; write one such as "/srv/acme"
error: tenants.acme.policy.allow_paths[2]: "/srv/../etc" is not an absolute path without `.` and `..`; write one such as "/srv/acme"
error: tenants.acme.policy.host_tools: "no" is neither true nor false; write true or false"#,
    ),
    (
        "[tenants.acme.provider]
api_key_env = 'KEY'
api_key_file = '/run/key'",
        &[],
        "error: tenants.acme.provider.base_url: is missing; add it to [tenants.acme.provider]
error: tenants.acme.provider.api_key_env: the environment variable KEY is not set; set KEY for Jetway, for example in its systemd unit or pod
error: tenants.acme.provider.api_key_file: the file cannot be read: no such file; name a readable file that holds the secret
error: tenants.acme.provider.api_key_env: api_key_file is given as well; remove one of them",
    ),
    (
        "[tenants.acme.provider]
base_url = 'https://u:p@models'
type = 'anthropic'
wire_api = 'responses'",
        &[],
        r#"error: tenants.acme.provider.base_url: the value is not a URL of http or https without user and password; write one such as "https://models.example.com/v1"
error: tenants.acme.provider.wire_api: is a choice that anthropic does not have; remove it"#,
    ),
    (
        "[tenants.acme.provider]
base_url = 'https://models/v1?key=x'
api_key_env = 'ghp_abc'",
        &[],
        "error: tenants.acme.provider.api_key_env: the value is not the name of an environment variable; put the secret into a variable, and its name (capital letters, digits and `_`) here
error: tenants.acme.provider.base_url: has a query, and the CLI appends paths to it; end it before the `?`",
    ),
    (
        "pool = { mode = 'fleet', fleet = [{ address = 'cli:1' }] }
tenants.default.surface = 'full'",
        &[],
        r#"error: tenants.default.surface: "full" would let any tenant into the sessions of the others on the fleet; write "auto" or "shared", or use pool.mode = "per-user""#,
    ),
    (
        "pool = { mode = 'fleet', fleet = [{ address = 'cli:1' }] }
tenants.acme.surface = 'full'",
        &[],
        r#"error: tenants.acme.surface: "full" is for a tenant that has the fleet for itself, and others may call too; write "auto" or "shared", or use pool.mode = "per-user""#,
    ),
    // CLI servers.
    (
        "pool.mode = 'fleet'",
        &[],
        r#"error: pool.fleet: is empty, and pool.mode is "fleet"; add a [[pool.fleet]] entry for each CLI server"#,
    ),
    (
        "[[pool.fleet]]
weight = 0",
        &[],
        "error: pool.fleet[0].address: is missing; add it to [[pool.fleet]]
error: pool.fleet[0].weight: 0 is out of range; write a value from 1 to 100",
    ),
    (
        "[[pool.fleet]]
address = 'cli'
token_env = 'CLI_TOKEN'",
        &[],
        r#"error: pool.fleet[0].address: "cli" is not a host and port; write them as "10.0.0.5:4321" or "cli-0.internal:4321"
error: pool.fleet[0].token_env: the environment variable CLI_TOKEN is not set; set CLI_TOKEN for Jetway, for example in its systemd unit or pod"#,
    ),
    (
        "pool.fleet = [{ address = 'cli:1' }, { address = 'CLI:1' }]",
        &[],
        "error: pool.fleet: cli:1 is listed twice; remove one of the entries",
    ),
    ("pool.fleet = { address = 'cli:1' }", &[], "error: pool.fleet: is not a list; write it as [ … ]"),
    ("pool.fleet = ['cli:1']", &[], "error: pool.fleet[0]: is not a table; write it as { key = value, … }"),
    (
        "pool.kubernetes.namespace = 'users'",
        &[],
        "error: pool.kubernetes: is not available yet; run CLI servers with [pool.process], or list running ones as [[pool.fleet]]",
    ),
    (
        "pool.health = { interval = '1s', timeout = '2s' }",
        &[],
        "error: pool.health.timeout: is longer than pool.health.interval, 1s; make it at most as long, so that probes do not overlap",
    ),
    (
        "limits = { max_frame = '1MiB', max_http_body = '1MiB' }",
        &[],
        "error: limits.max_http_body: a request of that size does not fit into a frame of limits.max_frame; make it smaller by 4KiB or more than limits.max_frame, or raise that",
    ),
    // The environment.
    (
        "",
        &[("JETWAY__POOL__MOD", "fleet")],
        "error: pool.mod (set by JETWAY__POOL__MOD): unknown key; did you mean `pool.mode`?",
    ),
    (
        "",
        &[("JETWAY__POOL__MODE", "flet")],
        r#"error: pool.mode (set by JETWAY__POOL__MODE): "flet" is not one of the choices; write "per-user" or "fleet""#,
    ),
    (
        "",
        &[("JETWAY__LOCKS__MAX_WAITERS", "-1")],
        "error: locks.max_waiters (set by JETWAY__LOCKS__MAX_WAITERS): -1 is not a whole number of 0 or more; write one such as 50",
    ),
    (
        "",
        &[("JETWAY__LOCKS__TTL", "")],
        r#"error: locks.ttl (set by JETWAY__LOCKS__TTL): "" is not a duration; write a number and a unit, such as "10s" or "15m""#,
    ),
    (
        "",
        &[("JETWAY__LOCKS", "{ ttl = '1ns' }")],
        r#"error: locks.ttl (set by JETWAY__LOCKS): "1ns" is not a duration; write a number and a unit, such as "10s" or "15m""#,
    ),
    (
        "",
        &[("JETWAY__LOCKS", "{}"), ("JETWAY__LOCKS__TTL", "5s")],
        "error: locks (set by JETWAY__LOCKS__TTL): JETWAY__LOCKS sets all of it already; unset one of them",
    ),
    (
        "",
        &[("JETWAY__LOCKS__TTL", "5s"), ("JETWAY__locks__ttl", "6s")],
        "error: locks.ttl (set by JETWAY__locks__ttl): JETWAY__LOCKS__TTL sets it too; unset one of them",
    ),
    (
        "pool.fleet = [{ address = 'cli:1' }]",
        &[("JETWAY__POOL__FLEET__0__ADDRESS", "cli:2")],
        "error: pool.fleet (set by JETWAY__POOL__FLEET__0__ADDRESS): is not a table, so that nothing within it can be set; set all of it: JETWAY__POOL__FLEET",
    ),
    (
        "",
        &[("JETWAY__POOL__FLEET", "cli:1")],
        "error: pool.fleet (set by JETWAY__POOL__FLEET): is not a list; write it as [ … ]",
    ),
    (
        "",
        &[("JETWAY__A__B__C__D__E__F__G__H__I", "")],
        "error: a.b… (set by JETWAY__A__B__C__D__E__F__G__H__I): no key lies so deep; unset the variable",
    ),
    // What is not TOML: all of it, and no values.
    (
        "a = 1
a = 2
redis.url = hunter2
[auth",
        &[],
        "error: jetway.toml:2:1: is not TOML: duplicate key; mend the line
error: jetway.toml:3:13: is not TOML: string values must be quoted, expected literal string; mend the line
error: jetway.toml:4:6: is not TOML: unclosed table, expected `]`; mend the line",
    ),
    // Everything at once: what is wrong in itself, in relation to others, and in the environment.
    (
        "[listen]
http = '0.0.0.0:8080'
[pool]
mod = 'fleet'
process = { memory_budget = 'lots', idle_timeout = '1s1h' }
health = { interval = '1s', timeout = '2s' }
[locks]
ttl = '10 lightyears'",
        &[("JETWAY__DRAIN__TIMEOUT", "soon")],
        r#"error: pool.process.memory_budget: "lots" is not an amount of memory; write a share of the host's from "1%" to "100%", or a size such as "8GiB"
error: pool.process.idle_timeout: "1s1h" is not a duration; write a number and a unit, such as "10s" or "15m"
error: pool.health.timeout: is longer than pool.health.interval, 1s; make it at most as long, so that probes do not overlap
error: pool.mod: unknown key; did you mean `pool.mode`?
error: locks.ttl: "10 lightyears" is not a duration; write a number and a unit, such as "10s" or "15m"
error: drain.timeout (set by JETWAY__DRAIN__TIMEOUT): "soon" is not a duration; write a number and a unit, such as "10s" or "15m"
error: auth.anonymous: callers need no credential, and listen.http = "0.0.0.0:8080" can be reached by other machines; add the key that `jetway key new --tenant T` prints, or [auth.jwt], and leave auth.anonymous out; or put every listener on a loopback address"#,
    ),
];

#[test]
fn every_bad_configuration_is_explained() {
    let mut wrong = 0;
    for (toml, env, expected) in CASES {
        let actual = match Config::load(&Sources::fixed(toml, env)) {
            Ok(_) => "no error".to_owned(),
            Err(errors) => errors.to_string(),
        };
        if actual != *expected {
            wrong += 1;
            eprintln!("--- {toml} {env:?}\nexpected:\n{expected}\nactual:\n{actual}\n");
        }
    }
    assert_eq!(wrong, 0, "messages differ");
}
