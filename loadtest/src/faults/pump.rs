//! One connection through the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Counts, Flow, Orders};

/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// Chunks under way in one direction: with [`CHUNK`], what a delayed direction holds.
const CHUNKS: usize = 64;
/// How long a cut connection still reads, so that unread bytes do not turn its FIN into an RST.
const LINGER: Duration = Duration::from_secs(1);

/// What arrived from one side.
enum Item {
    Bytes(Instant, Vec<u8>),
    Fin,
    Reset,
}

/// Why a connection ended before both sides closed it.
enum Ending {
    Cut,
    Reset,
}

/// Forwards between `client` and a new connection to `target` until both are closed, or one breaks, or
/// the orders end it.
pub(super) async fn connection(
    mut client: TcpStream,
    target: Arc<str>,
    mut orders: watch::Receiver<Orders>,
    counts: Arc<Counts>,
) {
    let _open = Open::new(counts.clone());
    let born = orders.borrow_and_update().endings;
    let Ok(mut server) = TcpStream::connect(&*target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));

    let ending = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = pump(client_read, server_write, Lane::new(&orders, |orders| orders.up), &counts.up);
        let down = pump(server_read, client_write, Lane::new(&orders, |orders| orders.down), &counts.down);
        let both = async { tokio::try_join!(up, down).map(|_| ()) };
        tokio::select! {
            done = both => match done {
                Ok(()) => return,
                Err(ending) => ending,
            },
            ending = ordered(&mut orders, born) => ending,
        }
    };
    match ending {
        Ending::Cut => {
            let _ = timeout(LINGER, async { tokio::join!(close(&mut client), close(&mut server)) }).await;
        }
        // Only now: with it, an orderly close would throw away what is still to be sent.
        Ending::Reset => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    }
}

/// Waits for a cut or reset after the `born`-th.
async fn ordered(orders: &mut watch::Receiver<Orders>, born: u64) -> Ending {
    match orders.wait_for(|orders| orders.endings > born).await {
        Ok(orders) if !orders.reset => Ending::Cut,
        _ => Ending::Reset,
    }
}

async fn close(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut sink = [0; 4096];
    while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
}

/// The orders, as far as one direction is concerned.
struct Lane {
    orders: watch::Receiver<Orders>,
    flow: fn(&Orders) -> Flow,
}

impl Lane {
    fn new(orders: &watch::Receiver<Orders>, flow: fn(&Orders) -> Flow) -> Self {
        Self { orders: orders.clone(), flow }
    }

    fn now(&mut self) -> Flow {
        (self.flow)(&self.orders.borrow_and_update())
    }

    /// Waits until the orders change, or for `wait`.
    async fn changed_within(&mut self, wait: Duration) {
        let _ = timeout(wait, self.changed()).await;
    }

    async fn changed(&mut self) {
        if self.orders.changed().await.is_err() {
            // The proxy is gone; its task is about to be aborted.
            std::future::pending::<()>().await;
        }
    }
}

/// Forwards one direction. Reading and writing run side by side, so that a delay adds latency only.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, lane: Lane, count: &AtomicU64) -> Result<(), Ending> {
    let (items, queue) = mpsc::channel(CHUNKS);
    let reader_lane = Lane { orders: lane.orders.clone(), flow: lane.flow };
    let mut writing = std::pin::pin!(write(to, queue, lane, count));
    tokio::select! {
        written = &mut writing => written,
        () = read(from, items, reader_lane) => writing.await,
    }
}

async fn read(mut from: ReadHalf<'_>, items: mpsc::Sender<Item>, mut lane: Lane) {
    let mut buffer = vec![0; CHUNK];
    loop {
        while lane.now() == Flow::Pause {
            lane.changed().await;
        }
        let item = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) => Item::Fin,
                Ok(n) => Item::Bytes(Instant::now(), buffer[..n].to_vec()),
                Err(_) => Item::Reset,
            },
            () = lane.changed() => continue,
        };
        let last = !matches!(item, Item::Bytes(..));
        if items.send(item).await.is_err() || last {
            return;
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut queue: mpsc::Receiver<Item>,
    mut lane: Lane,
    count: &AtomicU64,
) -> Result<(), Ending> {
    while let Some(item) = queue.recv().await {
        match item {
            Item::Bytes(at, bytes) => deliver(&mut to, &bytes, at, &mut lane, count).await?,
            last => {
                // Neither end of a stream passes where bytes do not.
                while matches!(lane.now(), Flow::Pause | Flow::Drop) {
                    lane.changed().await;
                }
                return match last {
                    Item::Reset => Err(Ending::Reset),
                    _ => to.shutdown().await.map_err(|_| Ending::Reset),
                };
            }
        }
    }
    Ok(())
}

/// Writes `bytes`, which arrived `at`, as the orders of each moment want it.
async fn deliver(
    to: &mut WriteHalf<'_>,
    mut bytes: &[u8],
    at: Instant,
    lane: &mut Lane,
    count: &AtomicU64,
) -> Result<(), Ending> {
    while !bytes.is_empty() {
        let now = match lane.now() {
            Flow::Drop => return Ok(()),
            Flow::Pause => {
                lane.changed().await;
                continue;
            }
            Flow::Delay(by) if at + by > Instant::now() => {
                tokio::select! {
                    () = sleep_until(at + by) => {}
                    () = lane.changed() => {}
                }
                continue;
            }
            Flow::Drip(_) => 1,
            Flow::Pass | Flow::Delay(_) => bytes.len(),
        };
        to.write_all(&bytes[..now]).await.map_err(|_| Ending::Reset)?;
        count.fetch_add(now as u64, Ordering::Relaxed);
        bytes = &bytes[now..];
        if let Flow::Drip(every) = lane.now() {
            lane.changed_within(every).await;
        }
    }
    Ok(())
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
