//! A listener to which nobody is to come.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Counts who comes to a port of this machine's loopback, and says nothing to them.
pub struct Trap {
    pub address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Trap {
    pub fn lay() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let trap = Self { address: listener.local_addr().unwrap(), count: Arc::default() };
        trap.watch(listener);
        // The same port of the other loopback, where the machine has one.
        if let Ok(listener) = TcpListener::bind(("::1", trap.address.port())) {
            trap.watch(listener);
        }
        trap
    }

    fn watch(&self, listener: TcpListener) {
        let count = self.count.clone();
        std::thread::spawn(move || {
            while listener.accept().is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}
