//! CLI servers of one state that can be ended and started again, and what they know of turns.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener as Probe},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use jetway_loadtest::{
    model::{self, Ledger},
    stub::{self, Options, Store, Stub},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::common;

/// How long a real server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) enum Fleet {
    Stub(Stub),
    Real(Real),
}

/// Real runtimes on one COPILOT_HOME, and a scripted model.
pub(crate) struct Real {
    runtime: PathBuf,
    home: tempfile::TempDir,
    model: model::Handle,
    addresses: Vec<SocketAddr>,
    running: Vec<Child>,
}

impl Fleet {
    pub(crate) fn stub(servers: usize) -> Self {
        let store = Some(Store::memory());
        let listen = consecutive(servers)[0];
        let options = Options { servers, listen, store, record: false, ..Options::default() };
        Self::Stub(Stub::start(options).unwrap())
    }

    pub(crate) async fn real(test: &str, servers: usize) -> Option<Self> {
        let runtime = common::runtime(test)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = model::serve(listener, Ledger::in_memory()).unwrap();
        let addresses = consecutive(servers);
        let home = tempfile::tempdir().unwrap();
        let mut real = Real { runtime, home, model, addresses, running: Vec::new() };
        for server in 0..servers {
            let child = real.start(server).await;
            real.running.push(child);
        }
        Some(Self::Real(real))
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        match self {
            Self::Stub(stub) => stub.addrs(),
            Self::Real(real) => &real.addresses,
        }
    }

    /// What a session is made with, and resumed.
    pub(crate) fn settings(&self) -> Value {
        match self {
            Self::Stub(_) => json!({ "model": "stub" }),
            Self::Real(real) => {
                let provider =
                    json!({ "type": "openai", "baseUrl": real.model.base_url(), "apiKey": "sk-x" });
                json!({ "model": "scripted", "provider": provider, "streaming": true })
            }
        }
    }

    /// A turn of some 50 ms.
    pub(crate) fn prompt(&self) -> &'static str {
        match self {
            Self::Stub(_) => "[[deltas 5 20 10]]",
            Self::Real(_) => "[[stream 5 20 10]]",
        }
    }

    /// Ends a server that nobody uses, and starts it again at the same address.
    pub(crate) async fn restart(&mut self, server: usize) {
        match self {
            Self::Stub(stub) => {
                assert_eq!(stub.stats(server).sessions, 0, "it is drained");
                stub.crash(server);
                // Its port is not closed at once.
                common::until("the port is free again", || stub.restart(server).is_ok()).await;
            }
            Self::Real(real) => {
                real.end(server).await;
                real.running[server] = real.start(server).await;
            }
        }
    }

    /// What is wrong with the turns, by what the servers and the model saw of them.
    pub(crate) fn wrong(&self, completed: &[String]) -> Vec<String> {
        match self {
            Self::Stub(stub) => {
                let found = stub.ledger().findings();
                let mut wrong: Vec<_> =
                    if found.is_clean() { Vec::new() } else { vec![format!("{found:#?}")] };
                let entries = stub.ledger().entries();
                let seen = |event| {
                    entries.iter().filter(|e| e.event == event).filter_map(|e| e.nonce.as_deref()).collect()
                };
                let (begun, ended): (Vec<_>, Vec<_>) = (seen(stub::Event::Begin), seen(stub::Event::End));
                wrong.extend(differ("begun at the CLI", &begun, completed));
                wrong.extend(differ("ended at the CLI", &ended, completed));
                wrong
            }
            Self::Real(real) => {
                let entries = real.model.ledger().entries();
                let ended = entries.iter().filter(|e| e.event == model::Event::Ended);
                let ended: Vec<_> = ended.filter_map(|e| e.nonce.as_deref()).collect();
                let mut wrong = differ("answered by the model", &ended, completed);
                wrong.extend(real.transcripts(completed));
                wrong
            }
        }
    }
}

impl Real {
    async fn start(&self, server: usize) -> Child {
        let address = self.addresses[server];
        let mut command = Command::new(&self.runtime);
        command.args([
            "--headless",
            "--host",
            "127.0.0.1",
            "--no-auto-update",
            "--log-level",
            "error",
            "--port",
        ]);
        command.arg(address.port().to_string()).current_dir(&self.home);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env("COPILOT_HOME", self.home.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listens).await.expect("a runtime listens");
        child
    }

    async fn end(&mut self, server: usize) {
        let child = &mut self.running[server];
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let ends = async {
            while child.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.expect("a runtime ends");
    }

    /// What is wrong with `events.jsonl`: every prompt stands there once, and no two events follow the same one.
    fn transcripts(&self, completed: &[String]) -> Vec<String> {
        let (mut prompts, mut wrong) = (Vec::new(), Vec::new());
        let sessions = std::fs::read_dir(self.home.path().join("session-state")).unwrap().flatten();
        for session in sessions {
            let Ok(text) = std::fs::read_to_string(session.path().join("events.jsonl")) else { continue };
            let mut parents: HashMap<String, usize> = HashMap::new();
            for event in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
                if let Some(parent) = event["parentId"].as_str() {
                    *parents.entry(parent.to_owned()).or_default() += 1;
                }
                let content = event["data"]["content"].as_str().unwrap_or_default();
                if event["type"] == "user.message" {
                    let nonce = content.split("nonce:").nth(1).unwrap_or_default();
                    let rest = |c: char| !c.is_ascii_alphanumeric() && c != '-';
                    prompts.push(nonce.split(rest).next().unwrap().to_owned());
                }
            }
            let forks = parents.values().filter(|children| **children > 1).count();
            if forks > 0 {
                wrong.push(format!("{forks} forks in {}", session.path().display()));
            }
        }
        let prompts: Vec<_> = prompts.iter().map(String::as_str).collect();
        wrong.extend(differ("in events.jsonl", &prompts, completed));
        wrong
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Free ports in a row, of those that the system gives to nobody who asks for any: they stay free while a server is
/// away.
fn consecutive(n: usize) -> Vec<SocketAddr> {
    /// No two fleets of this process try the same row: between the look and the start others would find it free too.
    static TRIED: AtomicUsize = AtomicUsize::new(0);
    const ROWS: usize = 1000;
    let row = || {
        // Tests of other processes begin elsewhere.
        let row = (std::process::id() as usize + TRIED.fetch_add(1, Ordering::Relaxed)) % ROWS;
        (0..n).map(|i| SocketAddr::from(([127, 0, 0, 1], (15_000 + 16 * row + i) as u16))).collect()
    };
    let free = |row: &Vec<SocketAddr>| row.iter().all(|address| Probe::bind(address).is_ok());
    std::iter::repeat_with(row).take(ROWS).find(free).expect("free ports")
}

/// In what `seen` is not each of `completed` once and nothing else.
fn differ(what: &str, seen: &[&str], completed: &[String]) -> Vec<String> {
    let mut times: HashMap<&str, usize> = completed.iter().map(|nonce| (nonce.as_str(), 0)).collect();
    for nonce in seen {
        *times.entry(nonce).or_default() += 1;
    }
    let expected = |nonce: &str| usize::from(completed.iter().any(|c| c == nonce));
    let odd = times.into_iter().filter(|(nonce, n)| *n != 1 || expected(nonce) == 0);
    odd.map(|(nonce, n)| format!("{nonce}: {what} {n} times, completed {} times", expected(nonce))).collect()
}
