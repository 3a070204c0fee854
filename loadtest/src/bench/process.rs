//! Programs under measurement: started, read through `/proc`, and stopped by id.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// How long a program may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running program. Dropping it stops it.
#[derive(Debug)]
pub struct Process(Child);

/// What a program and its children use at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU seconds since it started.
    pub cpu: f64,
    /// Resident KiB, pages that its processes share counted once for each.
    pub rss: f64,
    /// Resident KiB, shared pages divided among those who share them.
    pub pss: f64,
}

impl Process {
    /// Starts it, quiet but for its errors.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(Self)
    }

    /// Starts it and reads the ports that it prints, one to a line, as the CLI does.
    ///
    /// # Errors
    /// When it cannot be started, or prints something else.
    pub fn start_cli(command: &mut Command, ports: usize) -> io::Result<(Self, Vec<SocketAddr>)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().map(BufReader::new);
        let process = Self(child);
        let mut addrs = Vec::new();
        for line in out.into_iter().flat_map(BufReader::lines).take(ports) {
            let line = line?;
            let port = line.rsplit(' ').next().and_then(|port| port.parse().ok());
            let port: u16 = port.ok_or_else(|| io::Error::other(format!("no port in {line:?}")))?;
            addrs.push(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        if addrs.len() == ports { Ok((process, addrs)) } else { Err(io::Error::other("it ended at once")) }
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends, or does not accept in time.
    pub fn listening(mut self, at: SocketAddr) -> io::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(at).is_err() {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("it does not listen on {at}")));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(self)
    }

    /// What it and its children use now.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage { cpu: 0.0, rss: 0.0, pss: 0.0 };
        for pid in tree(self.0.id()) {
            usage.cpu += cpu(pid)?;
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let kib = |name: &str| {
                rollup.lines().find_map(|line| line.strip_prefix(name)).map_or(0.0, first_number)
            };
            usage.rss += kib("Rss:");
            usage.pss += kib("Pss:");
        }
        Ok(usage)
    }

    /// CPU seconds that it and its children have used.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn cpu(&self) -> io::Result<f64> {
        tree(self.0.id()).into_iter().map(cpu).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// The process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let found: Vec<u32> =
            children.flat_map(|c| c.split(' ').flat_map(str::parse).collect::<Vec<_>>()).collect();
        pids.extend(found);
        at += 1;
    }
    pids
}

/// By the scheduler's count in nanoseconds; threads that have ended are left out.
fn cpu(pid: u32) -> io::Result<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let counts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    Ok(counts.map(|text| first_number(&text)).sum::<f64>() / 1e9)
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// A loopback address that nobody listens on at the moment.
///
/// # Errors
/// When there is none.
pub fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// Raises the limit on open files as far as it goes, for this process and those it starts.
///
/// # Errors
/// When the limit cannot be read or set.
pub fn raise_file_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The program of that name in `PATH` or where system programs are.
#[must_use]
pub fn find(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(Into::into));
    dirs.map(|dir| dir.join(name)).find(|file| Path::is_file(file))
}
