//! One client connection: handshake, then requests and answers until it ends.

use std::{
    convert::Infallible, future::poll_fn, io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    net::{TcpStream, tcp::OwnedReadHalf},
    time::{Instant, timeout_at},
};
use tower::Service;
use tracing::info;

use jetway_config::{Identity, limits};
use jetway_wire::{
    Envelope, Id, Kind, Value, catalogue,
    envelope::{self, EnvelopeError},
    frame::{Caps, Decoder, FrameError},
};

use crate::{
    admission::{Has, SMALL},
    app::Core,
    audit::Event,
    metrics,
    net::{
        self,
        chunk::{self, Chunk},
        writer::{Backlog, Writer},
    },
    rescue,
    sessions::{
        client::Client,
        outlet::Outlet,
        pending::{Answer, Origin},
    },
    stack::{Accepted, Call, Limit, RETRY_AFTER, Refusal, Target},
};

const LISTENER: &str = "sdk";

/// A frame under way that brings less than this in one `partial_frame_timeout` is a slow drip.
const DRIP: usize = 16 * 1024;

/// How often a connection that is left to another gateway is looked at: whether something is still under way.
const LOOK: Duration = Duration::from_millis(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the client")]
    Closed,
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    #[error("no handshake within {0:?}")]
    HandshakeTimeout(Duration),
    #[error("a frame was sent too slowly")]
    Drip,
    #[error("refused")]
    Refused,
    #[error("the client said good-bye")]
    Farewell,
    #[error("nothing vouches for the caller any more")]
    Revoked,
    #[error("draining")]
    Draining,
    /// A fault of Jetway's: this connection is all that it costs.
    #[error("a panic; the log has more")]
    Panicked,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl End {
    fn label(&self) -> &'static str {
        match self {
            End::Closed | End::Farewell => "closed",
            End::Frame(_) => "bad_frame",
            End::HandshakeTimeout(_) => "handshake_timeout",
            End::Drip => "slow_frame",
            End::Refused => "refused",
            End::Revoked => "revoked",
            End::Draining => "draining",
            End::Panicked => "panicked",
            End::Io(_) => "io_error",
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve<S>(core: Arc<Core>, stack: S, stream: TcpStream, peer: SocketAddr)
where
    S: Service<Call, Response = Accepted, Error = Refusal>,
{
    metrics::connected(LISTENER);
    let since = Instant::now();
    let (read, write) = stream.into_split();
    let writer = Arc::new(Writer::new(write, core.live().limits.stalled_write_timeout));
    let face = Face { core, stack, writer, peer, client: None, seat: None };
    let mut conn = Conn { read, decoder: Decoder::new(PREAUTH), drip: None, under_way: None, face };
    let end = conn.run().await;
    metrics::disconnected(LISTENER, end.label());
    let who = conn.face.client.as_ref().map(|c| c.who());
    info!(
        %peer,
        tenant = who.map(|w| tracing::field::display(&w.tenant)),
        user = who.map(|w| tracing::field::display(&w.user)),
        outcome = end.label(),
        cause = %end,
        duration_ms = since.elapsed().as_millis() as u64,
        "connection ended"
    );
    Box::pin(conn.finish(&end)).await;
}

/// What a stranger may send in one frame. With what the connection itself takes, not quite 3 KiB, it is held
/// within [`limits::PREAUTH_HEAP_BYTES`].
const PREAUTH: Caps = Caps { header: 512, body: limits::PREAUTH_HEAP_BYTES / 2 };

struct Conn<S> {
    read: OwnedReadHalf,
    decoder: Decoder,
    /// The frame under way: since when it is watched, and what came of it since.
    drip: Option<(Instant, usize)>,
    /// Its size so far on the account of the caller, once it is large.
    under_way: Option<Box<Has>>,
    face: Face<S>,
}

impl<S> Conn<S>
where
    S: Service<Call, Response = Accepted, Error = Refusal>,
{
    /// What follows each other is boxed, so that an idle connection holds the space of its present only.
    async fn run(&mut self) -> End {
        let closing = self.face.core.drain.closing().clone();
        let conversation = async {
            Box::pin(self.handshake()).await?;
            Box::pin(self.converse()).await
        };
        let ended = tokio::select! {
            biased;
            () = closing.cancelled() => Err(End::Draining),
            // Locks outlive a panic, and what it left half done is about this connection, which ends.
            ended = AssertUnwindSafe(conversation).catch_unwind() => ended.unwrap_or(Err(End::Panicked)),
        };
        match ended {
            Ok(never) => match never {},
            // To whoever reads, a socket that was given up has ended.
            Err(_) if self.face.client.as_ref().is_some_and(|c| c.is_revoked()) => End::Revoked,
            Err(end) => end,
        }
    }

    /// Sends what waits, closes the legs, then the socket.
    async fn finish(self, end: &End) {
        match &self.face.client {
            Some(client) if matches!(end, End::Draining) => client.cut_off(),
            Some(client) if matches!(end, End::Farewell) => client.close(),
            Some(client) => client.vanish(),
            None => {}
        }
        let _ = Box::pin(self.face.writer.drained()).await;
        self.face.writer.give_up();
    }

    /// Reads until it is known who calls: within a time, and a number of bytes.
    async fn handshake(&mut self) -> Result<(), End> {
        let allowed = self.face.core.live().limits.handshake_timeout;
        let deadline = Instant::now() + allowed;
        let mut seen = 0;
        while self.face.client.is_none() {
            if seen > limits::PREAUTH_BYTES {
                return Err(End::Refused);
            }
            let Ok(chunk) = timeout_at(deadline, chunk::read(&mut self.read)).await else {
                return Err(End::HandshakeTimeout(allowed));
            };
            let chunk = chunk?;
            seen += chunk.bytes().len();
            Box::pin(self.take(&chunk)).await?;
        }
        Ok(())
    }

    async fn converse(&mut self) -> Result<Infallible, End> {
        let draining = self.face.core.drain.draining().clone();
        let hand_over = self.face.core.config.drain.hand_over;
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = self.next() => chunk?,
                () = draining.cancelled(), if hand_over => break,
            };
            self.take(&chunk).await?;
        }
        // Boxed: it happens once, and its space would be every connection's for ever.
        Box::pin(self.hand_over()).await
    }

    /// Another gateway is there for this client: ends as soon as nothing is under way. What is still asked for is
    /// either answered or was never begun.
    async fn hand_over(&mut self) -> Result<Infallible, End> {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = self.next() => chunk?,
                _ = looks.tick() => {
                    if self.face.client.as_ref().is_none_or(|client| client.is_quiet()) {
                        return Err(End::Draining);
                    }
                    continue;
                }
            };
            self.take(&chunk).await?;
        }
    }

    /// What comes next. Cancelling it loses nothing.
    async fn next(&mut self) -> Result<Chunk, End> {
        match self.drip {
            None => Ok(chunk::read(&mut self.read).await?),
            Some((since, _)) => {
                let deadline = since + self.face.core.live().limits.partial_frame_timeout;
                Ok(timeout_at(deadline, chunk::read(&mut self.read)).await.map_err(|_| End::Drip)??)
            }
        }
    }

    /// Acts on what one read brought.
    async fn take(&mut self, chunk: &Chunk) -> Result<(), End> {
        if chunk.bytes().is_empty() {
            return Err(End::Closed);
        }
        metrics::bytes_from_client(chunk.bytes().len());
        // What is complete now is put on the account as a request.
        self.under_way = None;
        let mut batch = self.decoder.feed(chunk.bytes());
        loop {
            match batch.next() {
                Ok(Some(frame)) => self.face.on_frame(frame.body).await?,
                Ok(None) => break,
                Err(e) => {
                    metrics::bad_frame("framing");
                    return Err(e.into());
                }
            }
            batch.set_caps(self.face.caps());
        }
        drop(batch);
        self.decoder.set_caps(self.face.caps());
        self.watch(chunk.bytes().len());
        self.hold()?;
        // Whoever does not take its answers may not ask for more. Boxed, since it is rare.
        if self.face.writer.backlog() == Backlog::Some {
            Box::pin(self.face.writer.drained()).await?;
        }
        Ok(())
    }

    /// Puts a large frame that is under way on the caller's account.
    fn hold(&mut self) -> Result<(), End> {
        let (held, Some(client)) = (self.decoder.held(), &self.face.client) else { return Ok(()) };
        if held <= SMALL {
            return Ok(());
        }
        let (core, who) = (&self.face.core, client.who());
        let Ok(has) = core.usage.receive(who, held, core.live().tenants.get(&who.tenant)) else {
            let refusal = Refusal::Overloaded(Limit::BytesInFlight, RETRY_AFTER);
            metrics::refused(&refusal);
            self.face.refuse(&refusal, None);
            return Err(End::Refused);
        };
        self.under_way = Some(Box::new(has));
        Ok(())
    }

    /// Watches a frame under way for progress, and has its sender go on.
    fn watch(&mut self, came: usize) {
        if !self.decoder.mid_frame() {
            self.drip = None;
            return;
        }
        net::acknowledge_now(self.face.writer.socket());
        self.drip = match self.drip {
            Some((since, so_far)) if so_far + came < DRIP => Some((since, so_far + came)),
            _ => Some((Instant::now(), 0)),
        };
    }
}

