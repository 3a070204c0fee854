//! The raw load: clients that do as little as a client can.
//!
//! **A frame** is one `Content-Length` message, counted where the client sends or receives it: a ping is two, a
//! turn is its `session.send`, the reply to it, and every event of it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use jetway_wire::frame::{Caps, Decoder, write};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const CAPS: Caps = Caps { header: 4 << 10, body: 64 << 20 };
/// How long anything may take that is not a whole phase.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients that connect at once when many do.
const ABREAST: usize = 64;

/// A connection that has shaken hands.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    buf: Vec<u8>,
    session: String,
}

/// What a client waits for: some bytes near the beginning of a message.
#[derive(Debug, Clone, Copy)]
enum Until {
    Reply,
    Idle,
}

impl Client {
    /// Connects; with `user`, says who it is.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn open(addr: SocketAddr, user: Option<&str>, buf: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (decoder, session) = (Decoder::new(CAPS), String::new());
        let mut client = Self { stream, decoder, buf: vec![0; buf], session };
        let token = user.map(|user| format!(r#""token":"{user}""#)).unwrap_or_default();
        client.ask("connect", &token).await?;
        Ok(client)
    }

    /// Opens a session of its own.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create(&mut self, id: String) -> io::Result<()> {
        self.ask("session.create", &format!(r#""sessionId":"{id}""#)).await?;
        self.session = id;
        Ok(())
    }

    async fn ask(&mut self, method: &str, params: &str) -> io::Result<()> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
        let mut frame = Vec::new();
        write(&mut frame, &[body.as_bytes()]);
        self.stream.write_all(&frame).await?;
        let patience = tokio::time::timeout(PATIENCE, self.receive(Until::Reply));
        patience.await.map_err(|_| io::Error::other(format!("no reply to {method}")))?.map(drop)
    }

    /// Reads to the end of the awaited message; how many there were with it.
    async fn receive(&mut self, until: Until) -> io::Result<u64> {
        let mut frames = 0;
        loop {
            let n = self.stream.read(&mut self.buf).await?;
            if n == 0 {
                return Err(io::Error::other("connection closed"));
            }
            let mut batch = self.decoder.feed(&self.buf[..n]);
            let mut done = false;
            while let Some(frame) = batch.next().map_err(io::Error::other)? {
                frames += 1;
                done |= met(until, frame.body)?;
            }
            if done {
                return Ok(frames);
            }
        }
    }

    /// Prompts its session and waits for the end; how many frames that took.
    ///
    /// # Errors
    /// When it is refused, or the connection ends.
    pub async fn turn(&mut self, prompt: &str) -> io::Result<u64> {
        let session = &self.session;
        let params = format!(r#"{{"sessionId":"{session}","prompt":"{prompt}"}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"session.send","params":{params}}}"#);
        let mut frame = Vec::new();
        write(&mut frame, &[body.as_bytes()]);
        self.stream.write_all(&frame).await?;
        Ok(1 + self.receive(Until::Idle).await?)
    }
}

/// Whether this is the awaited message; an error reply is never.
fn met(until: Until, body: &[u8]) -> io::Result<bool> {
    // Whoever rewrites ids may move them, but envelope and event type stay at the beginning.
    let head = &body[..body.len().min(200)];
    let has = |what: &[u8]| memmem::find(head, what).is_some();
    let reply = !has(br#""method":"#);
    if reply && has(br#""error":"#) || has(br#""session.error""#) {
        return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(body))));
    }
    Ok(match until {
        Until::Reply => reply,
        Until::Idle => !reply && has(br#""type":"session.idle""#),
    })
}

/// Opens `n` connections, with a session each if wanted.
///
/// # Errors
/// When one of them is refused.
pub async fn open(
    addrs: &[SocketAddr],
    n: usize,
    users: bool,
    sessions: Option<&str>,
    buf: usize,
) -> io::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(n);
    let mut opening = JoinSet::new();
    for i in 0..n {
        if opening.len() == ABREAST {
            take(&mut opening, &mut clients).await?;
        }
        let addr = addrs[i % addrs.len()];
        let session = sessions.map(|prefix| format!("{prefix}-{i}"));
        opening.spawn_local(async move {
            let user = users.then(|| format!("user-{i}"));
            let mut client = Client::open(addr, user.as_deref(), buf).await?;
            if let Some(session) = session {
                client.create(session).await?;
            }
            io::Result::Ok(client)
        });
    }
    while !opening.is_empty() {
        take(&mut opening, &mut clients).await?;
    }
    Ok(clients)
}

async fn take(opening: &mut JoinSet<io::Result<Client>>, clients: &mut Vec<Client>) -> io::Result<()> {
    if let Some(opened) = opening.join_next().await {
        clients.push(opened.map_err(io::Error::other)??);
    }
    Ok(())
}

/// What a phase of load came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Frames sent and received.
    pub frames: u64,
    /// Pings or turns.
    pub ops: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Nanoseconds of each ping, sorted; empty for turns.
    pub times: Vec<u32>,
}

impl Outcome {
    /// The time below which this share of the pings stayed, in microseconds.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = (self.times.len() as f64 * q) as usize;
        self.times.get(at.min(self.times.len().saturating_sub(1))).map_or(f64::NAN, |ns| f64::from(*ns) / 1e3)
    }
}

/// Every client pings, one ping after the other, for that long.
///
/// # Errors
/// When one is refused.
pub async fn ping(clients: &mut Vec<Client>, time: Duration) -> io::Result<Outcome> {
    each(clients, time, async |client, end| {
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"message":"bench"}}"#;
        let mut frame = Vec::new();
        write(&mut frame, &[body]);
        let mut outcome = Outcome::default();
        let mut begun = Instant::now();
        while begun < end {
            client.stream.write_all(&frame).await?;
            client.receive(Until::Reply).await?;
            let now = Instant::now();
            outcome.times.push(u32::try_from((now - begun).as_nanos()).unwrap_or(u32::MAX));
            begun = now;
        }
        outcome.ops = outcome.times.len() as u64;
        outcome.frames = outcome.ops * 2;
        Ok(outcome)
    })
    .await
}

/// Every client runs turns, one after the other, for that long.
///
/// # Errors
/// When one is refused.
pub async fn turns(clients: &mut Vec<Client>, prompt: &'static str, time: Duration) -> io::Result<Outcome> {
    each(clients, time, async |client, end| {
        let mut outcome = Outcome::default();
        while Instant::now() < end {
            outcome.frames += client.turn(prompt).await?;
            outcome.ops += 1;
        }
        Ok(outcome)
    })
    .await
}

async fn each<F>(clients: &mut Vec<Client>, time: Duration, work: F) -> io::Result<Outcome>
where
    F: AsyncFn(&mut Client, Instant) -> io::Result<Outcome> + Copy + 'static,
{
    let begun = Instant::now();
    let end = begun + time;
    let mut working = JoinSet::new();
    for mut client in clients.drain(..) {
        working.spawn_local(async move { work(&mut client, end).await.map(|outcome| (client, outcome)) });
    }
    let mut whole = Outcome::default();
    while let Some(done) = working.join_next().await {
        let (client, part) = done.map_err(io::Error::other)??;
        whole.frames += part.frames;
        whole.ops += part.ops;
        whole.times.extend(part.times);
        clients.push(client);
    }
    whole.seconds = begun.elapsed().as_secs_f64();
    whole.times.sort_unstable();
    Ok(whole)
}
