//! A Copilot CLI server that is fast, behaves or misbehaves on request, and remembers what it saw.
//!
//! It speaks the part of the CLI's protocol that Jetway uses, in the shapes and the order seen on
//! `copilot-runtime` 1.0.85, without a model behind it: what a turn does stands in its prompt. Like the CLI it
//! keeps nothing apart: any connection may use any session, and `session.lifecycle` goes to everyone.
//!
//! | in the prompt | the turn |
//! |---|---|
//! | plain text, alone or with delays | `You said: <text>`, one delta per word |
//! | `[[say TEXT]]` | TEXT, one delta per word |
//! | `[[history]]` | `History: <first prompt> \| <second prompt> \| …`, of the earlier turns |
//! | `[[deltas N BYTES DELAY_MS]]` | N deltas of BYTES bytes, DELAY_MS after each; without delay, [`BURST`] to a write |
//! | `[[delay MS]]` | waits |
//! | `[[tool NAME]]` | `external_tool.requested`, waits for `session.tools.handlePendingToolCall`, then says the result |
//! | `[[permission]]` | `permission.requested`, waits for `…handlePendingPermissionRequest`, then says the decision |
//! | `[[hook]]` | `hooks.invoke` to every client with hooks; waits for all of them |
//! | `[[userinput]]` | `userInput.request` to every client that wants it; the first answer is said |
//! | `[[lag MS]]` | for so long other connections do not hear of events, while they get their replies; `[[lag MS all]]`: nor its own |
//! | `[[error]]` | `session.error`, then `session.idle`, as the CLI does |
//! | `[[hang]]` | nothing more, until aborted or closed |
//! | `[[crash]]` | the server goes down; see [`Stub::crash`] |
//! | `[[quiet]]` | no `session.lifecycle` and no events beside `user.message`, `assistant.*` and `session.idle` |
//!
//! Directives run in their order. A directive that cannot be read ends the turn with a `session.error` that
//! names it. The last `nonce:[A-Za-z0-9-]+` of a prompt is written to the [`Ledger`].
//!
//! It plays the cloud's part as well: `session.create` with `cloud` makes a session under an id of its own, that can be
//! used once its agent has come, which a `session.start` of producer `copilot-agent` tells ([`Options::cloud`]). What is
//! sent before is refused; the real cloud would lose it.
//!
//! Not modelled: the model, files, `sessionFs`, MCP, pending tools that outlive a session's closing, `--stdio`.

mod audit;
mod calls;
mod conn;
mod event;
mod ledger;
mod methods;
mod script;
mod server;
mod session;
mod store;
mod turn;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    rc::Rc,
    sync::mpsc as std_mpsc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::mpsc;

pub use self::{
    audit::{Audit, Clash, Findings},
    calls::Received,
    ledger::{Entry, Event, Ledger},
    store::Store,
};
use self::{calls::Calls, server::Server};

/// Deltas without a pause between them that go out in one write.
pub const BURST: usize = 8;
/// The most bytes that one `[[deltas]]` may produce.
pub const MAX_STREAM: usize = 256 << 20;
/// The longest that `[[delay]]`, `[[lag]]` and the pauses of `[[deltas]]` last.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// How often a server's port is asked for when it is restarted, and the pause between.
const RESTARTS: u32 = 50;
const RESTART_PAUSE: Duration = Duration::from_millis(20);
/// Lines of the ledger, and requests of the record, that are kept in memory; the oldest go first.
pub const MAX_ENTRIES: usize = 200_000;
/// How many findings of a kind are kept.
pub const MAX_FINDINGS: usize = 1000;
/// Persisted events that are kept of a session; the oldest go first.
pub const MAX_HISTORY: usize = 500;
/// Prompts that may wait in a session.
pub const MAX_QUEUE: usize = 1000;
/// Bytes that may wait for a client that does not read; beyond them it is dropped.
pub const MAX_BACKLOG: usize = 256 << 20;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many servers, each with a port of its own.
    pub servers: usize,
    /// Where; port 0 takes free ones, another port is the first of consecutive ones.
    pub listen: SocketAddr,
    /// The connection token that clients must give; without one, none may be given.
    pub token: Option<String>,
    /// The state that all servers share; without one, each has its own.
    pub store: Option<Store>,
    /// Where turns are recorded; several stubs may share one.
    pub ledger: Ledger,
    /// Tell every connection of every session's doings, as the CLI does by `session.lifecycle`.
    pub announce: bool,
    /// Have a terminal that shows a session, as a CLI with `--ui-server` has.
    pub terminal: bool,
    /// Keep every request, for [`Stub::received`].
    pub record: bool,
    /// How long the agent of a cloud session takes; at once is before the session's creation is answered. Without, it
    /// comes by [`Stub::agent_comes`].
    pub cloud: Option<Duration>,
    /// End the process in a crash, with status 1.
    pub exit_on_crash: bool,
}

