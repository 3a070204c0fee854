//! A TCP proxy that can freeze, cut and lead elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

pub struct Proxy {
    pub port: u16,
    target: Arc<AtomicU16>,
    frozen: watch::Sender<bool>,
    cut: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let (frozen, cut) = (watch::Sender::new(false), watch::Sender::new(0));
        let task = tokio::spawn({
            let (target, frozen, cut) = (Arc::clone(&target), frozen.clone(), cut.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Ordering::SeqCst))).await
                    else {
                        continue;
                    };
                    client.set_nodelay(true).unwrap();
                    server.set_nodelay(true).unwrap();
                    let ((cr, cw), (sr, sw)) = (client.into_split(), server.into_split());
                    tokio::spawn(pipe(cr, sw, frozen.subscribe(), cut.subscribe()));
                    tokio::spawn(pipe(sr, cw, frozen.subscribe(), cut.subscribe()));
                }
            }
        });
        Self { port, target, frozen, cut, task }
    }

    /// From now on nothing passes; no connection breaks.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Breaks all connections; new ones lead to `target`.
    pub fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
        self.cut.send_modify(|n| *n += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut frozen: watch::Receiver<bool>,
    mut cut: watch::Receiver<u64>,
) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = cut.changed() => 0,
        };
        tokio::select! {
            thawed = frozen.wait_for(|frozen| !frozen) => if thawed.is_err() { return },
            _ = cut.changed() => return,
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
