//! Good configurations: layers, inheritance, what is printed and what is never printed.

use jetway_config::{
    Config, ConfigErrors, MemoryBudget, Sources, TenantId,
    listen::Port,
    pool::{Command, PoolMode},
    sandbox::{Level, ProcessLimits, Sandbox},
    secret::REDACTED,
    stores::LockStore,
    tenants::Surface,
};
use std::time::Duration;

/// Every key that there is.
const FULL: &str = r#"
[listen]
sdk = "0.0.0.0:4321"
http = "[::]:8443"
admin = "127.0.0.1:0"
tls = { cert = "tls.crt", key = "tls.key", ports = ["http"] }

[admin]
token_file = "ops.secret"

[auth]
anonymous = false
[[auth.keys]]
id = "ops"
tenant = "acme"
sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
[[auth.keys]]
id = "old"
tenant = "acme"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
user = "ada"
[auth.jwt]
issuer = "https://idp.example.com"
audience = "jetway"
key_file = "jwt.secret"
tenant_claim = "org"
user_claim = "email"
algorithms = ["HS256", "HS512"]

[tenants.default]
requests_per_second = 10
policy = { allow_addresses = ["10.0.0.0/8:443", "ollama.internal"] }
[tenants.default.provider]
type = "azure"
base_url = "https://models.example.com/v1"
model = "gpt"
api_key_env = "MODEL_KEY"
wire_api = "responses"
[tenants.Acme]
max_active_sessions = 7
max_waiting_turns = 0
max_connections = 9
max_bytes_in_flight = "1GiB"
user_share = "25%"
surface = "shared"
allow_methods = ["session.shell.*"]
deny_methods = ["session.shell.kill"]
[tenants."b.c"]
provider = { base_url = "http://127.0.0.1:11434", api_key_file = "key.secret" }
policy = { allow_addresses = [], allow_paths = ["/srv/b.c/"], host_tools = true, permissions = ["ask"] }

[pool]
mode = "fleet"
max_active_sessions = 20
[pool.process]
command = ["node", "copilot.js"]
state_dir = "/var/lib/jetway"
max_processes = 10
memory_budget = "8GiB"
idle_timeout = "1h30m"
sandbox = "bwrap"
sandbox_min = "bwrap"
sandbox_paths = ["/opt/tools"]
upstream_proxy = "http://proxy.example.com:3128"
uids = "200000-200999"
start_timeout = "20s"
[pool.process.limits]
memory = "1GiB"
cpu = 1.5
processes = 200
disk = "500MB"
[[pool.fleet]]
address = "10.0.0.5:4321"
token_env = "CLI_TOKEN"
weight = 3
state = "shared-a"
[[pool.fleet]]
address = "[fd00::1]:4321"
[pool.recycle]
max_age = "1d"
max_sessions = 1000
max_rss = "1500MB"
latency_factor = 3
[pool.health]
interval = "5s"
timeout = "500ms"
failures = 2
cooldown = "1m"

[http]
answer_within = "1h"
cors = { origins = ["https://app.example.com"], credentials = true }
[locks]
store = "redis"
ttl = "5s"
wait = "1m"
max_waiters = 0
[directory]
store = "redis"
path = "directory.sqlite"
[redis]
url = "rediss://jetway:redis-canary@cache:6380/1"
[drain]
timeout = "45s"
[log]
format = "json"
level = "debug"
audit = "/var/log/jetway/audit.jsonl"

[limits]
max_frame = "32MiB"
max_http_body = "8MiB"
max_connections = 1000
max_in_flight = 64
max_sessions_per_connection = 32
max_concurrent_turns = 64
max_waiting_turns = 128
turn_wait = "20s"
handshake_timeout = "2s"
partial_frame_timeout = "3s"
stalled_write_timeout = "4s"
cli_start_attempts = 1
"#;

fn full(env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env: Vec<_> =
        [("MODEL_KEY", "model-canary"), ("CLI_TOKEN", "cli-canary")].iter().chain(env).copied().collect();
    let files = Sources::fixed(FULL, &env)
        .with_file("jwt.secret", "jwt-canary\n")
        .with_file("key.secret", "file-canary")
        .with_file("ops.secret", "operators-canary");
    Config::load(&files)
}