/// The connection as a speaker of JSON-RPC.
struct Face<S> {
    core: Arc<Core>,
    stack: S,
    writer: Arc<Writer>,
    peer: SocketAddr,
    /// Once it is known who it is.
    client: Option<Arc<Client>>,
    seat: Option<Box<Has>>,
}

impl<S> Face<S>
where
    S: Service<Call, Response = Accepted, Error = Refusal>,
{
    fn caps(&self) -> Caps {
        match self.client {
            None => PREAUTH,
            Some(_) => Caps { header: limits::FRAME_HEADER_BYTES, body: self.core.live().limits.max_frame },
        }
    }

    async fn on_frame(&mut self, body: &[u8]) -> Result<(), End> {
        let message = match Envelope::strict(body, limits::JSON_DEPTH) {
            Ok(message) => message,
            Err(error) => {
                metrics::bad_frame("message");
                self.refuse(&invalid(&error), None);
                return Ok(());
            }
        };
        match (&message.kind, self.client.clone()) {
            (Kind::Request { id, method, params }, None) => {
                let hello = Hello { method, params: *params };
                // Boxed: it happens once, and its space would be every connection's for ever.
                match Box::pin(self.greet(id, &hello)).await? {
                    true => Ok(()),
                    false => Box::pin(self.request(&message)).await,
                }
            }
            (Kind::Request { .. }, Some(_)) => Box::pin(self.request(&message)).await,
            (Kind::Reply { id, .. }, Some(client)) => {
                // A leg that is lost tells of itself.
                let _ = client.answer(id, &message).await;
                Ok(())
            }
            // A client's notifications mean nothing to the CLI; `$/cancelRequest` is one that it ignores.
            (Kind::Reply { .. }, None) | (Kind::Notification { .. }, _) => Ok(()),
        }
    }

    /// Deals with a stranger's request. Returns whether that was all; if not, it is to be taken as the
    /// first request of a caller who need not introduce itself.
    async fn greet(&mut self, id: &Id, hello: &Hello<'_>) -> Result<bool, End> {
        match self.introduce(hello).await {
            Ok(Some(Ok(result))) => self.write(|out| envelope::write_result(out, id, &result)),
            Ok(Some(Err(error))) => self.write(|out| envelope::write_failure(out, id, &error)),
            Ok(None) => return Ok(false),
            Err(Refusal::Draining(_)) if self.core.config.drain.hand_over => return Err(End::Draining),
            Err(refusal) => {
                metrics::refused(&refusal);
                self.refuse(&refusal, Some(id));
            }
        }
        Ok(true)
    }

    /// Finds out who calls and opens the way to the user's CLI server. Returns what the server said to
    /// `connect`, if it was that.
    async fn introduce(&mut self, hello: &Hello<'_>) -> Result<Option<Answer>, Refusal> {
        if self.core.drain.is_draining() {
            return Err(Refusal::Draining(self.core.config.drain.timeout));
        }
        let is_connect = hello.method == "connect";
        if !is_connect && !self.core.live().auth.anonymous {
            return Err(Refusal::Unauthenticated("call `connect` first".into()));
        }
        let token = hello.params.filter(|_| is_connect).and_then(|p| p.get("token")).and_then(Value::as_str);
        let caller = self.core.authenticate(token.as_deref(), None, Some(self.peer)).await?;
        let seat = self.sit_down(&caller.who)?;
        let params = hello.params.filter(|_| is_connect).map_or(&b"{}"[..], Value::text);
        let outlet = Outlet::Socket(self.writer.clone());
        let client = Client::new(caller, params.into(), outlet, self.core.clone());
        let answer = client.introduce().await.inspect_err(|_| client.close())?;
        match &answer {
            Ok(_) => {
                self.client = Some(client);
                self.seat = Some(seat);
            }
            // The server did not like something beside the token: the client may try again.
            Err(_) => client.close(),
        }
        Ok(is_connect.then_some(answer))
    }

    /// Counts the connection among the caller's.
    fn sit_down(&self, who: &Identity) -> Result<Box<Has>, Refusal> {
        let seat = self.core.usage.connect(who, self.core.live().tenants.get(&who.tenant));
        seat.map(Box::new).map_err(|_| Refusal::Overloaded(Limit::Connections, RETRY_AFTER))
    }

    async fn request(&mut self, message: &Envelope<'_>) -> Result<(), End> {
        let (Kind::Request { id, method, .. }, Some(client)) = (&message.kind, &self.client) else {
            return Ok(());
        };
        let Some(request) = message.to_request() else { return Ok(()) };
        let Some(method) = catalogue::lookup(method) else {
            let refusal = Refusal::MethodNotAllowed { method: method.to_string(), denied: None };
            metrics::refused(&refusal);
            let denied = Event::Refused { caller: client.caller(), method, session: None, refusal: &refusal };
            self.core.audit.record(&denied);
            self.refuse(&refusal, Some(id));
            return Ok(());
        };
        let origin = Origin::Client(id.clone());
        let call = Call {
            user: None,
            client: client.clone(),
            method,
            request: Arc::new(request),
            origin,
            wish: None,
            busy: None,
            target: Target::Home,
            lease: None,
            held: None,
            permit: None,
            again: false,
        };
        let hand_over = self.core.config.drain.hand_over;
        let outcome = match poll_fn(|cx| self.stack.poll_ready(cx)).await {
            Ok(()) => self.stack.call(call).await,
            Err(refusal) => Err(refusal),
        };
        match outcome {
            // It is for the gateway that takes over: this connection ends before it has an answer.
            Err(Refusal::Draining(_)) if hand_over => {}
            Ok(Accepted::Later(later)) => {
                let (writer, to) = (self.writer.clone(), id.clone());
                // Only Jetway's own words are written there, and as many may wait as may be in flight.
                let refused = client.carry_on(later, move |outcome| match outcome {
                    Err(Refusal::Draining(_)) if hand_over => {}
                    outcome => tell(&writer, &to, &outcome),
                });
                tell(&self.writer, id, &refused.map(|()| Accepted::Forwarded));
            }
            // Who makes a slow server work waits for it. A leg that is lost tells of itself.
            Ok(Accepted::Slowly(leg)) => drop(leg.drained().await),
            outcome => {
                tell(&self.writer, id, &outcome);
                if matches!(outcome, Ok(Accepted::Farewell(_))) {
                    return Err(End::Farewell);
                }
            }
        }
        Ok(())
    }

    fn refuse(&self, refusal: &Refusal, id: Option<&Id>) {
        self.write(|out| rescue::write(refusal, id, out));
    }

    fn write(&self, frame: impl FnOnce(&mut Vec<u8>)) {
        write(&self.writer, frame);
    }
}

/// Writes what Jetway itself has to say to a request; nothing, where a CLI server answers.
fn tell(writer: &Writer, id: &Id, outcome: &Result<Accepted, Refusal>) {
    match outcome {
        Ok(Accepted::Forwarded | Accepted::Slowly(_) | Accepted::Later(_)) => {}
        Ok(Accepted::Answered(result) | Accepted::Farewell(result)) => {
            write(writer, |out| envelope::write_result(out, id, result.as_bytes()));
        }
        Ok(Accepted::Told(result)) => write(writer, |out| envelope::write_result(out, id, result.as_bytes())),
        Err(refusal) => write(writer, |out| rescue::write(refusal, Some(id), out)),
    }
}

fn write(writer: &Writer, frame: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    frame(&mut out);
    // What does not fit waits, and is seen to after this read.
    let _ = writer.send(&out);
}

/// A stranger's request.
struct Hello<'a> {
    method: &'a str,
    params: Option<Value<'a>>,
}

fn invalid(error: &EnvelopeError) -> Refusal {
    Refusal::Invalid(error.code(), error.to_string())
}
