//! Acceptance check 23: for every input, either Jetway refuses it, or Jetway and the CLI read the same in it.
//!
//! The CLI says what it read: a ping's reply echoes its message, an unknown method's error its name, an unknown
//! session's error the session's id, and every reply the id.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jetway_wire::{
    Envelope, Kind,
    frame::{self, Caps, Decoder},
};
use serde_json::{Value, json};

mod corpus;
use corpus::Random;

const CAPS: Caps = Caps { header: 1024, body: 1 << 20 };
/// Jetway's own: the CLI lets through a little more.
const DEPTH: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);

/// A `copilot-runtime` of this test's own.
struct Cli {
    process: Child,
    address: SocketAddr,
    home: PathBuf,
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn start() -> Option<Cli> {
    let installed =
        "../loadtest/node_modules/@github/copilot-sdk-linux-x64/prebuilds/linux-x64/copilot-runtime";
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(installed);
    if !program.exists() {
        return None;
    }
    let home = std::env::temp_dir().join(format!("jetway-differential-{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("a directory");
    let mut process = Command::new(program)
        .args(["--headless", "--port", "0"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home)
        .env("COPILOT_HOME", home.join("copilot"))
        .env("COPILOT_CACHE_HOME", home.join("cache"))
        .current_dir(&home)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("copilot-runtime starts");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("it speaks");
    let port = line.trim().rsplit(' ').next().and_then(|p| p.parse().ok());
    let address = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or_else(|| panic!("no port in {line:?}"))));
    Some(Cli { process, address, home })
}

/// A connection to it, and what it has said.
struct Link {
    stream: TcpStream,
    decoder: Decoder,
    sentinels: u64,
}

impl Link {
    fn open(cli: &Cli) -> Self {
        let stream = TcpStream::connect(cli.address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, decoder: Decoder::new(CAPS), sentinels: 0 }
    }

    /// Sends `bytes` and then a ping of its own; returns every message but notifications that comes until that is
    /// answered and `expected` messages are there, and a moment longer. `None` if the CLI closed.
    fn ask(&mut self, bytes: &[u8], expected: usize) -> Option<Vec<Value>> {
        self.sentinels += 1;
        let sentinel = format!("sentinel-{}", self.sentinels);
        let mut out = bytes.to_vec();
        let ping = json!({ "jsonrpc": "2.0", "id": sentinel, "method": "ping" }).to_string();
        frame::write(&mut out, &[ping.as_bytes()]);
        self.stream.write_all(&out).ok()?;
        let (mut replies, mut answered, until) = (Vec::new(), false, Instant::now() + PATIENCE);
        // Replies may overtake each other: one that nobody expects may come after the sentinel's.
        let mut linger = None;
        loop {
            if answered && replies.len() >= expected {
                linger.get_or_insert_with(|| Instant::now() + Duration::from_millis(2));
            }
            let left = linger.unwrap_or(until).saturating_duration_since(Instant::now());
            if left.is_zero() {
                assert!(answered, "the CLI answers no more");
                return Some(replies);
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            let mut chunk = [0; 1 << 14];
            let read = match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(e)
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => return None,
            };
            let mut batch = self.decoder.feed(&chunk[..read]);
            while let Some(frame) = batch.next().expect("the CLI's frames are sound") {
                let message: Value = serde_json::from_slice(frame.body).expect("the CLI speaks JSON");
                if message["id"] == *sentinel {
                    answered = true;
                } else if message.get("id").is_some() {
                    replies.push(message);
                }
            }
        }
    }
}

/// What Jetway reads in `bytes`, if it takes them: the replies that the CLI then owes.
fn jetway(bytes: &[u8]) -> Option<Vec<Expected>> {
    let mut decoder = Decoder::new(CAPS);
    let mut batch = decoder.feed(bytes);
    let mut expected = Vec::new();
    while let Some(frame) = batch.next().ok()? {
        let envelope = Envelope::strict(frame.body, DEPTH).ok()?;
        if let Kind::Request { id, method, params } = &envelope.kind {
            let mut text = Vec::new();
            id.write(&mut text);
            let text_of =
                |name: &str| params.and_then(|p| p.get(name)).map(|v| v.as_str().map(|s| s.into_owned()));
            expected.push(Expected {
                id: serde_json::from_slice(&text).expect("an id"),
                method: method.clone().into_owned(),
                message: text_of("message"),
                session: text_of("sessionId"),
            });
        }
    }
    drop(batch);
    // What is left over would swallow the sentinel.
    (!decoder.mid_frame()).then_some(expected)
}

#[derive(Debug)]
struct Expected {
    id: Value,
    method: String,
    /// A member of the params: absent, not a text, or a text.
    message: Option<Option<String>>,
    session: Option<Option<String>>,
}

impl Expected {
    /// Whether `reply` is to this, as Jetway read it.
    fn agrees(&self, reply: &Value) -> bool {
        let error = reply["error"]["message"].as_str().unwrap_or_default();
        reply["id"] == self.id
            && match self.method.as_str() {
                "ping" => {
                    let echo = match &self.message {
                        Some(Some(text)) if !text.is_empty() => format!("pong: {text}"),
                        Some(Some(_)) => {
                            return ["pong", "pong: "].contains(&&*text_of(&reply["result"]["message"]));
                        }
                        _ => "pong".to_owned(),
                    };
                    reply["result"]["message"] == *echo
                }
                "session.name.get" => match &self.session {
                    Some(Some(id)) => error.ends_with(&format!(": {id}")),
                    _ => !error.is_empty(),
                },
                unknown => error == format!("Unhandled method {unknown}"),
            }
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Tally {
    /// Inputs that Jetway refuses.
    refused: usize,
    /// Requests in which the CLI read what Jetway read.
    alike: usize,
    /// Requests that Jetway takes and the CLI refuses: nothing was routed anywhere.
    by_cli: usize,
    disagreements: Vec<Vec<u8>>,
}

impl Tally {
    /// Whether the CLI reads in `bytes` what Jetway reads there, which takes them.
    fn compare(&mut self, link: &mut Link, bytes: &[u8]) -> bool {
        let Some(expected) = jetway(bytes) else { return false };
        let Some(mut replies) = link.ask(bytes, expected.len()) else { return false };
        let refusal =
            |r: &Value| r["id"].is_null() && [json!(-32600), json!(-32700)].contains(&r["error"]["code"]);
        let (refusals, before) = (replies.iter().filter(|r| refusal(r)).count(), replies.len());
        replies.retain(|r| !refusal(r));
        let mut unanswered = 0;
        for expected in expected {
            match replies.iter().position(|r| expected.agrees(r)) {
                Some(at) => drop(replies.swap_remove(at)),
                None => unanswered += 1,
            }
        }
        let agree = replies.is_empty() && unanswered == refusals;
        if agree {
            self.alike += before - refusals;
            self.by_cli += refusals;
        }
        agree
    }
}

/// A message in an odd spelling, mostly one that can be taken.
fn spell(random: &mut Random) -> Vec<u8> {
    let id = random.pick(&[
        "7",
        "0",
        "-7",
        "\"a\"",
        "\"\\u0061\"",
        "\"\\ud83d\\ude00\"",
        "9007199254740991",
        "-0",
        "007",
        "7.0",
    ]);
    let method = random.pick(&[
        "ping",
        "pi\\u006eg",
        "Ping",
        "ping\\u0000",
        "no.such",
        "session.name.get",
        "é\\/",
        " ping",
    ]);
    let text = random.pick(&[
        "x",
        "\\u0078",
        "é",
        "\\ud83d\\ude00",
        "a\\\"b\\\\",
        "",
        "../x",
        "\\u0000",
        "his\\u002dsession",
        "\u{2028}",
    ]);
    let space = random.pick(&["", " ", "\r\n\t", "  "]);
    let session = random.pick(&[
        "sessionId",
        "session\\u0049d",
        "SessionId",
        "sessionid",
        "session_id",
        "sessionId\\u0000",
    ]);
    let more = random.pick(&[
        "",
        ",\"x\":[[{}]]",
        ",\"sessionId\":\"second\"",
        ",\"sess\\u0069onId\":\"second\"",
        ",\"n\":1e308",
        ",\"message\":7",
    ]);
    let mut members = [
        "\"jsonrpc\":\"2.0\"".to_owned(),
        format!("\"id\"{space}:{space}{id}"),
        format!("\"{}\":\"{method}\"", random.pick(&["method", "meth\\u006fd"])),
        format!("\"params\":{{\"message\":\"{text}\",{space}\"{session}\":\"{text}\"{more}}}"),
    ];
    for i in (1..members.len()).rev() {
        members.swap(i, random.below(i + 1));
    }
    format!("{space}{{{}}}{space}", members.join(&format!("{space},"))).into_bytes()
}

fn framed(body: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    match random.below(8) {
        0 => out.extend_from_slice(format!("content-LENGTH:{}\r\n\r\n", body.len()).as_bytes()),
        1 => out.extend_from_slice(
            format!("X-A: b: c\r\nContent-Length:\t{} \r\nZ:\r\n\r\n", body.len()).as_bytes(),
        ),
        2 => out.extend_from_slice(
            format!("Content-Length-Old: 3\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
        ),
        _ => out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes()),
    }
    out.extend_from_slice(body);
    out
}

/// An input that may be anything, and mostly is a message.
fn invent(random: &mut Random) -> Vec<u8> {
    let mut body = spell(random);
    if random.below(3) == 0 {
        corpus::mutate(&mut body, random);
    }
    let mut input = framed(&body, random);
    if random.below(8) == 0 {
        corpus::mutate(&mut input, random);
    }
    input
}

#[test]
fn check_23_jetway_reads_what_the_cli_reads() {
    let Some(cli) = start() else {
        eprintln!("SKIPPED check_23: no copilot-runtime; `make test` installs it");
        return;
    };
    let given = std::env::var("JETWAY_FUZZ_SEED").ok();
    let seed =
        given.map_or_else(|| u64::from(std::process::id()) << 20 | 0xd1ff, |s| s.parse().expect("a number"));
    println!("seed {seed}; JETWAY_FUZZ_SEED repeats it");
    let mut random = Random::new(seed);
    let mut inputs: Vec<_> = corpus::bodies().iter().map(|(body, _)| framed(body, &mut random)).collect();
    inputs.extend(corpus::streams().into_iter().map(|(stream, _)| stream));
    let until = Instant::now() + Duration::from_secs(10);
    let mut link = Link::open(&cli);
    let mut tally = Tally::default();
    let mut next = inputs.into_iter();
    while Instant::now() < until {
        // Many at once: alone each would wait for the CLI's delayed segments.
        let batch: Vec<_> = (0..32).map(|_| next.next().unwrap_or_else(|| invent(&mut random))).collect();
        let (taken, refused): (Vec<_>, Vec<_>) = batch.into_iter().partition(|input| jetway(input).is_some());
        tally.refused += refused.len();
        if tally.compare(&mut link, &taken.concat()) {
            continue;
        }
        // One of them it was, or several; the connection may be out of step.
        for input in taken {
            link = Link::open(&cli);
            if !tally.compare(&mut link, &input) {
                tally.disagreements.push(input);
            }
        }
        link = Link::open(&cli);
    }
    let Tally { refused, alike, by_cli, disagreements } = tally;
    println!(
        "CHECK 23: {refused} inputs refused by Jetway, {alike} requests read alike, {by_cli} refused by the CLI alone, {} disagreements",
        disagreements.len()
    );
    for input in disagreements.iter().take(10) {
        println!("Jetway reads {:?} in\n    {:?}", jetway(input), String::from_utf8_lossy(input));
    }
    assert!(disagreements.is_empty());
    assert!(alike > 500, "too few for a check");
}
