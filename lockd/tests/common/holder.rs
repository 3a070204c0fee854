//! Another process that holds or waits: the test binary itself, told by a variable to be that.

use super::{key, locks, settings, soon, who};
use jetway_lockd::{Lockd, no_floors};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

const VARIABLE: &str = "LOCKD_HOLDER";

/// The body of a test `holder_process` in every binary that uses [`Holder`]. Prints "waiting", "held
/// <fence>", then "frame <fence>" as often as it may, and "over" when it may no more.
pub async fn run() {
    let Ok(port) = std::env::var(VARIABLE) else { return };
    let (port, ttl) = port.split_once(' ').unwrap();
    let ttl = Duration::from_millis(ttl.parse().unwrap());
    let lockd = Lockd::open(&locks(ttl), &settings(port.parse().unwrap()), no_floors()).await.unwrap();
    println!("\nwaiting");
    let lease = lockd.acquire(&key("shared"), &who("holder"), soon()).await.unwrap();
    println!("held {}", lease.fence().to_u64());
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if lease.is_live(tokio::time::Instant::now()) {
            println!("frame {}", lease.fence().to_u64());
        } else {
            println!("over {:?}", lease.over().await);
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Holder {
    child: Child,
    pub lines: Receiver<(Instant, String)>,
}

impl Holder {
    pub fn start(port: u16, ttl: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holder_process", "--nocapture"])
            .env(VARIABLE, format!("{port} {}", ttl.as_millis()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, stdout) = (channel(), BufReader::new(child.stdout.take().unwrap()));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = lines.0.send((Instant::now(), line));
            }
        });
        Self { child, lines: lines.1 }
    }

    /// The rest of the next line that begins so.
    pub fn expect(&self, beginning: &str) -> String {
        loop {
            let (_, line) = self.lines.recv_timeout(Duration::from_secs(20)).expect(beginning);
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim().to_owned();
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
