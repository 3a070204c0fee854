//! A store of the test's own, which can be opened again after its gateway or its server has died.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jetway_config::{Config, Sources};
use jetway_gateway::directory::{Directory, OpenError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const REDIS: &str = "/usr/bin/redis-server";

pub(crate) enum Store {
    Sqlite(tempfile::TempDir),
    Redis(Box<Redis>),
}

/// A Redis server in a directory of its own. Dropping it kills and reaps it.
pub(crate) struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Store {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// `None`, said aloud, without a Redis server on this machine.
    pub(crate) fn redis(test: &str) -> Option<Self> {
        if !std::path::Path::new(REDIS).exists() {
            eprintln!("SKIPPED {test}: no {REDIS}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = serve(&dir, port);
        Some(Self::Redis(Box::new(Redis { dir, port, child })))
    }

    pub(crate) fn toml(&self) -> String {
        match self {
            Self::Sqlite(dir) => format!("directory.path = \"{}/directory.sqlite\"", dir.path().display()),
            Self::Redis(redis) => {
                format!("directory.store = \"redis\"\nredis.url = \"redis://127.0.0.1:{}\"", redis.port)
            }
        }
    }

    pub(crate) async fn open(&self) -> Directory {
        open(&self.toml()).await
    }

    /// Kills the server, if there is one, and starts it with what it had written.
    pub(crate) fn crash(&mut self) {
        if let Self::Redis(redis) = self {
            redis.child.kill().unwrap();
            redis.child.wait().unwrap();
            redis.child = serve(&redis.dir, redis.port);
        }
    }

    /// Forgets everything.
    pub(crate) fn wipe(&mut self) {
        match self {
            Self::Sqlite(dir) => *dir = tempfile::tempdir().unwrap(),
            Self::Redis(_) => self.ask(&redis::cmd("FLUSHALL")),
        }
    }

    /// Tells the Redis server something.
    pub(crate) fn ask(&self, command: &redis::Cmd) {
        let Self::Redis(redis) = self else { return };
        let client = redis::Client::open(("127.0.0.1", redis.port)).unwrap();
        command.exec(&mut client.get_connection().unwrap()).unwrap();
    }

    /// Stops the Redis server, or lets it go on.
    pub(crate) fn pause(&self, pause: bool) {
        let Self::Redis(redis) = self else { return };
        let signal = if pause { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(redis.child.id().try_into().unwrap()), signal).unwrap();
    }
}

pub(crate) async fn open(toml: &str) -> Directory {
    try_open(toml).await.unwrap()
}

pub(crate) async fn try_open(toml: &str) -> Result<Directory, OpenError> {
    let config = Config::load(&Sources::fixed(toml, &[])).unwrap();
    Directory::open(&config.directory, &config.redis).await
}

fn serve(dir: &tempfile::TempDir, port: u16) -> Child {
    let child = Command::new(REDIS)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // It listens before it has read its file; then it says LOADING.
    while TcpStream::connect(("127.0.0.1", port)).is_err() || !answers(port) {
        assert!(Instant::now() < deadline, "redis-server did not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn answers(port: u16) -> bool {
    let client = redis::Client::open(("127.0.0.1", port)).unwrap();
    client.get_connection().is_ok_and(|mut conn| redis::cmd("PING").exec(&mut conn).is_ok())
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
