//! A store of the test's own, which can be opened again after its gateway or its server has died.

use jetway_config::{Config, Sources};
use jetway_gateway::directory::{Directory, OpenError};
use jetway_loadtest::redis::Redis;

pub(crate) enum Store {
    Sqlite(tempfile::TempDir),
    Redis(Box<Redis>),
}

impl Store {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    /// `None`, said aloud, without a Redis server on this machine.
    pub(crate) fn redis(test: &str) -> Option<Self> {
        // With its default, on a busy disk, what it has acknowledged may stay unwritten for two seconds.
        let file = ["--appendonly", "yes", "--appendfsync", "always"];
        Some(Self::Redis(Box::new(Redis::start_for(test, &file)?)))
    }

    pub(crate) fn toml(&self) -> String {
        match self {
            Self::Sqlite(dir) => format!("directory.path = \"{}/directory.sqlite\"", dir.path().display()),
            Self::Redis(redis) => {
                format!("directory.store = \"redis\"\nredis.url = \"{}\"", redis.url())
            }
        }
    }

    pub(crate) async fn open(&self) -> Directory {
        open(&self.toml()).await
    }

    /// Kills the server, if there is one, and starts it with what it had written.
    pub(crate) fn crash(&mut self) {
        if let Self::Redis(redis) = self {
            redis.kill();
            redis.up();
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
        let client = redis::Client::open(redis.url()).unwrap();
        command.exec(&mut client.get_connection().unwrap()).unwrap();
    }

    /// Stops the Redis server, or lets it go on.
    pub(crate) fn pause(&self, pause: bool) {
        if let Self::Redis(redis) = self {
            redis.pause(pause);
        }
    }
}

pub(crate) async fn open(toml: &str) -> Directory {
    try_open(toml).await.unwrap()
}

pub(crate) async fn try_open(toml: &str) -> Result<Directory, OpenError> {
    let config = Config::load(&Sources::fixed(toml, &[])).unwrap();
    Directory::open(&config.directory, &config.redis).await
}
