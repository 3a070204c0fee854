//! What clients cost that send too much, too little, or do not read: memory of the real program, as the kernel
//! counts it (`VmRSS`, `VmHWM`).
//!
//! The numbers are of the build under test; a debug build's futures are larger than a release build's.

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{PATIENCE, client::Client, long, program::Program, stub};
use jetway_config::KeyHash;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, time::sleep};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// What a process of several threads' memory goes up and down by, whatever it does.
const NOISE: u64 = 512 * KIB;

fn guarded(more: &str) -> String {
    let hash = KeyHash::of("token").to_hex();
    format!("auth.keys = [{{ id = \"k\", tenant = \"t\", user = \"u\", sha256 = \"{hash}\" }}]\n{more}")
}

/// Connects `n` times, to completion.
async fn crowd(sdk: SocketAddr, n: usize, known: bool) -> Vec<Client> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(if known { Client::hello(sdk, "token").await } else { Client::dial(sdk).await });
    }
    all
}

/// Check 18.
#[tokio::test]
async fn check_18_ten_gigabytes_announced() {
    const EACH: u64 = 200;
    let stub = stub(1);
    let jetway = Program::start(&common::fleet(stub.addrs(), &guarded("")));
    let rest = vec![b'x'; MIB as usize];
    for known in [false, true] {
        // The first round warms up: threads' own buffers, and the allocator.
        for round in 0..2 {
            let mut all = crowd(jetway.sdk, EACH as usize, known).await;
            sleep(Duration::from_millis(200)).await;
            jetway.reset_peak();
            let before = jetway.memory("VmRSS");
            for client in &mut all {
                client.send_raw(b"Content-Length: 10000000000\r\n\r\n{").await.unwrap();
                // Whoever announces much sends much.
                let _ = client.send_raw(&rest).await;
            }
            for client in &mut all {
                assert!(client.closes(Duration::from_secs(1)).await, "refused");
            }
            let each = jetway.memory("VmHWM").saturating_sub(before) / EACH;
            if known {
                // What may be sent is held, and the measure shows it.
                let mut client = Client::hello(jetway.sdk, "token").await;
                client.send_raw(b"Content-Length: 8000000\r\n\r\n").await.unwrap();
                for _ in 0..4 {
                    client.send_raw(&rest).await.unwrap();
                }
                common::until("held", || jetway.memory("VmHWM") > before + 3 * MIB).await;
            }
            if round == 1 {
                println!(
                    "CHECK 18: 10 GB announced, known: {known}: at most {each} bytes each more than before"
                );
                assert!(each <= 64 * KIB, "{each}");
            }
        }
    }
}

/// Check 24: what strangers cost who are silent, or whose frame is nearly whole.
#[tokio::test]
async fn check_24_two_thousand_strangers() {
    const STRANGERS: usize = 2000;
    // The longest header and the longest body that a stranger may send, but for the last byte.
    let header = format!("X: {}\r\nContent-Length: 4096\r\n\r\n", "x".repeat(480));
    let unfinished = [header.as_bytes(), &[b'x'; 4095]].concat();
    let mut too_much = Vec::new();
    for (what, bytes) in [("silent", &b""[..]), ("with most of a frame", &unfinished)] {
        let stub = stub(1);
        // None is closed while it is counted, however slow the machine.
        let patient = guarded("limits.handshake_timeout = \"60s\"");
        let jetway = Program::start(&common::fleet(stub.addrs(), &patient));
        drop(crowd(jetway.sdk, 20, true).await);
        let before = jetway.memory("VmRSS");
        let mut all = crowd(jetway.sdk, STRANGERS, false).await;
        // In two parts, the first just over half: the hardest way to buffer it.
        for part in [&bytes[..bytes.len() * 51 / 100], &bytes[bytes.len() * 51 / 100..]] {
            for client in &mut all {
                client.send_raw(part).await.unwrap();
            }
        }
        // Taken after all of theirs.
        let mut known = Client::hello(jetway.sdk, "token").await;
        known.call("ping", json!({})).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        let each = jetway.memory("VmRSS").saturating_sub(before) / STRANGERS as u64;
        println!("CHECK 24: {STRANGERS} strangers, {what}: {each} bytes each");
        if each > 8 * KIB {
            too_much.push(format!("{what}: {each} bytes each"));
        }
        known.call("ping", json!({})).await.unwrap();
    }
    assert_eq!(too_much, Vec::<String>::new());
}

