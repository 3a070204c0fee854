//! What the gateway's tests share: configurations, a gateway in this process, a raw client, the real program.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod client;
pub mod http;
pub mod issuer;
pub mod program;
pub mod runtime;
pub mod trap;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use jetway_config::{ApiKey, Config, Sources};
use jetway_gateway::App;
use jetway_loadtest::stub::{Options, Stub};
use metrics_exporter_prometheus::PrometheusBuilder;

/// The longest that anything may take that has no shorter limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Free ports, no HTTP, everything on loopback.
const LISTEN: &str = "listen = { sdk = \"127.0.0.1:0\", http = \"off\", admin = \"127.0.0.1:0\" }\n";

/// What a session may be waiting for, none of which is idle, and a prompt of the stub's for each.
pub const BUSY: [(&str, &str); 4] = [
    ("turn", "[[say so far]] [[hang]]"),
    ("permission", "[[permission]]"),
    ("tool", "[[tool weather]]"),
    ("question", "[[userinput]]"),
];

/// No limit in the way, for tests of something else.
const ROOM: &str = "tenants.default = { max_concurrent_turns = 100000, max_active_sessions = 100000, max_processes = 100000, \
     requests_per_second = 1000000, user_share = \"100%\" }\n";

fn room(more: &str) -> &'static str {
    if more.contains("tenants.default") { "" } else { ROOM }
}

/// A configuration for servers that run already. `more` is added before the first table.
pub fn fleet(servers: &[SocketAddr], more: &str) -> String {
    fleet_of(servers, "", more)
}

/// The same, with something said of each server.
pub fn fleet_of(servers: &[SocketAddr], each: &str, more: &str) -> String {
    let health = "pool.health = { interval = \"1s\", timeout = \"1s\", cooldown = \"100ms\" }\n";
    let directory = if more.contains("directory") { String::new() } else { a_directory() };
    // Tests of crowds have few servers.
    let places = if more.contains("pool.max_active") { "" } else { "pool.max_active_sessions = 100000\n" };
    let room = room(more);
    let mut toml = format!("{LISTEN}{health}{places}{directory}{room}pool.mode = \"fleet\"\n{more}\n");
    for server in servers {
        toml.push_str(&format!("[[pool.fleet]]\naddress = \"{server}\"\n{each}"));
    }
    toml
}

/// A session directory of one's own.
fn a_directory() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).join("directory.sqlite");
    // What an earlier process of that number left behind is not ours.
    let _ = std::fs::remove_dir_all(path.parent().unwrap());
    format!("directory.path = \"{}\"\n", path.display())
}

/// A configuration for processes of the users' own, `program` each.
pub fn per_user(program: &Path, state_dir: &Path, more: &str) -> String {
    let (program, state_dir) = (program.display(), state_dir.display());
    format!(
        "{LISTEN}{}pool.process = {{ command = [\"{program}\"], state_dir = \"{state_dir}\", sandbox = \"none\" }}\n{more}\n",
        room(more)
    )
}

/// A gateway in this process.
pub struct Gateway {
    pub app: App,
    pub sdk: SocketAddr,
    /// If it is on.
    pub http: Option<SocketAddr>,
    pub admin: SocketAddr,
}

/// Starts one.
pub async fn start(toml: &str) -> Gateway {
    start_from(&Sources::fixed(toml, &[])).await
}

/// Starts one whose configuration has files beside it.
pub async fn start_from(sources: &Sources) -> Gateway {
    let config = Config::load(sources).unwrap_or_else(|e| panic!("{e}"));
    // A recorder of its own that nobody records to: the global one can be installed once only.
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let app = App::start(config, metrics).await.unwrap();
    let addresses = app.addresses();
    Gateway { app, sdk: addresses.sdk.unwrap(), http: addresses.http, admin: addresses.admin.unwrap() }
}

/// The same configuration, with HTTP.
pub fn with_http(toml: &str) -> String {
    toml.replace("http = \"off\"", "http = \"127.0.0.1:0\"")
}

/// A stub and a gateway before it, with `servers` servers.
pub async fn start_fleet(servers: usize, more: &str) -> (Stub, Gateway) {
    let stub = stub(servers);
    let gateway = start(&fleet(stub.addrs(), more)).await;
    (stub, gateway)
}

/// CLI servers that keep their own state.
pub fn stub(servers: usize) -> Stub {
    Stub::start(Options { servers, ..Options::default() }).unwrap()
}

/// Waits until `holds`, and fails after [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value that `share` of the sorted samples stay under.
pub fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    assert!(!samples.is_empty());
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * share).round() as usize]
}

/// Whether the long forms of the checks were asked for.
pub fn long() -> bool {
    std::env::var_os("JETWAY_LONG").is_some_and(|v| v == "1")
}

/// The real runtime: the one that `JETWAY_TEST_RUNTIME` names, else what npm installed for the tests.
pub fn runtime(test: &str) -> Option<PathBuf> {
    const INSTALLED: &str =
        "../loadtest/node_modules/@github/copilot-sdk-linux-x64/prebuilds/linux-x64/copilot-runtime";
    let named = std::env::var_os("JETWAY_TEST_RUNTIME").map(PathBuf::from);
    let path = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(INSTALLED));
    let found = path.canonicalize().ok();
    if found.is_none() {
        eprintln!(
            "SKIPPED {test}: no copilot-runtime at {}; `deploy/setup test` installs it",
            path.display()
        );
    }
    found
}

/// A key of a tenant's, and its entry.
pub fn key(tenant: &str) -> (String, String) {
    let key = ApiKey::generate();
    let entry = key.entry(tenant.parse().unwrap());
    let (id, hash) = (&entry.id, entry.sha256.to_hex());
    (key.expose().to_owned(), format!("{{ id = \"{id}\", tenant = \"{tenant}\", sha256 = \"{hash}\" }}"))
}

/// A program that is a CLI: the stub, as built beside the gateway for the tests.
pub fn stub_cli(test: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_jetway")).with_file_name("stub-cli");
    if !path.exists() {
        eprintln!("SKIPPED {test}: no {}; `cargo build --bins` builds it", path.display());
    }
    path.exists().then_some(path)
}

/// An address of this machine at which nobody listens, and which nobody else gets while the socket lives.
pub fn deaf_address() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}
