//! What happened to sessions, for whoever listens: in this gateway, or in all that share a Redis.
//!
//! Telling waits for nobody, so that something may be lost; then those who listen hear that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};

use jetway_config::{Identity, SessionId, TenantId, UserId};

use super::entry::Key;

/// How much a listener may lag behind before something is lost to it; it has milliseconds of work for each.
const LAG: usize = 1024;
/// How much may wait to be told to other gateways.
const OUTGOING: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// There is one more session; to somebody with whom it is shared now, as well.
    Created,
    /// It was used, or is called otherwise, or takes part otherwise in the world.
    Updated,
    /// It is no more; to somebody with whom it is shared no more, as well.
    Deleted,
    /// A terminal shows it.
    Foreground,
    /// A terminal shows it no more.
    Background,
}

/// What happened to some sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What.
    pub what: What,
    /// To which.
    pub keys: Vec<Key>,
    /// Whom to tell; everybody who takes part, as the directory has it by now, if that is not said.
    pub to: Option<Vec<UserId>>,
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Told {
    /// Something happened.
    News(Arc<News>),
    /// Something may have happened that nobody can tell of any more.
    Lost,
}

/// Tells.
#[derive(Debug)]
pub(super) struct Teller {
    here: broadcast::Sender<Told>,
    /// By way of Redis, if other gateways are to hear it too.
    out: Option<mpsc::Sender<News>>,
    /// Something did not get out.
    lost: Arc<AtomicBool>,
}

/// What is to get out, and whether something did not.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) news: mpsc::Receiver<News>,
    pub(super) lost: Arc<AtomicBool>,
    pub(super) here: broadcast::Sender<Told>,
}

impl Teller {
    /// To listeners of this gateway only.
    pub(super) fn here() -> Self {
        Self { here: broadcast::Sender::new(LAG), out: None, lost: Arc::default() }
    }

    /// By way of something that brings it back to this gateway as to others.
    pub(super) fn beyond() -> (Self, Outgoing) {
        let (out, news) = mpsc::channel(OUTGOING);
        let teller = Self { out: Some(out), ..Self::here() };
        let outgoing = Outgoing { news, lost: teller.lost.clone(), here: teller.here.clone() };
        (teller, outgoing)
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Told> {
        self.here.subscribe()
    }

    pub(super) fn tell(&self, news: News) {
        match &self.out {
            // Without listeners there is nobody to miss it.
            None => drop(self.here.send(Told::News(Arc::new(news)))),
            Some(out) => {
                if out.try_send(news).is_err() {
                    self.lost.store(true, Ordering::Release);
                }
            }
        }
    }
}

/// [`News`] on its way to other gateways.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    what: What,
    of: Vec<(TenantId, UserId, SessionId)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<UserId>>,
}

impl News {
    /// As other gateways read it; `None` stands for what was lost.
    pub(super) fn encode(all: &[Option<News>]) -> String {
        let message = |news: &News| {
            let of = news.keys.iter().map(|k| (k.owner.tenant.clone(), k.owner.user.clone(), k.id.clone()));
            Message { what: news.what, of: of.collect(), to: news.to.clone() }
        };
        let messages: Vec<_> = all.iter().map(|news| news.as_ref().map(message)).collect();
        serde_json::to_string(&messages).unwrap_or_default()
    }

    /// What another gateway wrote; a later one may write what is not understood here, which then counts as lost.
    pub(super) fn decode(text: &[u8]) -> Vec<Told> {
        let Ok(messages) = serde_json::from_slice::<Vec<Option<Message>>>(text) else {
            return vec![Told::Lost];
        };
        let told = |message: Option<Message>| match message {
            None => Told::Lost,
            Some(Message { what, of, to }) => {
                let key = |(tenant, user, id)| Key { owner: Identity { tenant, user }, id };
                Told::News(Arc::new(News { what, keys: of.into_iter().map(key).collect(), to }))
            }
        };
        messages.into_iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_read_as_it_is_written() {
        let owner = Identity { tenant: "acme".parse().unwrap(), user: "ada".parse().unwrap() };
        let key = Key { owner, id: "one".parse().unwrap() };
        let news = News { what: What::Deleted, keys: vec![key], to: Some(vec!["bob".parse().unwrap()]) };
        let text = News::encode(&[Some(news.clone()), None]);
        let read = News::decode(text.as_bytes());
        assert!(matches!(&read[..], [Told::News(read), Told::Lost] if **read == news), "{text}: {read:?}");
        assert!(matches!(&News::decode(b"[{\"what\":\"sung\",\"of\":[]}]")[..], [Told::Lost]));
    }

    #[test]
    fn what_did_not_get_out_is_known_to_be_lost() {
        let (teller, outgoing) = Teller::beyond();
        for _ in 0..=OUTGOING {
            teller.tell(News { what: What::Updated, keys: Vec::new(), to: None });
        }
        assert!(outgoing.lost.load(Ordering::Acquire));
    }
}
