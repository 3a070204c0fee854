//! A thread for each core, each with a runtime of its own, for connections and their legs.
//!
//! A connection stays on its thread for life. On a runtime that shares its tasks between threads, one thread
//! wakes another for nearly every frame, and those wake-ups were most of what a relayed frame cost beside its
//! system calls.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The threads. They end when this is dropped.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    next: AtomicUsize,
    stop: CancellationToken,
}

impl Workers {
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), next: AtomicUsize::new(0), stop };
        for n in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let stopped = workers.stop.clone().cancelled_owned();
            let run = move || runtime.block_on(stopped);
            workers.threads.push(std::thread::Builder::new().name(format!("relay-{n}")).spawn(run)?);
        }
        Ok(workers)
    }

    /// Has one of the threads serve a connection, each in its turn.
    pub(crate) fn serve<F>(
        &self,
        tracker: &TaskTracker,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send,
    {
        // It leaves the reactor that accepted it for that of its thread.
        let stream = stream.into_std()?;
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len();
        tracker.spawn_on(
            async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    serve(stream).await;
                }
            },
            &self.handles[at],
        );
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
