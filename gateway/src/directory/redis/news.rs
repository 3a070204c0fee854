//! What happened to sessions, from each gateway to all: by publishing, which keeps nothing for those who are not there.

use std::{sync::atomic::Ordering, time::Duration};

use deadpool_redis::Pool;
use futures_util::StreamExt as _;
use jetway_config::stores;
use redis::{AsyncTypedCommands as _, RedisError};
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{PATIENCE, PREFIX};
use crate::directory::news::{News, Outgoing, Told};

/// How much is published in one message.
const BATCH: usize = 256;
/// How often it is tried to listen again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the connection lives.
const PING: Duration = Duration::from_secs(10);

fn channel() -> String {
    format!("{PREFIX}news")
}

/// Publishing and listening, until it is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    _publishing: AbortOnDropHandle<()>,
    _listening: AbortOnDropHandle<()>,
}

impl Exchange {
    pub(super) fn start(config: &stores::Redis, pool: Pool, outgoing: Outgoing) -> Result<Self, RedisError> {
        let client = redis::Client::open(config.url.expose())?;
        let listening = listen(client, outgoing.here.clone());
        Ok(Self {
            _listening: AbortOnDropHandle::new(tokio::spawn(listening)),
            _publishing: AbortOnDropHandle::new(tokio::spawn(publish(pool, outgoing))),
        })
    }
}

async fn publish(pool: Pool, mut outgoing: Outgoing) {
    let mut batch = Vec::with_capacity(BATCH);
    while outgoing.news.recv_many(&mut batch, BATCH).await > 0 {
        let mut messages: Vec<_> = batch.drain(..).map(Some).collect();
        if outgoing.lost.swap(false, Ordering::AcqRel) {
            messages.push(None);
        }
        let sent = async {
            let mut conn = pool.get().await.ok()?;
            conn.publish(channel(), News::encode(&messages)).await.ok()
        };
        if sent.await.is_none() {
            outgoing.lost.store(true, Ordering::Release);
        }
    }
}

async fn listen(client: redis::Client, here: broadcast::Sender<Told>) {
    let mut known = false;
    loop {
        let error = match attend(&client, &here).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // Said once for as long as it lasts.
        if !known {
            warn!(%error, "not listening to other gateways' news of sessions");
        }
        known = true;
        let _ = here.send(Told::Lost);
        sleep(PAUSE).await;
    }
}

/// Listens for as long as the connection lives.
async fn attend(
    client: &redis::Client,
    here: &broadcast::Sender<Told>,
) -> Result<std::convert::Infallible, RedisError> {
    let silent = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let subscribed = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(channel()).await?;
        Ok::<_, RedisError>(subscription)
    };
    let subscription = timeout(PATIENCE, subscribed).await.map_err(|_| silent())??;
    // What was published before this moment was not heard.
    let _ = here.send(Told::Lost);
    let (mut sink, mut messages) = subscription.split();
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok_or_else(silent)?;
                for told in News::decode(message.get_payload_bytes()) {
                    let _ = here.send(told);
                }
            }
            _ = pings.tick() => timeout(PATIENCE, sink.ping::<redis::Value>()).await.map_err(|_| silent())?.map(drop)?,
        }
    }
}
