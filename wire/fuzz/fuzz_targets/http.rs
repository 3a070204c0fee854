#![no_main]
//! Whatever stands in the body of an HTTP request gets an answer that is not the gateway's own fault.

use std::{
    cell::RefCell,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::OnceLock,
    time::Duration,
};

use jetway_config::{Config, Sources};
use jetway_gateway::App;

/// Requests that have a body.
const REQUESTS: [&str; 11] = [
    "POST /api/v1/sessions",
    "PATCH /api/v1/sessions/latest",
    "POST /api/v1/sessions/latest/messages",
    "POST /api/v1/sessions/latest/requests/1",
    "PUT /api/v1/sessions/latest/members/bob",
    "POST /api/v1/analyze",
    "POST /api/v1/chat",
    "POST /api/v1/chat/start",
    "POST /api/v1/chat/message",
    "POST /api/v1/chat/end",
    "POST /api/v1/team-chat",
];

/// Longer than any wait of the gateway's own that these requests can meet.
const PATIENCE: Duration = Duration::from_secs(120);

thread_local! {
    static CONNECTION: RefCell<Option<TcpStream>> = const { RefCell::new(None) };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    let request = REQUESTS[usize::from(*which) % REQUESTS.len()];
    CONNECTION.with_borrow_mut(|kept| {
        let connection = kept.take().unwrap_or_else(connect);
        let (status, connection) = ask(connection, request, body);
        assert!((200..500).contains(&status) || matches!(status, 501..=504), "{request}: {status}");
        *kept = connection;
    });
});

fn connect() -> TcpStream {
    let stream = TcpStream::connect(address()).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// The gateway, without a CLI server: it lives as long as this process.
fn address() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let toml = "listen = { sdk = 'off', http = '127.0.0.1:0', admin = 'off' }\n\
                    directory.path = ':memory:'\n\
                    tenants.default.requests_per_second = 1000000\n\
                    pool.mode = 'fleet'\n[[pool.fleet]]\naddress = '127.0.0.1:1'\n";
        let config = Config::load(&Sources::fixed(toml, &[])).unwrap_or_else(|e| panic!("{e}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Box::leak(Box::new(runtime.expect("a runtime")));
        let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let app = runtime.block_on(App::start(config, metrics)).expect("it starts");
        let address = app.addresses().http.expect("HTTP is on");
        std::mem::forget(app);
        address
    })
}

/// The answer's status, and the connection if it can be used again.
fn ask(mut stream: TcpStream, request: &str, body: &[u8]) -> (u16, Option<TcpStream>) {
    let mut bytes = format!(
        "{request} HTTP/1.1\r\nHost: a\r\nJetway-User: ada\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).expect("it reads");
    let (mut answer, mut buf) = (Vec::new(), [0; 4096]);
    let head = loop {
        let n = stream.read(&mut buf).expect("it answers in time");
        assert!(n > 0, "{request}: closed without an answer");
        answer.extend_from_slice(&buf[..n]);
        if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let status = text[9..12].parse().expect("a status");
    let length = text.split("content-length: ").nth(1).and_then(|t| t.split('\r').next()?.parse::<usize>().ok());
    let Some(length) = length.filter(|_| !text.contains("connection: close")) else { return (status, None) };
    while answer.len() < head + length {
        let n = stream.read(&mut buf).expect("it ends its answer");
        assert!(n > 0, "{request}: half an answer");
        answer.extend_from_slice(&buf[..n]);
    }
    (status, Some(stream))
}
