//! Faults by text, one command per line, for tests that are not written in Rust.
//!
//! `pause`, `drop`, `delay MS`, `drip MS`, each with `up` or `down` after it or neither for both ways;
//! `cut`, `reset`, `refuse`, `heal`; `status`. Each line is answered with one that starts with `ok` or
//! `error:`.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Fault, FaultProxy, Way};

/// Control connections served at once; later ones wait to be accepted.
const MAX_CONTROLLERS: usize = 64;
/// The longest command.
const MAX_LINE: u64 = 256;

impl FromStr for Fault {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unknown = || format!("unknown command: {line}");
        let fault = match words.as_slice() {
            ["pause", way @ ..] => Self::Pause(parse_way(way).ok_or_else(unknown)?),
            ["drop", way @ ..] => Self::Drop(parse_way(way).ok_or_else(unknown)?),
            ["delay", ms, way @ ..] => Self::Delay(parse_way(way).ok_or_else(unknown)?, millis(ms)?),
            ["drip", ms, way @ ..] => Self::Drip(parse_way(way).ok_or_else(unknown)?, millis(ms)?),
            ["cut"] => Self::Cut,
            ["reset"] => Self::Reset,
            ["refuse"] => Self::Refuse,
            ["heal"] => Self::Heal,
            _ => return Err(unknown()),
        };
        Ok(fault)
    }
}

fn parse_way(words: &[&str]) -> Option<Way> {
    match words {
        [] | ["both"] => Some(Way::Both),
        ["up"] => Some(Way::Up),
        ["down"] => Some(Way::Down),
        _ => None,
    }
}

fn millis(word: &str) -> Result<Duration, String> {
    word.parse().map(Duration::from_millis).map_err(|_| format!("not a number of milliseconds: {word}"))
}

/// Takes commands for `proxy` on `listener` until the future is dropped.
pub async fn serve(listener: TcpListener, proxy: Arc<FaultProxy>) {
    let mut controllers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if controllers.len() < MAX_CONTROLLERS => match accepted {
                Ok((stream, _)) => drop(controllers.spawn(control(stream, proxy.clone()))),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = controllers.join_next() => {}
        }
    }
}

async fn control(stream: TcpStream, proxy: Arc<FaultProxy>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = (&mut stream).take(MAX_LINE).read_line(&mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let answer = match line.trim() {
            _ if !line.ends_with('\n') => return Ok(()),
            "status" => {
                let status = proxy.status();
                let (accepted, open) = (status.accepted, status.open);
                format!("ok accepted={accepted} open={open} up={} down={}\n", status.up, status.down)
            }
            command => match command.parse() {
                Ok(fault) => {
                    proxy.set(fault).await;
                    "ok\n".to_owned()
                }
                Err(error) => format!("error: {error}\n"),
            },
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
