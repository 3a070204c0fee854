//! What happens when more is asked for than there is room for. `make overload` runs it at full length, with the
//! figures of the checks; `make test` a few seconds, with wide margins.

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{client::Client, client::is_event, fleet, program::Program, quantile, stub};
use jetway_config::keys::KeyHash;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};

/// Seconds of overload; given by `make overload`, which also asks for the checks' own figures.
fn strict() -> Option<u64> {
    std::env::var("JETWAY_OVERLOAD_SECONDS").ok()?.parse().ok()
}

/// What became of a turn, and how long it took to become that.
enum Turn {
    Done(Duration),
    Refused(Duration, Value),
}

/// A client with a session.
struct Caller {
    client: Client,
    session: String,
}

impl Caller {
    async fn new(address: SocketAddr, token: &str, session: String) -> Self {
        let mut client = Client::hello(address, token).await;
        client.create(&session).await;
        Self { client, session }
    }

    async fn turn(&mut self, script: &str) -> Turn {
        let (from, since) = (self.client.seen.len(), Instant::now());
        let params = json!({ "sessionId": self.session, "prompt": script });
        let id = self.client.request("session.send", params).await;
        let session = self.session.clone();
        let ends =
            |m: &Value| is_event(m, &session, "session.idle") || (m["id"] == id && m["error"].is_object());
        let end = self.client.find(from, ends).await;
        match end.get("error") {
            Some(error) => Turn::Refused(since.elapsed(), error["data"].clone()),
            None => Turn::Done(since.elapsed()),
        }
    }

    /// Asks for a turn every `every`, until `until`; one that takes longer delays the next.
    async fn run(
        mut self,
        first: Instant,
        every: Duration,
        until: Instant,
        script: fn(u32) -> String,
    ) -> Vec<Turn> {
        let (mut at, mut turns, mut n) = (first, Vec::new(), 0);
        while at < until {
            sleep_until(at.into()).await;
            turns.push(self.turn(&script(n)).await);
            at = (at + every).max(Instant::now());
            n += 1;
        }
        turns
    }
}

/// Runs all of them, a little apart from each other.
async fn run(callers: Vec<Caller>, every: Duration, until: Instant, script: fn(u32) -> String) -> Vec<Turn> {
    let apart = every / u32::try_from(callers.len()).unwrap();
    let mut running = JoinSet::new();
    let mut first = Instant::now();
    for caller in callers {
        running.spawn(caller.run(first, every, until, script));
        first += apart;
    }
    running.join_all().await.into_iter().flatten().collect()
}

async fn callers(address: SocketAddr, token: &str, count: usize, name: &str) -> Vec<Caller> {
    let mut callers = Vec::new();
    for n in 0..count {
        callers.push(Caller::new(address, token, format!("{name}-{n}")).await);
    }
    callers
}

fn done(turns: &[Turn]) -> Vec<Duration> {
    turns.iter().filter_map(|t| if let Turn::Done(took) = t { Some(*took) } else { None }).collect()
}

fn refused(turns: &[Turn]) -> Vec<(Duration, &Value)> {
    turns
        .iter()
        .filter_map(|t| if let Turn::Refused(took, data) = t { Some((*took, data)) } else { None })
        .collect()
}

/// Check 39: twice what there is room for.
#[tokio::test(flavor = "multi_thread")]
async fn check_39_twice_the_capacity() {
    const SLOTS: usize = 8;
    const TAKES: Duration = Duration::from_millis(100);
    fn script(_: u32) -> String {
        "[[quiet]] [[delay 100]] [[say x]]".into()
    }
    let length = Duration::from_secs(strict().unwrap_or(3));
    let stub = stub(1);
    let limits = format!(
        "limits.max_concurrent_turns = {SLOTS}\nlimits.turn_wait = \"1s\"\ntenants.default = {{ max_waiting_turns = {SLOTS}, requests_per_second = 1000000, user_share = \"100%\" }}"
    );
    let jetway = Program::start(&fleet(stub.addrs(), &limits));
    // As many at once as there is room for, each as soon as it can.
    let full = callers(jetway.sdk, "full", SLOTS, "full").await;
    let peak_length = length.min(Duration::from_secs(10));
    let since = Instant::now();
    let turns = run(full, Duration::from_micros(1), since + peak_length, script).await;
    let peak = done(&turns).len() as f64 / since.elapsed().as_secs_f64();
    assert!(refused(&turns).is_empty(), "there was room for all of these");
    // Twice as many turns in a second, from so many callers that nearly all of them are free to ask.
    let crowd = callers(jetway.sdk, "crowd", SLOTS * 8, "crowd").await;
    let since = Instant::now();
    let turns = run(crowd, TAKES * 4, since + length, script).await;
    let goodput = done(&turns).len() as f64 / since.elapsed().as_secs_f64();
    let offered = turns.len() as f64 / since.elapsed().as_secs_f64();
    let refusals = refused(&turns);
    for (_, data) in &refusals {
        assert!(
            ["max_waiting_turns", "turn_wait"].contains(&data["limit"].as_str().unwrap_or_default()),
            "{data}"
        );
        assert!(data["retryAfterMs"].as_u64().is_some_and(|ms| ms >= 50), "{data}");
    }
    let mut took: Vec<_> = refusals.iter().map(|(took, _)| *took).collect();
    assert!(!took.is_empty(), "{offered:.0} turns per second were offered, and none refused");
    let (median, most) = (quantile(&mut took, 0.5), quantile(&mut took, 0.99));
    println!(
        "CHECK 39: peak {peak:.1} turns/s; {offered:.1} offered for {length:?}: {goodput:.1} done ({:.2} of the peak), {} refused, p50 {median:.2?}, p99 {most:.2?}",
        goodput / peak,
        took.len()
    );
    let (share, allowed) =
        if strict().is_some() { (0.9, Duration::from_millis(10)) } else { (0.5, Duration::from_secs(1)) };
    assert!(goodput >= share * peak, "{goodput} of {peak}");
    assert!(if strict().is_some() { most <= allowed } else { median <= allowed }, "{median:?} {most:?}");
}