fn load(toml: &str, env: &[(&str, &str)]) -> Config {
    Config::load(&Sources::fixed(toml, env)).unwrap_or_else(|e| panic!("{e}"))
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

#[test]
fn defaults_are_those_of_the_product_page() {
    let config = load("", &[]);
    let address = |port| config.listen.address(port).unwrap().to_string();
    assert_eq!(Port::ALL.map(address), ["127.0.0.1:4321", "127.0.0.1:8080", "127.0.0.1:9090"]);
    assert!(config.auth.anonymous && config.auth.keys.is_empty());
    let limits = config.tenants.get(&tenant("anybody"));
    assert_eq!((limits.max_active_sessions, limits.max_concurrent_turns), (50, 20));
    assert_eq!((limits.max_processes, limits.requests_per_second), (200, 50));
    assert_eq!((config.pool.mode, config.pool.max_active_sessions), (PoolMode::PerUser, 50));
    assert_eq!(config.pool.process.command, Command::Auto);
    assert_eq!(config.pool.process.memory_budget, MemoryBudget::Percent(50));
    assert_eq!(config.pool.process.idle_timeout, Duration::from_secs(900));
    assert_eq!((config.pool.process.sandbox, config.pool.process.sandbox_min), (Sandbox::Auto, Level::None));
    assert_eq!(config.pool.process.limits, ProcessLimits::default());
    assert_eq!((config.locks.store, config.locks.max_waiters), (LockStore::Memory, 100));
    assert_eq!((config.locks.ttl, config.locks.wait), (Duration::from_secs(10), Duration::from_secs(30)));
    assert_eq!(config.directory.path.to_str(), Some("./jetway-state/~jetway/directory.sqlite"));
    assert_eq!(config.redis.url.expose(), "redis://127.0.0.1:6379");
    assert_eq!(config.limits, jetway_config::Limits::default());
    let (fixed, live) = config.split();
    assert!(live.full_surface(&tenant("anybody"), fixed.pool.mode));
}

#[test]
fn a_file_may_say_everything() {
    let config = full(&[]).unwrap();
    assert_eq!(config.listen.tls(Port::Http).unwrap().cert.to_str(), Some("tls.crt"));
    assert!(config.listen.tls(Port::Sdk).is_none());
    let jwt = config.auth.jwt.as_ref().unwrap();
    assert!(matches!(&jwt.keys, jetway_config::jwt::JwtKeys::Key(key) if key.expose() == "jwt-canary"));
    let process = &config.pool.process;
    assert_eq!((process.sandbox_min, process.sandbox_paths[0].as_str()), (Level::Bwrap, "/opt/tools"));
    assert!(process.uids.is_some_and(|uids| uids.contains(200_999) && !uids.contains(201_000)));
    assert_eq!(process.upstream_proxy.as_ref().unwrap().as_str(), "http://proxy.example.com:3128");
    assert_eq!((process.limits.cpu, process.limits.disk.0), (Some(1.5), 500_000_000));
    assert_eq!(config.pool.fleet[0].token.as_ref().unwrap().expose(), "cli-canary");
    assert_eq!(config.pool.fleet[0].state.as_ref().unwrap().as_str(), "shared-a");
    assert_eq!(config.pool.fleet[1].address.to_string(), "[fd00::1]:4321");
    assert_eq!(config.pool.recycle.max_rss.unwrap().0, 1_500_000_000);
    let (fixed, live) = config.split();
    assert!(!live.full_surface(&tenant("anybody"), fixed.pool.mode));
}

#[test]
fn tenants_inherit_key_by_key_and_providers_whole() {
    let config = full(&[]).unwrap();
    let (acme, bc) = (config.tenants.get(&tenant("Acme")), config.tenants.get(&tenant("b.c")));
    assert_eq!((acme.max_active_sessions, acme.requests_per_second), (7, 10));
    assert_eq!((acme.surface, bc.surface), (Surface::Shared, Surface::Auto));
    assert!(acme.allow_methods[0].matches("session.shell.kill") && bc.allow_methods.is_empty());
    assert!(acme.deny_methods[0].matches("session.shell.kill"));
    assert!(bc.policy.host_tools && !acme.policy.host_tools);
    assert!(bc.policy.allows_path("/srv/b.c/repo") && !acme.policy.allows_path("/srv/b.c/repo"));
    assert_eq!(acme.provider, config.tenants.default.provider);
    let provider = bc.provider.as_ref().unwrap();
    assert_eq!(provider.base_url.as_str(), "http://127.0.0.1:11434");
    assert_eq!(provider.api_key.as_ref().unwrap().expose(), "file-canary");
    assert!(provider.model.is_none());
    let private = "10.0.0.1".parse().unwrap();
    assert!(acme.policy.allows("x", private, 443) && !acme.policy.allows("x", private, 80));
    assert!(!bc.policy.allows("x", private, 443));
}

#[test]
fn the_environment_overrides_any_kind_of_key() {
    let config = full(&[
        ("JETWAY__POOL__MODE", "per-user"),
        ("JETWAY__AUTH__ANONYMOUS", "false"),
        ("JETWAY__LOCKS__MAX_WAITERS", "5"),
        ("JETWAY__LOCKS__TTL", "7s"),
        ("JETWAY__POOL__RECYCLE__LATENCY_FACTOR", "2.5"),
        ("JETWAY__POOL__PROCESS__COMMAND", "['copilot', '--x']"),
        ("JETWAY__POOL__FLEET", "[{ address = 'cli:1', weight = 9 }]"),
        ("JETWAY__POOL__HEALTH", "{ failures = 9 }"),
        ("JETWAY__TENANTS__ACME__MAX_PROCESSES", "3"),
        ("JETWAY__TENANTS__NEW__MAX_PROCESSES", "4"),
        ("JETWAY__DIRECTORY__PATH", "5"),
        ("JETWAY_UNRELATED", "x"),
    ])
    .unwrap();
    assert_eq!((config.pool.mode, config.locks.max_waiters), (PoolMode::PerUser, 5));
    assert_eq!((config.locks.ttl, config.pool.recycle.latency_factor), (Duration::from_secs(7), Some(2.5)));
    let args = vec!["--x".to_owned()];
    assert_eq!(config.pool.process.command, Command::Program { program: "copilot".to_owned(), args });
    assert_eq!((config.pool.fleet.len(), config.pool.fleet[0].weight), (1, 9));
    // A whole table replaces the file's.
    assert_eq!((config.pool.health.failures, config.pool.health.interval), (9, Duration::from_secs(2)));
    // The file's spelling of the name is kept.
    assert_eq!(config.tenants.named.keys().map(TenantId::as_str).collect::<Vec<_>>(), ["Acme", "b.c", "new"]);
    assert_eq!(config.tenants.get(&tenant("Acme")).max_processes, 3);
    assert_eq!(config.directory.path.to_str(), Some("5"));
}

#[test]
fn what_is_printed_loads_to_the_same_effect() {
    for config in [load("", &[]), full(&[]).unwrap()] {
        let printed = config.to_toml_redacted();
        let hash = "f".repeat(64);
        // One hash differs from the other, as they must.
        let mended = printed
            .replacen(REDACTED, &"e".repeat(64), 1)
            .replace(&format!("\"{REDACTED}\""), &format!("\"{hash}\""));
        let sources = Sources::fixed(&mended, &[("MODEL_KEY", "k"), ("CLI_TOKEN", "t")]);
        let again = Config::load(
            &sources
                .with_file("jwt.secret", "s")
                .with_file("key.secret", "k")
                .with_file("ops.secret", "0123456789abcdef"),
        );
        assert_eq!(
            again.unwrap_or_else(|e| panic!("{printed}\n{e}")).to_toml_redacted().replace(&hash, REDACTED),
            printed
        );
    }
}

#[test]
fn nothing_secret_is_ever_shown() {
    let config = full(&[]).unwrap();
    let shown = [format!("{config:?}"), format!("{config:#?}"), config.to_toml_redacted()];
    // The canaries, and a stored hash in any form.
    for text in &shown {
        for secret in ["canary", "ba7816bf", "186, 120, 22", "0000000000"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    assert!(shown[2].contains("rediss://<redacted>@cache:6380/1"));
    assert!(shown[2].contains("sha256 = \"<redacted>\""));
}

#[test]
fn errors_do_not_show_secrets_that_are_misplaced_or_malformed() {
    let cases = [
        "redis.url = 'canary'",
        "redis.url = ['canary']",
        "redis.url = canary",
        "redis.url = 'canary",
        "redis.url = 20252025202520252025202520252025",
        "redis.password = 'canary'",
        "redis = 'canary'",
        "tenants.acme.provider = { base_url = 'https://canary@x', api_key = 'canary' }",
        "tenants.acme.provider = { base_url = 'https://x?key=canary', api_key_env = 'canary' }",
        "tenants.acme.provider = { base_url = 'https://x', api_key_file = 'canary' }",
        "tenants.acme.provider = 'canary'",
        "auth.keys = [{ id = 'jw_a_canary', tenant = 't', sha256 = 'canary' }]",
        "auth.keys = [{ id = 'a', tenant = 't', sha256 = 20252025 }]",
        "auth.keys = ['canary']",
        "auth.keys = 'canary'",
        "auth.jwt = { issuer = 'i', audience = 'a', key_file = 'canary' }",
        "auth.jwt = { issuer = 'i', audience = 'a', jwks_url = 'canary' }",
        "pool.fleet = [{ address = 'a:1', token = 'canary' }]",
        "pool.fleet = [{ address = 'a:1', token_env = 'canary' }]",
        "pool.fleet = [{ address = 'a:1', token_env = 20252025 }]",
    ];
    for toml in cases {
        let variable = toml.split_once(" = ").map(|(key, value)| {
            (
                format!("JETWAY__{}", key.to_uppercase().replace('.', "__")),
                value.trim_matches('\'').to_owned(),
            )
        });
        let (name, value) = variable.unwrap();
        for sources in [Sources::fixed(toml, &[]), Sources::fixed("", &[(&name, &value)])] {
            let errors = Config::load(&sources).expect_err(toml);
            for text in [errors.to_string(), format!("{errors:?}")] {
                assert!(!text.contains("canary") && !text.contains("20252025"), "{toml}: {text}");
            }
        }
    }
}
