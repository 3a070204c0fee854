//! A Redis, a CLI server, some gateways, and a session `room` that people on all of them share.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use jetway_loadtest::{
    redis::Redis,
    stub::{Entry, Event, Stub},
};
use jetway_lockd::Fence;
use serde_json::{Value, json};

use crate::common::{self, client::Client, program::Program};

/// The longest that a turn may take to come, whatever goes wrong around it.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Beyond what is promised, for machines that are slow: what is measured is printed.
pub(crate) const SLACK: Duration = Duration::from_secs(10);
/// Before what was refused is tried again.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Scene {
    // Gateways end before what they stand on.
    pub(crate) gateways: Vec<Program>,
    pub(crate) stub: Stub,
    pub(crate) redis: Redis,
}

impl Scene {
    /// `None`, said aloud, without a Redis server on this machine.
    pub(crate) fn start(test: &str, gateways: usize, ttl: &str, redis: &[&str]) -> Option<Self> {
        let redis = Redis::start_for(test, redis)?;
        let stub = common::stub(1);
        let toml = toml(&redis, ttl, stub.addrs());
        let gateways = (0..gateways).map(|_| Program::start(&toml)).collect();
        Some(Self { gateways, stub, redis })
    }

    /// The people of the session, on one gateway after the other; the first owns it.
    pub(crate) async fn room(&self, people: &[&str]) -> Vec<Person> {
        let addresses: Vec<_> = self.gateways.iter().map(|gateway| gateway.sdk).collect();
        room(&addresses, people, &json!({ "sessionId": "room", "model": "stub", "hooks": true })).await
    }

    /// The fence that is written down beside the session.
    pub(crate) fn fence(&self) -> u64 {
        let mut conn = connect(&self.redis);
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("jetway:{directory}:entry:*room").query(&mut conn).unwrap();
        let [key] = &keys[..] else { panic!("not one entry: {keys:?}") };
        redis::cmd("HGET").arg(key).arg("fence").query(&mut conn).unwrap()
    }

    /// The session's tenures that ended, in their order, as the gateways logged them. What a gateway lost it
    /// heard of later; that has no place in the order.
    fn tenures(&self) -> Vec<Tenure> {
        let mut all = Vec::new();
        for (gateway, program) in self.gateways.iter().enumerate() {
            let log = program.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let ended = lines.filter(|line| line["message"] == "a tenure ended");
            all.extend(ended.map(|line| Tenure {
                ended: line["timestamp"].as_str().unwrap().to_owned(),
                gateway,
                fence: fence(line["fence"].as_str().unwrap()),
                lost: line["why"].as_str().unwrap().starts_with("Lost"),
            }));
        }
        all.sort();
        all
    }

    /// Every tenure has a fence of its own, above those that ended before. Returns how many there were, and how
    /// often the gateway changed.
    pub(crate) fn fences_increase(&self) -> (usize, usize) {
        let all = self.tenures();
        let mut fences: Vec<_> = all.iter().map(|t| t.fence).collect();
        fences.sort_unstable();
        assert!(fences.windows(2).all(|two| two[0] < two[1]), "a fence was used twice: {fences:?}");
        let kept: Vec<_> = all.iter().filter(|t| !t.lost).collect();
        let falls = kept.windows(2).find(|two| two[0].fence >= two[1].fence);
        assert!(falls.is_none(), "a fence fell: {falls:?}");
        let last = kept.last().map_or(Fence::NONE, |t| t.fence);
        assert!(self.fence() >= last.to_u64(), "the highest is written down");
        (all.len(), kept.windows(2).filter(|two| two[0].gateway != two[1].gateway).count())
    }

    /// No turn ran at once with another, and none twice. Returns how many came to their end.
    pub(crate) fn no_overlap(&self) -> usize {
        let findings = self.stub.ledger().findings();
        assert!(findings.is_clean(), "{findings:#?}");
        self.stub.ledger().entries().iter().filter(|e| e.event == Event::End).count()
    }

    /// Waits for what the ledger says of the turn with that nonce.
    pub(crate) async fn line(&self, nonce: &str, event: Event) -> Entry {
        let is = |e: &Entry| e.nonce.as_deref() == Some(nonce) && e.event == event;
        common::until(nonce, || self.stub.ledger().entries().iter().any(is)).await;
        self.stub.ledger().entries().into_iter().find(is).unwrap()
    }

