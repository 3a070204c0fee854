//! The thread that writes audit lines.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::error;

use jetway_config::{AuditSink, limits::AUDIT_QUEUE};

use super::line;

/// How long closing waits for a disk.
const CLOSE: Duration = Duration::from_millis(500);

/// Hands lines to the thread. When the last is dropped, the thread ends.
#[derive(Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Line(String),
    Reopen,
    /// Tells when all before it is written.
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
enum Out {
    Stdout,
    File(PathBuf, File),
}

impl Writer {
    pub(super) fn start(sink: &AuditSink) -> io::Result<Option<Self>> {
        let mut out = match sink {
            AuditSink::Off => return Ok(None),
            AuditSink::Stdout => Out::Stdout,
            AuditSink::File(path) => Out::File(path.clone(), open(path)?),
        };
        let (orders, mut ordered) = mpsc::channel(AUDIT_QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let missing = left_out.clone();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some(order) = ordered.blocking_recv() {
                let count = missing.swap(0, Ordering::Relaxed);
                if count > 0 {
                    out.write(&line::left_out(count));
                }
                match order {
                    Order::Line(line) => out.write(&line),
                    Order::Reopen => out.reopen(),
                    Order::Close(done) => _ = done.send(()),
                }
            }
        })?;
        Ok(Some(Self { orders, left_out }))
    }

    pub(super) fn write(&self, line: String) {
        if self.orders.try_send(Order::Line(line)).is_err() {
            self.left_out();
        }
    }

    /// Counts a line that is not written. The next one that is says so.
    pub(super) fn left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reopen(&self) {
        // Full of lines, it is too slow for the old file as well.
        let _ = self.orders.try_send(Order::Reopen);
    }

    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let closing = async {
            if self.orders.send(Order::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        };
        let _ = timeout(CLOSE, closing).await;
    }
}

impl Out {
    fn write(&mut self, line: &str) {
        let written = match self {
            Out::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
            // In one write, so that lines stay whole beside those of other writers.
            Out::File(_, file) => file.write_all(line.as_bytes()),
        };
        if let Err(error) = written {
            error!(%error, "an audit line is lost");
        }
    }

    fn reopen(&mut self) {
        let Out::File(path, file) = self else { return };
        match open(path) {
            Ok(new) => *file = new,
            Err(error) => error!(path = %path.display(), %error, "the audit log goes on in the old file"),
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
