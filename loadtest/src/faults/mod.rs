//! A TCP proxy that goes wrong on request: what a test puts between two programs to see how they bear
//! pauses, losses, cuts and slowness.
//!
//! A fault holds for the connections there are and for those to come, until another one for the same
//! way or [`Fault::Heal`] replaces it. [`Fault::Cut`] and [`Fault::Reset`] act once, on the connections
//! there are. *Up* is from the client to the target.

mod control;
mod pump;

pub use control::serve as serve_control;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Connections forwarded at once; later ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 4096;
/// Connections that the kernel keeps waiting.
const BACKLOG: u32 = 1024;

/// Which bytes a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
    /// All.
    Both,
}

/// What to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Stop reading; the sender feels back-pressure. Nothing is lost.
    Pause(Way),
    /// Read and swallow; the end of the stream is held back. The bytes are lost for good.
    Drop(Way),
    /// Deliver each chunk this much later, without limiting throughput.
    Delay(Way, Duration),
    /// Deliver one byte, then wait this long.
    Drip(Way, Duration),
    /// End each connection in both directions (FIN).
    Cut,
    /// Break each connection in both directions (RST).
    Reset,
    /// Refuse new connections, as a program that is not there does (`ECONNREFUSED`).
    Refuse,
    /// Forward and accept again.
    Heal,
}

/// How one direction is forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Pass,
    Pause,
    Drop,
    Delay(Duration),
    Drip(Duration),
}

/// What is asked of all connections.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    up: Flow,
    down: Flow,
    refuse: bool,
    /// How many cuts and resets there have been; a connection obeys those that came after it.
    endings: u64,
    /// Whether the last of them was a reset.
    reset: bool,
}

impl Orders {
    fn obey(&mut self, fault: Fault) {
        match fault {
            Fault::Pause(way) => self.flow(way, Flow::Pause),
            Fault::Drop(way) => self.flow(way, Flow::Drop),
            Fault::Delay(way, by) => self.flow(way, Flow::Delay(by)),
            Fault::Drip(way, every) => self.flow(way, Flow::Drip(every)),
            Fault::Cut | Fault::Reset => {
                self.endings += 1;
                self.reset = fault == Fault::Reset;
            }
            Fault::Refuse => self.refuse = true,
            Fault::Heal => {
                self.flow(Way::Both, Flow::Pass);
                self.refuse = false;
            }
        }
    }

    fn flow(&mut self, way: Way, flow: Flow) {
        if way != Way::Down {
            self.up = flow;
        }
        if way != Way::Up {
            self.down = flow;
        }
    }
}

/// What a proxy has done so far.
#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// What a proxy has done so far: a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes delivered to the target.
    pub up: u64,
    /// Bytes delivered to clients.
    pub down: u64,
}

/// A running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    orders: watch::Sender<Orders>,
    refusing: watch::Receiver<bool>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a healthy proxy on a free loopback port, towards `target` (`host:port`, resolved anew for
    /// each connection).
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        Self::serve(TcpListener::bind("127.0.0.1:0").await?, target)
    }

    /// Starts a healthy proxy on `listener`, on the current Tokio runtime.
    ///
    /// # Errors
    /// When the listener's own address cannot be read.
    pub fn serve(listener: TcpListener, target: impl Into<String>) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let (orders, _) = watch::channel(Orders::default());
        let (refusal, refusing) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let door = Door { addr, refusal, orders: orders.subscribe() };
        let task = tokio::spawn(door.keep(listener, target.into(), counts.clone()));
        Ok(Self { addr, orders, refusing, counts, task })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Does `fault`. Once this returns, what is sent meets it, and a new connection is refused or not
    /// accordingly; connections that are cut or reset close shortly after.
    pub async fn set(&self, fault: Fault) {
        self.orders.send_modify(|orders| orders.obey(fault));
        let refuse = self.orders.borrow().refuse;
        let _ = self.refusing.clone().wait_for(|refusing| *refusing == refuse).await;
    }

    /// What it has done so far.
    #[must_use]
    pub fn status(&self) -> Status {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { accepted, open, up, down } = &*self.counts;
        Status { accepted: read(accepted), open: read(open), up: read(up), down: read(down) }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lets connections in, or does not.
struct Door {
    addr: SocketAddr,
    refusal: watch::Sender<bool>,
    orders: watch::Receiver<Orders>,
}

impl Door {
    async fn keep(mut self, listener: TcpListener, target: String, counts: Arc<Counts>) {
        let target: Arc<str> = target.into();
        let mut connections = JoinSet::new();
        let mut open = Some(listener);
        let mut shut = None;
        loop {
            let refuse = self.orders.borrow_and_update().refuse;
            if refuse && open.take().is_some() {
                shut = self.reserve();
            } else if !refuse && open.is_none() {
                open = shut.take().or_else(|| self.reserve()).and_then(|socket| socket.listen(BACKLOG).ok());
            }
            if refuse == open.is_none() {
                self.refusal.send_replace(refuse);
            }
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                Some(stream) = accept(open.as_ref()), if connections.len() < MAX_CONNECTIONS => {
                    counts.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(pump::connection(stream, target.clone(), self.orders.clone(), counts.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// The port, bound but not listening: nobody else takes it, and connecting to it is refused.
    fn reserve(&self) -> Option<TcpSocket> {
        let socket = if self.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(self.addr).ok()?;
        Some(socket)
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => match listener.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(_) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                None
            }
        },
        None => std::future::pending().await,
    }
}
