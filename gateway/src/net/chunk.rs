//! Reading without holding a buffer while there is nothing to read.

use std::{cell::RefCell, future::poll_fn, io, pin::Pin, task::Poll};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::tcp::OwnedReadHalf,
};

/// Bytes read at a time. A larger read means fewer system calls; it is shared by a thread's connections.
const CHUNK: usize = 64 * 1024;
/// Buffers that a thread keeps for its next reads.
const KEPT: usize = 4;

thread_local! {
    static KEPT_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What one read returned. Its buffer goes back to the thread when it is dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    buf: Vec<u8>,
    len: usize,
}

impl Chunk {
    fn take() -> Self {
        let kept = KEPT_BUFFERS.with_borrow_mut(Vec::pop);
        Self { buf: kept.unwrap_or_else(|| vec![0; CHUNK]), len: 0 }
    }

    /// The bytes; none at the end of the stream.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        // A thread that is going away keeps nothing.
        let _ = KEPT_BUFFERS.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT {
                kept.push(buf);
            }
        });
    }
}

/// Waits for bytes, then reads them. Cancelling it loses nothing.
pub(crate) async fn read(half: &mut OwnedReadHalf) -> io::Result<Chunk> {
    poll_fn(|cx| {
        let mut chunk = Chunk::take();
        let mut buf = ReadBuf::new(&mut chunk.buf);
        match Pin::new(&mut *half).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => {
                chunk.len = buf.filled().len();
                Poll::Ready(Ok(chunk))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
