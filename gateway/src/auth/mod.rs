//! Who is calling, and what vouches for them as long as their connection stands.

mod revocation;

use std::{fmt, net::SocketAddr, ops::Deref};

use jetway_config::{Identity, KeyHash, KeyId, Live};

pub(crate) use self::revocation::{sweep, watch};
use crate::{app::Core, audit::Event, stack::Refusal};

/// Who may call and how much, with what it takes to find out who calls. Replaced as a whole.
#[derive(Debug)]
pub(crate) struct Rules {
    live: Live,
}

impl Rules {
    pub(crate) fn new(live: Live) -> Self {
        Self { live }
    }

    /// Whether a caller would still be let in.
    fn vouch_for(&self, caller: &Caller) -> bool {
        match &caller.by {
            Voucher::Jetway => true,
            Voucher::Anonymous => self.auth.anonymous,
            Voucher::Key(id, hash) => self.auth.keys.vouch_for(&caller.who, id, hash),
        }
    }
}

impl Deref for Rules {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) who: Identity,
    pub(crate) by: Voucher,
    /// Where the call comes from, if it is known.
    pub(crate) peer: Option<SocketAddr>,
}

/// On what grounds a caller was let in.
#[derive(Debug, Clone)]
pub(crate) enum Voucher {
    /// None of its own: a part of Jetway that asks for credentials itself calls for somebody.
    Jetway,
    /// Whoever reaches the port may call.
    Anonymous,
    /// An API key or a pinned token.
    Key(KeyId, KeyHash),
}

/// For the log: never a credential.
impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Voucher::Jetway => f.write_str("jetway"),
            Voucher::Anonymous => f.write_str("anonymous"),
            Voucher::Key(id, _) => write!(f, "key {id}"),
        }
    }
}

impl From<Identity> for Caller {
    fn from(who: Identity) -> Self {
        Self { who, by: Voucher::Jetway, peer: None }
    }
}

impl Voucher {
    /// The API key, if it is one.
    pub(crate) fn key(&self) -> Option<&KeyId> {
        match self {
            Voucher::Key(id, _) => Some(id),
            Voucher::Jetway | Voucher::Anonymous => None,
        }
    }
}

impl Core {
    /// Who presents this credential (a connection token, or what follows `Bearer`) and this `Jetway-User` from `peer`,
    /// for a request or for a connection as long as it stands.
    pub(crate) async fn authenticate(
        &self,
        credential: Option<&str>,
        user: Option<&str>,
        peer: Option<SocketAddr>,
    ) -> Result<Caller, Refusal> {
        let found = self.identify(credential, user).await;
        match found {
            Ok((who, by)) => {
                let caller = Caller { who, by, peer };
                self.audit.record(&Event::Admitted { caller: &caller });
                Ok(caller)
            }
            Err(refusal) => {
                self.audit.record(&Event::Stranger { peer, refusal: &refusal });
                Err(refusal)
            }
        }
    }

    async fn identify(
        &self,
        credential: Option<&str>,
        user: Option<&str>,
    ) -> Result<(Identity, Voucher), Refusal> {
        let rules = self.live();
        let found = rules.auth.authenticate(credential, user);
        let (who, key) = found.map_err(|error| Refusal::Unauthenticated(error.to_string()))?;
        let by = key.map_or(Voucher::Anonymous, |key| Voucher::Key(key.id.clone(), key.sha256));
        Ok((who, by))
    }
}
