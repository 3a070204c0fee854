//! A thread with a connection of its own: SQLite blocks, and a runtime's threads must not.

use std::{thread, time::Duration};

use rusqlite::{Connection, Transaction};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::directory::error::StoreError;

/// How many may wait for the thread. At some ten thousand operations a second they wait for a tenth of one.
const QUEUE: usize = 1024;

/// How long one may take, waiting included. Longer than SQLite waits for another program's lock.
const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

#[derive(Debug)]
pub(super) struct Thread {
    jobs: mpsc::Sender<Job>,
    handle: thread::JoinHandle<()>,
}

impl Thread {
    /// Gives `conn` a thread.
    pub(super) fn start(name: &str, mut conn: Connection) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let handle = thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut conn);
            }
        })?;
        Ok(Self { jobs, handle })
    }

    /// Does `job` in a transaction, which is committed unless it fails, and `then` before anybody hears of that. If
    /// the future is dropped, all is done or nothing.
    pub(super) async fn run<T, F, G>(&self, job: F, then: G) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
        G: FnOnce() + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            // Who asked may have gone while it was in the queue.
            if !reply.is_closed() {
                let outcome = transact(conn, job);
                then();
                let _ = reply.send(outcome);
            }
        });
        let asked = async {
            self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(StoreError::Busy))
    }

    /// Waits until what is in the queue is done.
    pub(super) fn join(self) {
        drop(self.jobs);
        let _ = self.handle.join();
    }
}

fn transact<T>(
    conn: &mut Connection,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = conn.transaction()?;
    let value = job(&tx)?;
    tx.commit()?;
    Ok(value)
}
