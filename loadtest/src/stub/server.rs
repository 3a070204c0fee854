//! One CLI server: its connections, its sessions, and the ways in which it can fail.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    time::Duration,
};

use jetway_wire::Value;
use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local},
};

use super::{
    Calls, Options, Stats,
    conn::{self, Conn},
    event::{self, Event, Source, write_lifecycle},
    ledger::{self, Ledger},
    session::{Attachment, Session},
    store::Store,
};

/// Bytes read at once.
const SCRATCH: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) token: Option<String>,
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) source: Source,
    pub(super) scratch: RefCell<Vec<u8>>,
    pub(super) conns: RefCell<HashMap<u64, Rc<Conn>>>,
    pub(super) sessions: RefCell<HashMap<String, Rc<Session>>>,
    /// The session that was created or resumed last.
    pub(super) last: RefCell<Option<String>>,
    /// How long the agents of cloud sessions take.
    pub(super) cloud: Option<Duration>,
    /// Cloud sessions whose agents have not come.
    agentless: RefCell<HashSet<String>>,
    /// Which session the terminal shows, if there is a terminal.
    pub(super) shown: Option<RefCell<Option<String>>>,
    calls: Option<Calls>,
    announce: bool,
    exit_on_crash: bool,
    addr: SocketAddr,
    listening: RefCell<Option<AbortHandle>>,
    hung: Cell<bool>,
    pub(super) pause: Cell<Duration>,
    woken: Notify,
}

impl Server {
    pub(super) fn new(index: usize, addr: SocketAddr, options: &Options, calls: Option<Calls>) -> Rc<Self> {
        Rc::new(Self {
            name: format!("{}/{index}", std::process::id()),
            index,
            token: options.token.clone(),
            store: options.store.clone().unwrap_or_else(Store::memory),
            ledger: options.ledger.clone(),
            source: Source::new(),
            scratch: RefCell::new(vec![0; SCRATCH]),
            conns: RefCell::default(),
            sessions: RefCell::default(),
            last: RefCell::default(),
            cloud: options.cloud,
            agentless: RefCell::default(),
            shown: options.terminal.then(RefCell::default),
            calls,
            announce: options.announce,
            exit_on_crash: options.exit_on_crash,
            addr,
            listening: RefCell::default(),
            hung: Cell::new(false),
            pause: Cell::default(),
            woken: Notify::new(),
        })
    }

