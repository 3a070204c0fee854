//! Writing whole frames to a socket from several tasks, within a bound.

use std::{
    io,
    mem::MaybeUninit,
    net::Shutdown,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{net::tcp::OwnedWriteHalf, time::timeout};

/// A socket's write half. Frames go out whole and in the order of [`Writer::send`].
///
/// What the socket does not take at once waits here. The bound is kept by whoever produces: after a `send`
/// that reports [`Backlog::Some`], await [`Writer::drained`] before producing more. So at most one read's
/// worth of frames per producer waits, and a peer that does not read stops only those who write to it.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf,
    /// How long the peer may take nothing.
    stall: Duration,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// How far `bytes` is written.
    at: usize,
    /// Set when the peer is gone or hopelessly slow; later frames go nowhere.
    closed: bool,
}

/// Whether anything waits for the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Backlog {
    /// All is with the kernel.
    None,
    /// Await [`Writer::drained`].
    Some,
}

impl Writer {
    pub(crate) fn new(half: OwnedWriteHalf, stall: Duration) -> Self {
        Self { half, stall, queue: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends whole frames.
    pub(crate) fn send(&self, frames: &[u8]) -> Backlog {
        let mut queue = self.lock();
        if queue.closed {
            return Backlog::None;
        }
        if !queue.bytes.is_empty() {
            queue.bytes.extend_from_slice(frames);
            return Backlog::Some;
        }
        let mut at = 0;
        while at < frames.len() {
            match self.half.try_write(&frames[at..]) {
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    queue.bytes.extend_from_slice(&frames[at..]);
                    return Backlog::Some;
                }
                Err(_) => {
                    queue.closed = true;
                    break;
                }
            }
        }
        Backlog::None
    }

    /// Whether anything waits for the socket.
    pub(crate) fn backlog(&self) -> Backlog {
        if self.lock().bytes.is_empty() { Backlog::None } else { Backlog::Some }
    }

    /// Waits until all is with the kernel. A peer that takes nothing for too long is given up.
    pub(crate) async fn drained(&self) -> io::Result<()> {
        while self.backlog() == Backlog::Some {
            match timeout(self.stall, self.half.writable()).await {
                Ok(ready) => ready?,
                Err(_) => {
                    self.give_up();
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            let mut queue = self.lock();
            let Queue { bytes, at, .. } = &mut *queue;
            match self.half.try_write(&bytes[*at..]) {
                Ok(n) => *at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    drop(queue);
                    self.give_up();
                    return Err(e);
                }
            }
            if queue.at == queue.bytes.len() {
                queue.bytes = Vec::new();
                queue.at = 0;
            }
        }
        Ok(())
    }

    /// Closes the socket, both ways, whatever still waits. Whoever reads from it sees its end.
    pub(crate) fn give_up(&self) {
        *self.lock() = Queue { closed: true, ..Queue::default() };
        // It may be closed already.
        let _ = SockRef::from(self.socket()).shutdown(Shutdown::Both);
    }

    /// Whether the peer has ended its side and everything before that was read.
    pub(crate) fn has_ended(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(self.socket()).peek(&mut byte) {
            Ok(read) => read == 0,
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// The socket, for its options.
    pub(crate) fn socket(&self) -> &tokio::net::TcpStream {
        self.half.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
    };

    async fn pair() -> (Writer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Writer::new(near.into_split().1, Duration::from_secs(30)), far)
    }

    #[tokio::test]
    async fn frames_stay_whole_and_in_order_behind_a_slow_reader() {
        let (writer, mut far) = pair().await;
        let mut sent = 0;
        while writer.send(&[(sent % 251) as u8; 60_000]) == Backlog::None {
            sent += 1;
        }
        sent += 1;
        let reading = tokio::spawn(async move {
            let mut all = vec![0; sent * 60_000];
            far.read_exact(&mut all).await.unwrap();
            all.chunks(60_000).enumerate().all(|(n, c)| c.iter().all(|b| *b == (n % 251) as u8))
        });
        writer.drained().await.unwrap();
        assert_eq!(writer.backlog(), Backlog::None);
        assert!(reading.await.unwrap());
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_is_given_up() {
        let (writer, far) = pair().await;
        while writer.send(&[0; 60_000]) == Backlog::None {}
        tokio::time::pause();
        assert_eq!(writer.drained().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(writer.send(b"x"), Backlog::None);
        drop(far);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_no_backlog() {
        let (writer, far) = pair().await;
        drop(far);
        for _ in 0..100 {
            let _ = writer.send(&[0; 60_000]);
            if writer.drained().await.is_err() {
                return;
            }
        }
        assert!(writer.lock().closed);
    }
}
