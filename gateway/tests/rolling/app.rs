//! An application: one user, one session, one turn after the other.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::client::{Client, is_event};

/// Before what was refused, or nobody listens for, is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest that a turn may take, or a gateway be looked for.
const LONG: Duration = Duration::from_secs(60);

/// What became of everything that it asked for.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Nonces.
    pub(crate) completed: Vec<String>,
    pub(crate) refused: Vec<String>,
    pub(crate) lost: Vec<String>,
    /// Connections that ended.
    pub(crate) ended: usize,
    /// Of these, with a prompt that had no answer.
    pub(crate) unanswered: usize,
    /// How long it took each time until its session was there again.
    pub(crate) away: Vec<Duration>,
}

pub(crate) struct App {
    gateways: SocketAddr,
    user: String,
    /// `session.create`'s params, and `session.resume`'s.
    settings: Value,
    created: bool,
    client: Option<Client>,
    turns: usize,
    pub(crate) tally: Tally,
}

impl App {
    pub(crate) fn new(gateways: SocketAddr, n: usize, mut settings: Value) -> Self {
        let user = format!("user-{n}");
        settings["sessionId"] = json!(format!("session-{n}"));
        Self { gateways, user, settings, created: false, client: None, turns: 0, tally: Tally::default() }
    }

    /// Does nothing for a while, but to notice when its connection ends.
    pub(crate) async fn think(&mut self, pause: Duration) {
        let Some(client) = &mut self.client else { return tokio::time::sleep(pause).await };
        client.read_until(pause, |_| false).await;
        if client.closed {
            self.tally.ended += 1;
            self.client = None;
        }
    }

    /// One turn, to its end.
    pub(crate) async fn turn(&mut self, prompt: &str) {
        self.turns += 1;
        let nonce = format!("{}-{}", self.user, self.turns);
        let session = self.settings["sessionId"].as_str().unwrap().to_owned();
        let params = json!({ "sessionId": session, "prompt": format!("{prompt} nonce:{nonce}") });
        loop {
            let mut client = self.connected().await;
            let Some(reply) = client.try_call("session.send", params.clone()).await else {
                (self.tally.ended, self.tally.unanswered) = (self.tally.ended + 1, self.tally.unanswered + 1);
                continue;
            };
            if let Err(error) = reply {
                self.tally.refused.push(format!("{nonce}: {error}"));
                self.client = Some(client);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let ends =
                |m: &Value| ["session.idle", "session.error"].iter().any(|kind| is_event(m, &session, kind));
            let heard = client.read_until(LONG, |seen| seen.iter().any(ends)).await;
            let end = client.seen.iter().find(|m| ends(m)).map(|m| m["params"]["event"].clone());
            match end {
                Some(event) if event["type"] == "session.idle" => self.tally.completed.push(nonce),
                Some(event) => self.tally.lost.push(format!("{nonce}: {event}")),
                None => self.tally.lost.push(format!("{nonce}: unheard, {heard}, closed: {}", client.closed)),
            }
            client.seen.clear();
            client.raw.clear();
            if client.closed {
                self.tally.ended += 1;
            } else {
                self.client = Some(client);
            }
            return;
        }
    }

    /// Its connection, with its session on it.
    async fn connected(&mut self) -> Client {
        if let Some(client) = self.client.take() {
            return client;
        }
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < LONG, "{}: no gateway takes it: {:?}", self.user, self.tally.refused);
            if let Some(client) = self.connect().await {
                self.tally.away.push(since.elapsed());
                return client;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `None` when there is no gateway, or it goes away.
    async fn connect(&mut self) -> Option<Client> {
        let mut client = Client::try_dial(self.gateways).await.ok()?;
        let hello = client.try_call("connect", json!({ "token": self.user })).await?;
        if let Err(error) = hello {
            self.tally.refused.push(format!("{}: connect: {error}", self.user));
            return None;
        }
        let method = if self.created { "session.resume" } else { "session.create" };
        match client.try_call(method, self.settings.clone()).await? {
            Ok(_) => self.created = true,
            Err(error) => {
                self.tally.refused.push(format!("{}: {method}: {error}", self.user));
                return None;
            }
        }
        client.seen.clear();
        client.raw.clear();
        Some(client)
    }
}
