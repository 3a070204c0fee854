//! One connection: bytes in, frames answered at once, bytes out in as few writes as the socket allows.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    io::ErrorKind,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use jetway_wire::{
    Envelope, Id, Kind,
    envelope::{self, code},
    frame::{self, Caps, Decoder},
};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
};

use super::{MAX_BACKLOG, ledger::Event, methods, server::Server};

const CAPS: Caps = Caps { header: 8 << 10, body: 256 << 20 };
/// The CLI's own limit lies between 100 and 200.
const DEPTH: usize = 150;
/// A buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 64 << 10;

/// The client's end of this is a Jetway, or whoever speaks to the stub directly.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: u64,
    /// Past the handshake, or the server wants none.
    pub(super) admitted: Cell<bool>,
    /// The sessions it is attached to.
    pub(super) sessions: RefCell<Vec<String>>,
    write: OwnedWriteHalf,
    out: RefCell<Out>,
    blocked: Notify,
    killed: Notify,
    next_id: Cell<i64>,
    asked: RefCell<HashMap<i64, oneshot::Sender<String>>>,
}

/// Bytes on their way out, and how many of them are out already.
#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
    sent: usize,
}

impl Conn {
    fn new(id: u64, admitted: bool, write: OwnedWriteHalf) -> Self {
        Self {
            id,
            admitted: Cell::new(admitted),
            sessions: RefCell::default(),
            write,
            out: RefCell::default(),
            blocked: Notify::new(),
            killed: Notify::new(),
            next_id: Cell::new(1),
            asked: RefCell::default(),
        }
    }

    /// Appends to what goes out with the next [`Conn::flush`].
    pub(super) fn push(&self, with: impl FnOnce(&mut Vec<u8>)) {
        let mut out = self.out.borrow_mut();
        with(&mut out.bytes);
        if out.bytes.len() - out.sent > MAX_BACKLOG {
            self.kill();
        }
    }

    /// Appends a frame.
    pub(super) fn push_frame(&self, parts: &[&[u8]]) {
        self.push(|out| frame::write(out, parts));
    }

    pub(super) fn result(&self, id: &Id, result: &[u8]) {
        self.push(|out| envelope::write_result(out, id, result));
    }

    pub(super) fn error(&self, id: Option<&Id>, code: i64, message: &str) {
        self.push(|out| envelope::write_error(out, id, code, message, None));
    }

    /// Asks the client; the answer is its result or error as JSON, or nothing when it went away.
    pub(super) fn ask(&self, method: &str, params: &str) -> oneshot::Receiver<String> {
        let (answer, answered) = oneshot::channel();
        let id = self.next_id.replace(self.next_id.get() + 1);
        self.asked.borrow_mut().insert(id, answer);
        self.push(|out| envelope::write_request(out, &Id::Number(id), method, params.as_bytes()));
        answered
    }

    /// Writes what the socket takes; the rest goes when it takes more.
    pub(super) fn flush(&self) {
        let mut out = self.out.borrow_mut();
        while out.sent < out.bytes.len() {
            match self.write.try_write(&out.bytes[out.sent..]) {
                Ok(n) => out.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.blocked.notify_one(),
                Err(_) => {
                    self.kill();
                    break;
                }
            }
        }
        out.sent = 0;
        out.bytes.clear();
        out.bytes.shrink_to(KEEP);
    }

    /// Ends the connection soon, whatever is still to be written.
    pub(super) fn kill(&self) {
        self.killed.notify_one();
    }
}

/// Serves one connection until either side ends it.
pub(super) async fn serve(server: Rc<Server>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut read, write) = stream.into_split();
    let conn = Rc::new(Conn::new(server.ledger.next_connection(), server.token.is_none(), write));
    server.conns.borrow_mut().insert(conn.id, conn.clone());
    {
        let reading = async {
            let mut decoder = Decoder::new(CAPS);
            while take(&server, &conn, &mut read, &mut decoder).await {}
        };
        let writing = async {
            loop {
                conn.blocked.notified().await;
                if conn.write.writable().await.is_err() {
                    break;
                }
                server.flush(&conn);
            }
        };
        tokio::select! {
            biased;
            () = conn.killed.notified() => (),
            () = reading => (),
            () = writing => (),
        }
    }
    server.disconnect(&conn);
}

/// Reads once and answers what came; `false` when the connection is at its end.
async fn take(server: &Rc<Server>, conn: &Rc<Conn>, read: &mut OwnedReadHalf, decoder: &mut Decoder) -> bool {
    server.awake().await;
    let more = poll_fn(|cx| {
        if server.hung() {
            return Poll::Ready(true);
        }
        // One buffer for all connections: it is free again before this returns.
        let mut scratch = server.scratch.borrow_mut();
        let mut buf = ReadBuf::new(&mut scratch);
        let done = ready!(Pin::new(&mut *read).poll_read(cx, &mut buf));
        let bytes = buf.filled();
        Poll::Ready(done.is_ok() && !bytes.is_empty() && answer(server, conn, decoder, bytes))
    })
    .await;
    if !server.pause.get().is_zero() {
        tokio::time::sleep(server.pause.get()).await;
    }
    server.flush(conn);
    more
}

/// `false` when the bytes cannot be followed any further.
fn answer(server: &Rc<Server>, conn: &Rc<Conn>, decoder: &mut Decoder, bytes: &[u8]) -> bool {
    let mut batch = decoder.feed(bytes);
    let mut frames = 0;
    let alive = loop {
        match batch.next() {
            Ok(None) => break true,
            Ok(Some(frame)) => match Envelope::strict(frame.body, DEPTH) {
                Ok(message) => {
                    frames += 1;
                    dispatch(server, conn, message);
                }
                Err(error) => {
                    server.note(conn.id, "", Event::Malformed(error.to_string()));
                    conn.error(None, error.code(), &error.to_string());
                }
            },
            Err(error) => {
                server.note(conn.id, "", Event::Malformed(error.to_string()));
                break false;
            }
        }
    };
    server.ledger.count_frames(frames);
    alive
}

fn dispatch(server: &Rc<Server>, conn: &Rc<Conn>, message: Envelope<'_>) {
    match message.kind {
        Kind::Request { id, method, params } => {
            server.record(conn.id, &method, params);
            if conn.admitted.get() || method == "connect" {
                methods::call(&methods::Call { server, conn, id: &id, method: &method, params });
            } else {
                conn.error(Some(&id), methods::AUTHENTICATION_REQUIRED, "AUTHENTICATION_REQUIRED");
            }
        }
        Kind::Notification { method, params } => server.record(conn.id, &method, params),
        Kind::Reply { id: Id::Number(id), outcome } => {
            let (Ok(value) | Err(value)) = outcome;
            server.record(conn.id, "", Some(value));
            // Replies to questions that nobody asks any more are harmless, as they are to the CLI.
            if let Some(answer) = conn.asked.borrow_mut().remove(&id) {
                let _ = answer.send(String::from_utf8_lossy(value.text()).into_owned());
            }
        }
        Kind::Reply { .. } => {
            let what = "a reply to an id the stub never used".to_owned();
            server.note(conn.id, "", Event::Malformed(what));
            conn.error(None, code::INVALID_REQUEST, "unknown id");
        }
    }
}