    /// Accepts from now on.
    pub(super) fn listen(self: &Rc<Self>, listener: TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = self.clone();
        let accepting = spawn_local(async move {
            loop {
                server.awake().await;
                match listener.accept().await {
                    Ok((stream, _)) => drop(spawn_local(conn::serve(server.clone(), stream))),
                    // Out of descriptors: they come back when connections end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        self.listening.replace(Some(accepting.abort_handle()));
        Ok(())
    }

    /// Comes up again after a crash, at the same address.
    pub(super) fn restart(self: &Rc<Self>) -> io::Result<()> {
        if self.listening.borrow().is_some() {
            return Ok(());
        }
        self.listen(TcpListener::bind(self.addr)?)
    }

    /// Goes down, and the process with it if it was started so.
    pub(super) fn crash(&self) {
        self.stop();
        if self.exit_on_crash {
            std::process::exit(1);
        }
    }

    /// Drops everything it holds, as `kill -9` does: only the store is left.
    pub(super) fn stop(&self) {
        for session in self.sessions.take().into_values() {
            stop(&session);
        }
        self.note(0, "", ledger::Event::Crash);
        if let Some(accepting) = self.listening.take() {
            accepting.abort();
        }
        for conn in self.conns.take().into_values() {
            conn.kill();
        }
        self.last.replace(None);
        self.hang(false);
    }

    /// Stops reading, writing and accepting, with all connections open; or goes on.
    pub(super) fn hang(&self, hung: bool) {
        self.hung.set(hung);
        if !hung {
            self.woken.notify_waiters();
            self.flush_all();
        }
    }

    pub(super) fn hung(&self) -> bool {
        self.hung.get()
    }

    pub(super) async fn awake(&self) {
        while self.hung.get() {
            self.woken.notified().await;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let sessions = self.sessions.borrow();
        let turns = sessions.values().filter(|s| s.turn.borrow().is_some()).count();
        Stats { connections: self.conns.borrow().len(), sessions: sessions.len(), turns }
    }

    pub(super) fn note(&self, connection: u64, session: &str, event: ledger::Event) {
        self.ledger.note(&self.name, connection, session, event);
    }

    pub(super) fn record(&self, connection: u64, method: &str, params: Option<Value<'_>>) {
        if let Some(calls) = &self.calls {
            calls.add(self.index, connection, method, params);
        }
    }

    pub(super) fn session(&self, id: &str) -> Option<Rc<Session>> {
        self.sessions.borrow().get(id).cloned()
    }

    /// Loads a session; the caller attaches to it.
    pub(super) fn open(&self, connection: u64, id: &str, history: VecDeque<String>) -> Rc<Session> {
        self.note(connection, id, ledger::Event::Open);
        let start = self.source.now(str::to_owned);
        let session = Rc::new(Session::new(id.to_owned(), start, history));
        self.sessions.borrow_mut().insert(id.to_owned(), session.clone());
        session
    }

    pub(super) fn attach(&self, session: &Session, attachment: Attachment) {
        session.attach(attachment);
        self.last.replace(Some(session.id.clone()));
    }

    /// A cloud session is noted: it is there, whoever is attached, and cannot be used yet.
    pub(super) fn reserve(self: &Rc<Self>, session: &Session) {
        self.agentless.borrow_mut().insert(session.id.clone());
        let noted = Event {
            kind: "session.remote_steerable_changed",
            data: br#"{"remoteSteerable":true}"#,
            ephemeral: false,
        };
        self.tell(session, noted, true);
        match self.cloud {
            Some(Duration::ZERO) => self.agent_comes(&session.id),
            Some(delay) => {
                let (server, id) = (self.clone(), session.id.clone());
                drop(spawn_local(async move {
                    tokio::time::sleep(delay).await;
                    server.agent_comes(&id);
                }));
            }
            None => {}
        }
    }

    pub(super) fn agent_comes(&self, id: &str) {
        self.agentless.borrow_mut().remove(id);
        let start = self.source.now(str::to_owned);
        let data =
            format!(r#"{{"sessionId":"{id}","version":1,"producer":"copilot-agent","startTime":"{start}"}}"#);
        let event = Event { kind: "session.start", data: data.as_bytes(), ephemeral: false };
        let live = self.session(id);
        let history = || Session::new(id.to_owned(), start.clone(), self.store.load(id).unwrap_or_default());
        if let Some(text) = live.as_deref().unwrap_or(&history()).tell(event, &self.source) {
            self.store.append(id, &text);
        }
        self.flush_all();
    }

    /// Whether it is a cloud session whose agent has not come.
    pub(super) fn is_agentless(&self, id: &str) -> bool {
        self.agentless.borrow().contains(id)
    }

    /// Closes a session; its turn is lost, what it has persisted stays. Silent, as the CLI's own eviction is.
    pub(super) fn close(&self, connection: u64, id: &str) -> bool {
        let Some(session) = self.sessions.borrow_mut().remove(id) else { return false };
        stop(&session);
        for attachment in session.attached.take() {
            attachment.conn.sessions.borrow_mut().retain(|other| other != id);
        }
        self.note(connection, id, ledger::Event::Close);
        true
    }

    /// Detaches, and closes the session that nobody is attached to any more.
    pub(super) fn detach(&self, conn: &Conn, id: &str) -> bool {
        let Some(session) = self.session(id) else { return false };
        let was = session.detach(conn.id);
        if was && session.attached.borrow().is_empty() {
            self.close(conn.id, id);
        }
        was
    }

    pub(super) fn disconnect(&self, conn: &Conn) {
        self.conns.borrow_mut().remove(&conn.id);
        for id in conn.sessions.take() {
            self.detach(conn, &id);
        }
    }

    /// Tells a session's clients, persists what is persistent and, unless `quiet`, announces that to everyone.
    pub(super) fn tell(&self, session: &Session, event: Event<'_>, quiet: bool) {
        let Some(text) = session.tell(event, &self.source) else { return };
        let mut unsaved = session.unsaved.borrow_mut();
        unsaved.push(text);
        // A session without a message is not on disk.
        if event.kind != "session.start" {
            unsaved.drain(..).for_each(|text| self.store.append(&session.id, &text));
        }
        if !quiet {
            self.announce("session.updated", session);
        }
    }

    /// Tells every connection, as the CLI does, whoever they belong to.
    pub(super) fn announce(&self, kind: &str, session: &Session) {
        let mut body = Vec::with_capacity(220);
        write_lifecycle(&mut body, kind, &session.id, &session.start, &self.source);
        self.broadcast(&body);
    }

    pub(super) fn announce_deleted(&self, id: &str) {
        let mut body = Vec::new();
        event::write_lifecycle(&mut body, "session.deleted", id, "", &self.source);
        self.broadcast(&body);
    }

    /// For some time only the connection `own`, if any, hears of a session's events as they come.
    pub(super) fn lag(self: &Rc<Self>, session: &Rc<Session>, own: Option<u64>, time: Duration) {
        session.lag(own);
        let (server, session) = (self.clone(), session.clone());
        spawn_local(async move {
            tokio::time::sleep(time).await;
            session.catch_up();
            server.flush_session(&session);
        });
    }

    fn broadcast(&self, body: &[u8]) {
        if !self.announce {
            return;
        }
        self.conns
            .borrow()
            .values()
            .filter(|conn| conn.admitted.get())
            .for_each(|conn| conn.push_frame(&[body]));
    }

    pub(super) fn flush(&self, conn: &Conn) {
        if !self.hung.get() {
            conn.flush();
        }
    }

    pub(super) fn flush_all(&self) {
        self.conns.borrow().values().for_each(|conn| self.flush(conn));
    }

    pub(super) fn flush_session(&self, session: &Session) {
        session.attached.borrow().iter().for_each(|attachment| self.flush(&attachment.conn));
    }
}

/// Ends what a session is doing, at once and on record.
fn stop(session: &Session) {
    drop(session.turn.take());
    session.pending.take();
    if let Some(task) = session.task.take() {
        task.abort();
    }
}
