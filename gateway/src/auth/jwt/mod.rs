//! JSON Web Tokens: who issued them, for whom, and whether that is so.
//!
//! Only algorithms of the operator's list are taken, and only with a key of that algorithm's kind, so that neither
//! `none` nor a public key used as a shared secret can pass.

mod crypto;
mod fetch;
mod keys;
mod published;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use jetway_config::{
    IdError, Identity,
    jwt::{Jwt, JwtKeys},
    limits::{CREDENTIAL_BYTES, JWT_SKEW},
};

use self::{
    keys::{Keys, NoKey},
    published::Published,
};

/// Checks the tokens of one issuer.
#[derive(Debug)]
pub(crate) struct Verifier {
    settings: Jwt,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Single(Arc<Keys>),
    Published(Published),
}

/// What a token says that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) who: Identity,
    /// When it expires, without the skew of clocks.
    pub(crate) until: SystemTime,
}

/// Why a token is not believed. Holds nothing of it but the names of claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is longer than {CREDENTIAL_BYTES} bytes")]
    TooLong,
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token's key is not known")]
    UnknownKey,
    #[error("the token must name its key (`kid`)")]
    UnnamedKey,
    #[error("the issuer's keys cannot be had at the moment")]
    NoKeys,
    #[error("the token's signature is not valid")]
    Signature,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has no usable claim `{0}`")]
    Missing(String),
    #[error("the token's claim `{0}` {1}")]
    BadName(String, IdError),
}

impl Verifier {
    /// Reads the key, or begins to fetch the key set.
    ///
    /// # Errors
    ///
    /// If `key_file` holds no key of the kind that the algorithms take.
    pub(crate) fn start(
        settings: Jwt,
        tracker: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<Self, String> {
        crypto::install();
        let source = match &settings.keys {
            JwtKeys::Key(text) => Source::Single(Arc::new(Keys::single(text, &settings.algorithms)?)),
            JwtKeys::Jwks(url) => Source::Published(Published::start(
                url.clone(),
                settings.algorithms.clone(),
                tracker,
                closing,
            )),
        };
        Ok(Self { settings, source })
    }

    /// What it was made from.
    pub(crate) fn settings(&self) -> &Jwt {
        &self.settings
    }

    /// Who a token is about. Waits for the issuer's keys, if it names one that is not known.
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > CREDENTIAL_BYTES {
            return Err(TokenError::TooLong);
        }
        match &self.source {
            Source::Single(keys) => self.check(token, keys),
            Source::Published(published) => {
                let first =
                    published.keys().ok_or(TokenError::NoKeys).and_then(|keys| self.check(token, &keys));
                let missed = matches!(first, Err(TokenError::UnknownKey | TokenError::NoKeys));
                if !missed || !published.renew().await {
                    return first;
                }
                published.keys().ok_or(TokenError::NoKeys).and_then(|keys| self.check(token, &keys))
            }
        }
    }

    fn check(&self, token: &str, keys: &Keys) -> Result<Claims, TokenError> {
        let header = decode_header(token).map_err(|e| error(e.kind()))?;
        if header.crit.is_some() {
            // An extension that must be understood.
            return Err(TokenError::Malformed);
        }
        let key = keys.find(header.kid.as_deref(), header.alg).map_err(|no_key| match no_key {
            NoKey::Unknown => TokenError::UnknownKey,
            NoKey::Unnamed => TokenError::UnnamedKey,
            NoKey::Unfit => TokenError::Algorithm,
        })?;
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.validate_nbf = true;
        validation.leeway = JWT_SKEW.as_secs();
        let decoded = decode::<Map<String, Value>>(token, &key.decoding, &validation);
        let claims = decoded.map_err(|e| error(e.kind()))?.claims;
        self.claims(&claims)
    }

    fn claims(&self, claims: &Map<String, Value>) -> Result<Claims, TokenError> {
        fn named<T>(claims: &Map<String, Value>, claim: &str) -> Result<T, TokenError>
        where
            T: std::str::FromStr<Err = IdError>,
        {
            let text = claims.get(claim).and_then(Value::as_str);
            let text = text.ok_or_else(|| TokenError::Missing(claim.to_owned()))?;
            text.parse().map_err(|e| TokenError::BadName(claim.to_owned(), e))
        }
        let tenant = named(claims, &self.settings.tenant_claim)?;
        let user = named(claims, &self.settings.user_claim)?;
        let seconds = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|d| UNIX_EPOCH.checked_add(d));
        let until = until.ok_or_else(|| TokenError::Missing("exp".to_owned()))?;
        Ok(Claims { who: Identity { tenant, user }, until })
    }
}

fn error(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYet,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            TokenError::Algorithm
        }
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            TokenError::Missing(claim.clone())
        }
        _ => TokenError::Malformed,
    }
}
