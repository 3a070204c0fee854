//! A Redis server of a test's own: started, stopped, killed and started again, in a directory of its own.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Where Debian's package puts it; `deploy/setup test` installs that.
const PROGRAM: &str = "/usr/bin/redis-server";
/// How long it may take to come up with what it had written.
const START: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);
/// A free port may be taken by somebody else before the server has it.
const PORTS: usize = 5;

/// A running server on loopback, or one that was killed. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Redis {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    args: Vec<String>,
}

impl Redis {
    /// Starts one with these arguments of `redis-server` and no snapshots; it answers when this returns.
    ///
    /// # Panics
    /// If there is no Redis on this machine, or it does not come up within 20 s.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut redis = Self { child: None, port: 0, dir: tempfile::tempdir().expect("a directory"), args };
        for _ in 0..PORTS {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
            redis.port = free.expect("a free port").port();
            if redis.try_up() {
                return redis;
            }
        }
        panic!("redis-server ended at once on {PORTS} free ports, with {:?}", redis.args);
    }

    /// The same for a test that can do without: `None`, said aloud, without a Redis on this machine.
    #[must_use]
    pub fn start_for(test: &str, args: &[&str]) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("SKIPPED {test}: no {PROGRAM}; `deploy/setup test` installs it");
            return None;
        }
        Some(Self::start(args))
    }

    /// Starts it again after [`Redis::kill`], with what is in its directory.
    ///
    /// # Panics
    /// If it does not come up within 20 s.
    pub fn up(&mut self) {
        assert!(self.try_up(), "redis-server ended at once on port {}", self.port);
    }

    fn try_up(&mut self) -> bool {
        let mut child = Command::new(PROGRAM)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""])
            .args(&self.args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let deadline = Instant::now() + START;
        loop {
            if answers(self.port, child.id()).unwrap_or(false) {
                self.child = Some(child);
                return true;
            }
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            if Instant::now() >= deadline {
                let _ = child.kill().and_then(|()| child.wait());
                panic!("redis-server did not come up within {START:?}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// `kill -9`, by its id.
    ///
    /// # Panics
    /// If the process cannot be reaped.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process of ours");
            child.wait().expect("a process of ours");
        }
    }

    /// Stops the process, connections and all, or lets it go on. Nothing happens when it was killed.
    ///
    /// # Panics
    /// If it cannot be signalled.
    pub fn pause(&self, pause: bool) {
        let Some(child) = &self.child else { return };
        let signal = if pause { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("a process of ours");
    }

    /// The process's id.
    ///
    /// # Panics
    /// If it was killed.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("it runs").id().cast_signed()
    }

    /// Where it listens; the same after a restart.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether the process `pid` serves that port. It listens before it has read its files; until then it says
/// `LOADING` to a ping.
fn answers(port: u16, pid: u32) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(b"PING\r\nINFO server\r\nQUIT\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let ours = said.lines().any(|line| line.trim_end() == format!("process_id:{pid}"));
    Ok(ours && said.starts_with("+PONG"))
}
