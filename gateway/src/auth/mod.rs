//! Who is calling, and what vouches for them as long as their connection stands.

mod jwt;
mod revocation;

use std::{fmt, net::SocketAddr, ops::Deref, sync::Arc, time::SystemTime};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use jetway_config::{AuthError, Identity, KeyHash, KeyId, Live, auth::looks_like_jwt, limits::JWT_SKEW};

use self::jwt::{Claims, Verifier};
pub(crate) use self::revocation::{sweep, watch};
use crate::{app::Core, audit::Event, stack::Refusal};

/// Who may call and how much, with what it takes to find out who calls. Replaced as a whole.
#[derive(Debug)]
pub(crate) struct Rules {
    live: Live,
    jwt: Option<Arc<Verifier>>,
}

/// Whether a caller would still be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// Its token has expired since then.
    Expired(SystemTime),
    Revoked,
}

impl Rules {
    /// What it takes, on top of `old`: what goes on unchanged is kept, as are the keys that it has fetched.
    ///
    /// # Errors
    ///
    /// If `auth.jwt.key_file` is of no use.
    pub(crate) fn new(
        live: Live,
        old: Option<&Self>,
        tracker: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<Self, String> {
        let kept = old.and_then(|old| old.jwt.clone());
        let jwt = match (&live.auth.jwt, kept) {
            (None, _) => None,
            (Some(settings), Some(kept)) if kept.settings() == settings => Some(kept),
            (Some(settings), _) => {
                let verifier = Verifier::start(settings.clone(), tracker, closing);
                Some(Arc::new(verifier.map_err(|why| format!("auth.jwt.key_file: {why}"))?))
            }
        };
        Ok(Self { live, jwt })
    }

    fn standing(&self, caller: &Caller, now: SystemTime) -> Standing {
        let vouched = match &caller.by {
            Voucher::Jetway => true,
            Voucher::Anonymous => self.auth.anonymous,
            Voucher::Key(id, hash) => self.auth.keys.vouch_for(&caller.who, id, hash),
            // Made anew where anything about tokens has changed.
            Voucher::Token { by, until } if self.jwt.as_ref().is_some_and(|jwt| Arc::ptr_eq(jwt, by)) => {
                let end = *until + JWT_SKEW;
                return if now < end { Standing::Good } else { Standing::Expired(end) };
            }
            Voucher::Token { .. } => false,
        };
        if vouched { Standing::Good } else { Standing::Revoked }
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
    /// A JSON Web Token that this verifier believed.
    Token { by: Arc<Verifier>, until: SystemTime },
}

/// For the log: never a credential.
impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Voucher::Jetway => f.write_str("jetway"),
            Voucher::Anonymous => f.write_str("anonymous"),
            Voucher::Key(id, _) => write!(f, "key {id}"),
            Voucher::Token { .. } => f.write_str("token"),
        }
    }
}

impl From<Identity> for Caller {
    fn from(who: Identity) -> Self {
        Self { who, by: Voucher::Jetway, peer: None }
    }
}

impl Voucher {
    /// When it is of no more use, if that is known.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        match self {
            Voucher::Token { until, .. } => Some(*until + JWT_SKEW),
            Voucher::Jetway | Voucher::Anonymous | Voucher::Key(..) => None,
        }
    }

    /// The API key, if it is one.
    pub(crate) fn key(&self) -> Option<&KeyId> {
        match self {
            Voucher::Key(id, _) => Some(id),
            Voucher::Jetway | Voucher::Anonymous | Voucher::Token { .. } => None,
        }
    }
}

impl Core {
    /// Whether a caller who was let in would still be.
    pub(crate) fn vouches_for(&self, caller: &Caller) -> bool {
        self.live().standing(caller, SystemTime::now()) == Standing::Good
    }

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
        let rules = Arc::clone(&self.live());
        let unauthenticated = |why: String| Refusal::Unauthenticated(why);
        let token = credential.filter(|text| looks_like_jwt(text)).zip(rules.jwt.as_ref());
        let error = match (rules.auth.authenticate(credential, user), token) {
            (Ok((who, key)), _) => {
                let by = key.map_or(Voucher::Anonymous, |key| Voucher::Key(key.id.clone(), key.sha256));
                return Ok((who, by));
            }
            (Err(AuthError::Invalid), Some((token, jwt))) => {
                let Claims { who, until } =
                    jwt.verify(token).await.map_err(|e| unauthenticated(e.to_string()))?;
                if user.is_none_or(|user| user.is_empty() || user == who.user.as_str()) {
                    return Ok((who, Voucher::Token { by: jwt.clone(), until }));
                }
                AuthError::WrongUser
            }
            (Err(error), _) => error,
        };
        Err(unauthenticated(error.to_string()))
    }
}