    /// Waits until what a gateway tells of the session's lock is as it should be.
    pub(crate) async fn until_lock(&self, gateway: usize, what: &str, holds: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            let (_, page) = self.gateways[gateway].get("/admin/v1/status").await;
            let page: Value = serde_json::from_str(&page).unwrap();
            if holds(&page["locks"][0]) {
                return;
            }
            assert!(Instant::now() < deadline, "not within {LONG:?}: {what}: {:#}", page["locks"]);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A time for which a gateway had the session.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tenure {
    /// RFC 3339, of one machine's clock, to the microsecond: longer than this takes a lease to change hands.
    ended: String,
    gateway: usize,
    fence: Fence,
    lost: bool,
}

/// What a log calls `epoch.counter`.
fn fence(text: &str) -> Fence {
    let (epoch, counter) = text.split_once('.').unwrap();
    Fence::new(epoch.parse().unwrap(), counter.parse().unwrap())
}

/// Gateways that share that Redis and that fleet.
pub(crate) fn toml(redis: &Redis, ttl: &str, servers: &[SocketAddr]) -> String {
    toml_of(redis, ttl, servers, "")
}

/// The same, with something said of each server.
pub(crate) fn toml_of(redis: &Redis, ttl: &str, servers: &[SocketAddr], each: &str) -> String {
    let more = format!(
        "directory.store = \"redis\"\nredis.url = \"{}\"\nlocks = {{ store = \"redis\", ttl = \"{ttl}\", wait = \"60s\" }}",
        redis.url()
    );
    common::fleet_of(servers, each, &more)
}

/// People who share a session of those settings, on one gateway after the other; the first owns it.
pub(crate) async fn room(gateways: &[SocketAddr], people: &[&str], settings: &Value) -> Vec<Person> {
    let members: Vec<_> = people[1..].iter().map(|user| json!({ "user": user, "role": "member" })).collect();
    let mut all = Vec::new();
    for (n, user) in people.iter().enumerate() {
        let mut client = Client::hello(gateways[n % gateways.len()], user).await;
        let mut params = settings.clone();
        let method = if n == 0 { "session.create" } else { "session.resume" };
        if n == 0 {
            params["members"] = json!(members);
        }
        client.call(method, params).await.unwrap();
        all.push(Person { client, user: (*user).to_owned(), turns: 0 });
    }
    all
}

pub(crate) fn connect(redis: &Redis) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

/// Somebody in the session.
pub(crate) struct Person {
    pub(crate) client: Client,
    user: String,
    turns: usize,
}

impl Person {
    /// Sends a prompt with a nonce of its own and waits for nothing. Returns the nonce and the request's id.
    pub(crate) async fn ask(&mut self, prompt: &str) -> (String, i64) {
        self.turns += 1;
        let nonce = format!("{}-{}", self.user, self.turns);
        let prompt = format!("{prompt} nonce:{nonce}");
        let id = self.client.request("session.send", json!({ "sessionId": "room", "prompt": prompt })).await;
        (nonce, id)
    }

    /// The answer to a request that may have had to wait.
    pub(crate) async fn reply(&mut self, id: i64) -> Result<Value, Value> {
        let is = |m: &Value| m["id"] == id && m["method"].is_null();
        assert!(self.client.read_until(LONG, |seen| seen.iter().any(is)).await, "{} waits", self.user);
        common::client::outcome(self.client.seen.iter().find(|m| is(m)).unwrap())
    }

    /// Sends a prompt and waits until its turn has begun. Returns its nonce.
    pub(crate) async fn begin(&mut self, prompt: &str) -> Result<String, Value> {
        let (nonce, id) = self.ask(prompt).await;
        self.reply(id).await.map(|_| nonce)
    }

    /// Waits for the end of the turn whose prompt was taken last; all that came so far is forgotten.
    pub(crate) async fn end(&mut self) -> Result<(), Value> {
        let taken = |m: &Value| m["method"].is_null() && m["result"]["messageId"].is_string();
        let is = |m: &Value| ["session.idle", "session.error"].into_iter().any(|kind| is_of_room(m, kind));
        let end = |seen: &[Value]| {
            let at = seen.iter().rposition(taken).expect("a prompt was taken");
            seen[at..].iter().find(|m| is(m)).map(|m| m["params"]["event"].clone())
        };
        let ended = self.client.read_until(LONG, |seen| end(seen).is_some()).await;
        assert!(ended, "{}'s turn does not end", self.user);
        let event = end(&self.client.seen).unwrap();
        self.client.seen.clear();
        self.client.raw.clear();
        if event["type"] == "session.idle" { Ok(()) } else { Err(event["data"].clone()) }
    }

    /// A whole turn, tried again with a new prompt when it is refused or lost. Returns how often it had to be.
    pub(crate) async fn turn(&mut self, prompt: &str) -> usize {
        let deadline = Instant::now() + 2 * LONG;
        for tries in 0.. {
            let error = match self.begin(prompt).await {
                Ok(_) => match self.end().await {
                    Ok(()) => return tries,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            assert!(Instant::now() < deadline, "{}: {error}", self.user);
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!()
    }
}

pub(crate) fn is_of_room(message: &Value, kind: &str) -> bool {
    common::client::is_event(message, "room", kind)
}

/// How many of something a test does, by an environment variable.
pub(crate) fn count(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().map_or(otherwise, |n| n.parse().expect(variable))
}
