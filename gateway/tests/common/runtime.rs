//! A real `copilot-runtime` as a server of a fleet.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::client::Client;

/// The token of every [`Runtime`].
pub const CLI_TOKEN: &str = "the-servers-own";

/// A `copilot-runtime` of the test's own. Dropping it kills and reaps it.
pub struct Runtime {
    process: Child,
    pub address: SocketAddr,
    pub home: tempfile::TempDir,
}

impl Runtime {
    /// `None`, said aloud, where there is none.
    pub fn start_for(test: &str) -> Option<Self> {
        super::runtime(test).map(|program| Self::start(&program))
    }

    fn start(program: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut process = Command::new(program)
            .args(["--headless", "--port", "0"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("COPILOT_HOME", home.path().join("copilot"))
            .env("COPILOT_CACHE_HOME", home.path().join("cache"))
            .env("COPILOT_CONNECTION_TOKEN", CLI_TOKEN)
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let read = BufReader::new(process.stdout.take().unwrap()).read_line(&mut line);
        let port = line.trim().rsplit(' ').next().and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ = process.kill();
            let _ = process.wait();
            panic!("no port in {line:?}, {read:?}");
        };
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)), home }
    }

    /// Where it keeps a session.
    pub fn state_of(&self, session: &str) -> PathBuf {
        self.home.path().join("copilot/session-state").join(session)
    }

    /// A connection without a gateway before it.
    pub async fn connect(&self) -> Client {
        let mut client = Client::dial(self.address).await;
        client.call("connect", json!({ "token": CLI_TOKEN })).await.unwrap();
        client
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