/// Check 24: and how long they may stay, by the product's own timeout.
#[tokio::test]
async fn check_24_strangers_are_closed() {
    let stub = stub(1);
    let jetway = Program::start(&common::fleet(stub.addrs(), &guarded("")));
    let mut strangers = tokio::task::JoinSet::new();
    // More at once than the kernel queues for accepting would be dialled again, much later.
    let dialling = std::sync::Arc::new(tokio::sync::Semaphore::new(64));
    for n in 0..2000 {
        let (sdk, dialling) = (jetway.sdk, dialling.clone());
        strangers.spawn(async move {
            let turn = dialling.acquire().await;
            let mut client = Client::dial(sdk).await;
            drop(turn);
            let since = Instant::now();
            client.send_raw(&b"Content-Length: 100\r\n\r\n{"[..n % 20]).await.unwrap();
            assert!(client.closes(2 * PATIENCE).await, "still open");
            since.elapsed()
        });
    }
    let mut all = strangers.join_all().await;
    let (half, last) = (common::quantile(&mut all, 0.5), common::quantile(&mut all, 1.0));
    println!("CHECK 24: 2,000 strangers, closed after {half:.2?} (median), {last:.2?} (the last)");
    assert!(half < Duration::from_millis(5500), "{half:?}");
    // As many at once take this machine a while to dial and to close.
    assert!(last < Duration::from_secs(8), "{last:?}");
}

/// This process's own memory, of which the stub CLI's is nearly all that changes.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * KIB
}

/// A client whose kernel takes hardly anything for it.
async fn narrow(sdk: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(sdk).await.unwrap()
}

/// Check 20: one is told much and one asks much, and neither reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_20_clients_that_never_read() {
    let (stall, watched) = if long() { (30, 60) } else { (4, 8) };
    let stub = stub(1);
    // Its turn would go on, and the server's connection with it.
    let limits = format!("pool.keep_turns = \"0s\"\nlimits = {{ stalled_write_timeout = \"{stall}s\" }}");
    let jetway = Program::start(&common::fleet(stub.addrs(), &limits));
    let mut bystander = Client::hello(jetway.sdk, "bystander").await;
    let connections = stub.stats(0).connections;
    // The same before it counts, by somebody who reads.
    let mut reader = Client::hello(jetway.sdk, "reader").await;
    reader.create("warm").await;
    reader.turn("warm", "[[quiet]] [[deltas 200 60000 0]]").await;
    drop(reader);

    let (before, own) = (jetway.memory("VmRSS"), own_memory());
    let mut listener = narrow(jetway.sdk).await;
    let prompt = "[[quiet]] [[deltas 200 60000 0]] [[deltas 100000 1000 1]]";
    for (id, method, params) in [
        (0, "connect", json!({ "token": "listener" })),
        (1, "session.create", json!({ "sessionId": "told" })),
        (2, "session.send", json!({ "sessionId": "told", "prompt": prompt })),
    ] {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        listener.write_all(&common::client::framed(&request.to_string())).await.unwrap();
    }
    let mut asker = narrow(jetway.sdk).await;
    let asking = tokio::spawn(async move {
        let hello =
            json!({ "jsonrpc": "2.0", "id": "h", "method": "connect", "params": { "token": "asker" } });
        asker.write_all(&common::client::framed(&hello.to_string())).await.unwrap();
        let message = "x".repeat(60_000);
        let mut asked = 0;
        loop {
            let ping =
                json!({ "jsonrpc": "2.0", "id": asked, "method": "ping", "params": { "message": message } });
            if asker.write_all(&common::client::framed(&ping.to_string())).await.is_err() {
                return asked;
            }
            asked += 1;
        }
    });
    let since = Instant::now();
    let (mut most, mut most_own, mut slowest, mut released) = (0, 0, Duration::ZERO, None);
    while since.elapsed() < Duration::from_secs(watched) {
        let asked = Instant::now();
        bystander.call("ping", json!({})).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        most = most.max(jetway.memory("VmRSS").saturating_sub(before));
        most_own = most_own.max(own_memory().saturating_sub(own));
        if released.is_none() && since.elapsed().as_secs() > 1 && stub.stats(0).connections == connections {
            released = Some(since.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let asked = asking.await.unwrap();
    println!(
        "CHECK 20: two clients that never read for {watched} s: Jetway at most {} KiB more, the CLI server at most {} MiB more; \
         both left after {released:.1?} (stalled_write_timeout {stall} s; {asked} requests of 60 KB were taken); another's slowest ping {slowest:.1?}",
        most / KIB,
        most_own / MIB
    );
    let released = released.expect("given up");
    assert!(released < Duration::from_secs(stall + 3), "{released:?}");
    assert!(most <= 2 * MIB + NOISE, "1 MiB for each");
    assert!(most_own <= 50 * MIB);
    assert!(slowest < Duration::from_secs(1));
}
