//! What a CLI process prints: into the log, line by line, bounded and without its token.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jetway_config::{Identity, limits::CLI_OUTPUT_LINE_BYTES, secret::REDACTED};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::oneshot,
    task::JoinSet,
};

/// Lines logged at once, and then per second: a CLI that raves must not fill the operator's disk.
const BURST: u32 = 50;
const PER_SECOND: u32 = 10;
/// Lines, and bytes of each, that are quoted when a process does not come up.
const TAIL_LINES: usize = 5;
const TAIL_LINE_BYTES: usize = 300;
/// How long the last output of an ended process is waited for: a grandchild may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(100);

const ANNOUNCEMENT: &str = "CLI server listening on port ";

/// Reads both pipes of a process for as long as it lives.
pub(crate) struct Output {
    readers: JoinSet<()>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Output {
    /// The receiver gets the port that the process tells it listens on.
    pub(crate) fn read(
        stdout: Option<impl AsyncRead + Send + Unpin + 'static>,
        stderr: Option<impl AsyncRead + Send + Unpin + 'static>,
        who: &Identity,
        secrets: Vec<String>,
    ) -> (Self, oneshot::Receiver<u16>) {
        let (announce, port) = oneshot::channel();
        let tail = Arc::<Mutex<VecDeque<String>>>::default();
        let mut readers = JoinSet::new();
        let log = |stream| Log { who: who.clone(), stream, secrets: secrets.clone(), tail: tail.clone() };
        if let Some(stdout) = stdout {
            readers.spawn(pump(stdout, log("stdout"), Some(announce)));
        }
        if let Some(stderr) = stderr {
            readers.spawn(pump(stderr, log("stderr"), None));
        }
        (Self { readers, tail }, port)
    }

    /// The last lines of a process that has ended, for an error message.
    pub(crate) async fn last_words(&mut self) -> String {
        let all = async { while self.readers.join_next().await.is_some() {} };
        // If time is up the process has said what it had to say.
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

struct Log {
    who: Identity,
    stream: &'static str,
    secrets: Vec<String>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    fn line(&self, line: &str) {
        let redact = |line: String, secret: &String| line.replace(secret, REDACTED);
        let line = self.secrets.iter().fold(line.to_owned(), redact);
        let (tenant, user) = (&self.who.tenant, &self.who.user);
        tracing::info!(target: "jetway_pool::cli", %tenant, %user, stream = self.stream, "{line}");
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line[..line.floor_char_boundary(TAIL_LINE_BYTES)].to_owned());
    }

    fn suppressed(&self, lines: u64) {
        let (tenant, user) = (&self.who.tenant, &self.who.user);
        tracing::warn!(target: "jetway_pool::cli", %tenant, %user, stream = self.stream, lines, "too much output: lines dropped");
    }
}

async fn pump(pipe: impl AsyncRead + Unpin, log: Log, mut announce: Option<oneshot::Sender<u16>>) {
    let mut pipe = BufReader::new(pipe);
    let mut throttle = Throttle::new(Instant::now());
    let mut line = Vec::new();
    while next_line(&mut pipe, &mut line).await.is_ok_and(|more| more) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if let Some(port) = announced_port(text)
            && let Some(announce) = announce.take()
        {
            // The start has been given up: then nobody needs it.
            let _ = announce.send(port);
            continue;
        }
        if text.is_empty() {
            continue;
        }
        if let Some(dropped) = throttle.admit(Instant::now()) {
            if dropped > 0 {
                log.suppressed(dropped);
            }
            log.line(text);
        }
    }
}

fn announced_port(line: &str) -> Option<u16> {
    line.strip_prefix(ANNOUNCEMENT)?.trim().parse().ok().filter(|port| *port > 0)
}

/// Reads one line into `line`, of which what is too long is left out; false at the end.
async fn next_line(pipe: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    loop {
        let chunk = pipe.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = CLI_OUTPUT_LINE_BYTES - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        pipe.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// A token bucket for lines.
struct Throttle {
    tokens: f64,
    at: Instant,
    dropped: u64,
}

impl Throttle {
    fn new(now: Instant) -> Self {
        Self { tokens: f64::from(BURST), at: now, dropped: 0 }
    }

    /// Whether one more line may pass, and how many before it did not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refill = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(PER_SECOND);
        self.at = now;
        self.tokens = (self.tokens + refill).min(f64::from(BURST));
        if self.tokens < 1.0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements() {
        assert_eq!(announced_port("CLI server listening on port 4321"), Some(4321));
        for line in ["CLI server listening on port 0", "CLI server listening on port 70000", "port 1", ""] {
            assert_eq!(announced_port(line), None, "{line}");
        }
    }

    #[test]
    fn throttle() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        assert_eq!((0..100).filter(|_| throttle.admit(now).is_some()).count(), BURST as usize);
        assert_eq!(throttle.admit(now + Duration::from_secs(1)), Some(50));
        assert_eq!(throttle.admit(now + Duration::from_secs(1)), Some(0));
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_tokens_scrubbed() {
        let long = "x".repeat(CLI_OUTPUT_LINE_BYTES * 3);
        let text = format!("{long}\nmy token is hunter2, yes\nlast");
        let mut pipe = BufReader::new(text.as_bytes());
        let mut line = Vec::new();
        assert!(next_line(&mut pipe, &mut line).await.unwrap());
        assert_eq!(line.len(), CLI_OUTPUT_LINE_BYTES);
        let who = Identity { tenant: "t".parse().unwrap(), user: "u".parse().unwrap() };
        let (mut output, _) = Output::read(
            None::<tokio::io::Empty>,
            Some(std::io::Cursor::new(text)),
            &who,
            vec!["hunter2".into()],
        );
        let words = output.last_words().await;
        assert!(words.ends_with("my token is <redacted>, yes / last"), "{words}");
    }
}
