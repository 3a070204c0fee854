//! The real program, as an operator runs it.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// `jetway` without a variable of the tests' own surroundings that it would read.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JETWAY_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A running `jetway serve`. Dropping it kills and reaps it.
pub struct Program {
    child: Child,
    pub sdk: SocketAddr,
    /// If it is on.
    pub http: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// Its own directory; goes with it.
    pub dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// Where it listens.
struct Addresses {
    sdk: SocketAddr,
    http: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Program {
    /// Starts it and waits until it listens.
    pub fn start(toml: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), toml)
    }

    pub fn start_in(dir: tempfile::TempDir, toml: &str) -> Self {
        Self::start_with(dir, toml, &[])
    }

    /// With variables in its environment.
    pub fn start_with(dir: tempfile::TempDir, toml: &str, env: &[(&str, &str)]) -> Self {
        std::fs::write(dir.path().join("jetway.toml"), toml).unwrap();
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (child, Addresses { sdk, http, admin }) = Self::launch(&dir, &env);
        Self { child, sdk, http, admin, dir, env }
    }

    /// Starts it once more where it was, after its end.
    pub fn start_again(&mut self) {
        assert!(!self.is_running());
        let (child, Addresses { sdk, http, admin }) = Self::launch(&self.dir, &self.env);
        (self.child, self.sdk, self.http, self.admin) = (child, sdk, http, admin);
    }

    fn launch(dir: &tempfile::TempDir, env: &[(String, String)]) -> (Child, Addresses) {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = command();
        command.args(["serve", "--config"]).arg(dir.path().join("jetway.toml")).current_dir(dir);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            let address = line.strip_prefix(&format!("{name} listening on ")).map(str::parse);
            match address {
                Some(Ok(address)) => Ok(address),
                _ => Err(format!("{line:?} is no address of {name}; {}", read(&dir.path().join("log")))),
            }
        };
        let toml = std::fs::read_to_string(dir.path().join("jetway.toml")).unwrap();
        let http = if toml.contains("http = \"off\"") { Ok(None) } else { Err(()) };
        match (address("sdk"), http.or_else(|()| address("http").map(Some)), address("admin")) {
            (Ok(sdk), Ok(http), Ok(admin)) => (child, Addresses { sdk, http, admin }),
            (Err(why), _, _) | (_, Err(why), _) | (_, _, Err(why)) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{why}");
            }
        }
    }

    /// The CPU time that it has used, its threads together.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name in parentheses may hold anything; these are the 12th and 13th field after it.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|n| n.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Waits for its end; fails and kills it after `within`.
    pub async fn exit(&mut self, within: Duration) -> (ExitStatus, Duration) {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, since.elapsed());
            }
            assert!(since.elapsed() < within, "still runs after {within:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        read(&self.dir.path().join("log"))
    }

    /// What is resident of it, in bytes; `VmHWM` is the most there was since [`Program::reset_peak`].
    pub fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn reset_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    /// Status and body of a page of the admin port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await
    }

    /// The value of a metric, written as `/metrics` does: `name{label="value"}`; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |v| v.parse().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of jetway:\n{}", self.log());
        }
    }
}

fn read(path: &PathBuf) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A page.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, "GET", path).await
}

/// A request without a body over HTTP/1.0: the answer's end is the end of the connection.
pub async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Processes whose environment or arguments contain `text`, zombies left out.
pub fn bearing(text: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let bears = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(text)
    };
    pids.filter(bears).collect()
}