impl Default for Options {
    /// One server on a free loopback port, no token, its own state, all requests kept.
    fn default() -> Self {
        Self {
            servers: 1,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            token: None,
            store: None,
            ledger: Ledger::in_memory(),
            announce: true,
            terminal: false,
            record: true,
            cloud: None,
            exit_on_crash: false,
        }
    }
}

/// What a server holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Open connections.
    pub connections: usize,
    /// Sessions in memory.
    pub sessions: usize,
    /// Turns under way.
    pub turns: usize,
}

type Job = Box<dyn FnOnce(&[Rc<Server>]) + Send>;

/// Running servers, on a thread of their own. Dropping it ends them.
#[derive(Debug)]
pub struct Stub {
    addrs: Vec<SocketAddr>,
    ledger: Ledger,
    calls: Option<Calls>,
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Starts; the servers accept when this returns.
    ///
    /// # Errors
    /// When an address cannot be bound, or the thread not be started.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for index in 0..options.servers {
            let mut at = options.listen;
            if at.port() != 0 {
                at.set_port(at.port() + u16::try_from(index).map_err(io::Error::other)?);
            }
            listeners.push(TcpListener::bind(at)?);
        }
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let calls = options.record.then(Calls::default);
        let (jobs, todo) = mpsc::unbounded_channel();
        let (ledger, kept) = (options.ledger.clone(), calls.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("stub-cli".into()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            if let Err(error) = local.block_on(&runtime, run(listeners, &options, calls.as_ref(), todo)) {
                eprintln!("stub CLI: {error}");
            }
        })?;
        Ok(Self { addrs, ledger, calls: kept, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Where the first server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Where the servers listen.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What they saw.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Every request, notification and reply that arrived, oldest first; nothing without [`Options::record`].
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.calls.as_ref().map(Calls::list).unwrap_or_default()
    }

    /// What server `index` holds.
    pub fn stats(&self, index: usize) -> Stats {
        self.ask(move |servers| servers[index].stats())
    }

    /// Takes server `index` down as `kill -9` does: connections end, turns are lost, the port is closed, the
    /// store stays.
    pub fn crash(&self, index: usize) {
        self.ask(move |servers| servers[index].crash());
    }

    /// Brings it up again at the same address, with no session loaded. Nothing happens when it is up.
    ///
    /// # Errors
    /// When its port was taken meanwhile.
    pub fn restart(&self, index: usize) -> io::Result<()> {
        let mut tries = 1..RESTARTS;
        loop {
            match self.ask(move |servers| servers[index].restart()) {
                // Who listened there was told to stop, and does in a moment; or it is a connection's own port.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries.next().is_some() => {
                    std::thread::sleep(RESTART_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes server `index` deaf and mute with its connections open, or ends that.
    pub fn hang(&self, index: usize, hung: bool) {
        self.ask(move |servers| servers[index].hang(hung));
    }

    /// Makes server `index` slow: what it is asked it answers only after `pause`.
    pub fn slow(&self, index: usize, pause: Duration) {
        self.ask(move |servers| servers[index].pause.set(pause));
    }

    /// Unloads a session without telling anyone, as the CLI's own idle eviction does; whether it was loaded.
    pub fn forget(&self, index: usize, session: &str) -> bool {
        let session = session.to_owned();
        self.ask(move |servers| servers[index].close(0, &session))
    }

    /// The agent of a cloud session comes, whether or not somebody is attached to the session; perhaps once more.
    pub fn agent_comes(&self, index: usize, session: &str) {
        let session = session.to_owned();
        self.ask(move |servers| servers[index].agent_comes(&session));
    }

    /// Ends every connection of server `index` and no more.
    pub fn disconnect(&self, index: usize) {
        self.ask(move |servers| servers[index].conns.borrow().values().for_each(|conn| conn.kill()));
    }

    /// Runs on the servers' thread and waits for it.
    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&[Rc<Server>]) -> T + Send + 'static) -> T {
        let (done, answer) = std_mpsc::sync_channel(1);
        let job: Job = Box::new(move |servers| drop(done.send(job(servers))));
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).expect("the stub's thread runs");
        answer.recv().expect("the stub's thread runs")
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves until nobody can ask for anything any more.
async fn run(
    listeners: Vec<TcpListener>,
    options: &Options,
    calls: Option<&Calls>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) -> io::Result<()> {
    let mut servers = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let server = Server::new(index, listener.local_addr()?, options, calls.cloned());
        server.listen(listener)?;
        servers.push(server);
    }
    while let Some(job) = jobs.recv().await {
        job(&servers);
    }
    servers.iter().for_each(|server| server.stop());
    Ok(())
}