/// Check 40: ten tenants, of whom one asks for a hundred times its share.
#[tokio::test(flavor = "multi_thread")]
async fn check_40_one_tenant_of_ten_is_greedy() {
    const SLOTS: usize = 20;
    // A share is two turns at a time, so one of 200 ms every 200 ms is half of it.
    const EVERY: Duration = Duration::from_millis(200);
    fn modest(_: u32) -> String {
        "[[quiet]] [[delay 200]] [[say x]]".into()
    }
    fn greedy(n: u32) -> String {
        // Of many lengths, so that they do not all end at once.
        format!("[[quiet]] [[delay {}]] [[say x]]", 100 + n * 37 % 200)
    }
    let length = Duration::from_secs(strict().unwrap_or(4).min(60));
    let stub = stub(1);
    let entries = (0..10).map(|n| {
        let hash = KeyHash::of(&format!("token-{n}")).to_hex();
        format!("{{ id = \"t{n}\", tenant = \"t{n}\", user = \"me\", sha256 = \"{hash}\" }}")
    });
    let limits = format!(
        "limits.max_concurrent_turns = {SLOTS}\ntenants.default = {{ max_concurrent_turns = {SLOTS}, max_waiting_turns = 20, requests_per_second = 1000000, user_share = \"100%\" }}\nauth.keys = [{}]",
        entries.collect::<Vec<_>>().join(", ")
    );
    let jetway = Program::start(&fleet(stub.addrs(), &limits));
    let nine = async |phase: &str, until: Instant| {
        let mut callers = Vec::new();
        for n in 1..10 {
            callers.push(Caller::new(jetway.sdk, &format!("token-{n}"), format!("{phase}-{n}")).await);
        }
        run(callers, EVERY, until, modest).await
    };
    let alone = nine("alone", Instant::now() + length).await;
    // A hundred times its share: two hundred at a time. Sixty are more than may run and wait, too.
    let greed = if strict().is_some() { 200 } else { 60 };
    let crowd = callers(jetway.sdk, "token-0", greed, "greedy").await;
    let until = Instant::now() + length;
    let (besides, crowd) = tokio::join!(nine("besides", until), run(crowd, EVERY, until, greedy));
    let (mut before, mut beside) = (done(&alone), done(&besides));
    let refusals = refused(&alone).len() + refused(&besides).len();
    let p = |turns: &mut Vec<Duration>| (quantile(turns, 0.5), quantile(turns, 0.99));
    let ((p50, p99), (beside50, beside99)) = (p(&mut before), p(&mut beside));
    println!(
        "CHECK 40: nine alone: {} turns, p50 {p50:.0?}, p99 {p99:.0?}; beside a greedy one ({} turns, {} refused): {} turns, p50 {beside50:.0?}, p99 {beside99:.0?} ({:.2}), {refusals} refused",
        before.len(),
        done(&crowd).len(),
        refused(&crowd).len(),
        beside.len(),
        beside99.as_secs_f64() / p99.as_secs_f64(),
    );
    assert!(!refused(&crowd).is_empty(), "the greedy one was not greedy enough");
    assert_eq!(refusals, 0, "of the nine");
    let (most, ratio, of) = if strict().is_some() { (beside99, 1.5, p99) } else { (beside50, 3.0, p50) };
    assert!(most.as_secs_f64() <= ratio * of.as_secs_f64(), "{most:?} is more than {ratio} times {of:?}");
}
