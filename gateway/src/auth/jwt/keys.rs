//! The keys that signatures are checked with, each with the algorithms that it may be used for.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde_json::Value;

use jetway_config::{SecretString, jwt};

use super::crypto::family;

/// The most keys of a set. Issuers publish a handful.
const MOST: usize = 100;

/// A key, and what it may check.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// Of the operator's list, those that fit the key. Never empty.
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

/// All keys.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Key>);

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// None of that id, or none at all: there may be one in a newer set.
    Unknown,
    /// The token names none, and there are several.
    Unnamed,
    /// The key is not for that algorithm.
    Unfit,
}

impl Keys {
    /// The one key of `key_file`: of whatever id a token names.
    pub(super) fn single(text: &SecretString, allowed: &[jwt::Algorithm]) -> Result<Self, String> {
        let algorithms: Vec<_> = allowed.iter().map(|a| algorithm(*a)).collect();
        let text = text.expose().as_bytes();
        let decoding = match algorithms.first().map(|a| family(*a)) {
            Some(AlgorithmFamily::Hmac) => Ok(DecodingKey::from_secret(text)),
            Some(AlgorithmFamily::Rsa) => DecodingKey::from_rsa_pem(text),
            Some(AlgorithmFamily::Ec) => DecodingKey::from_ec_pem(text),
            Some(AlgorithmFamily::Ed) | None => DecodingKey::from_ed_pem(text),
        };
        // Without what the library says of it, which may repeat a part.
        let decoding = decoding.map_err(|_| "the file holds no PEM public key of that kind".to_owned())?;
        Ok(Self(vec![Key { id: None, algorithms, decoding }]))
    }

    /// A published set. Keys that are not understood, or not for signatures of `allowed` algorithms, are left out.
    pub(super) fn set(json: &[u8], allowed: &[jwt::Algorithm]) -> Result<Self, String> {
        let mut set: Value = serde_json::from_slice(json).map_err(|_| "it is not JSON".to_owned())?;
        let Some(Value::Array(keys)) = set.get_mut("keys").map(Value::take) else {
            return Err("it has no list of `keys`".to_owned());
        };
        if keys.len() > MOST {
            return Err(format!("it has more than {MOST} keys"));
        }
        let allowed: Vec<_> = allowed.iter().map(|a| algorithm(*a)).collect();
        let keys: Vec<_> = keys.into_iter().filter_map(|key| Key::of(key, &allowed)).collect();
        if keys.is_empty() { Err("none of its keys is of use".to_owned()) } else { Ok(Self(keys)) }
    }

    /// The key for a token that names `id` and is signed with `algorithm`.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, NoKey> {
        let named = |key: &&Key| key.id.is_none() || id.is_none() || key.id.as_deref() == id;
        let mut named = self.0.iter().filter(named).peekable();
        if named.peek().is_none() {
            return Err(NoKey::Unknown);
        }
        let mut fit = named.filter(|key| key.algorithms.contains(&algorithm));
        match (fit.next(), fit.next()) {
            (None, _) => Err(NoKey::Unfit),
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(NoKey::Unnamed),
        }
    }
}

impl Key {
    fn of(json: Value, allowed: &[Algorithm]) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let named = jwk.common.key_algorithm.map(|a| a.to_string());
        let fits = |algorithm: &Algorithm| {
            let kind = match &jwk.algorithm {
                AlgorithmParameters::RSA(_) => family(*algorithm) == AlgorithmFamily::Rsa,
                AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                    EllipticCurve::P256 => *algorithm == Algorithm::ES256,
                    EllipticCurve::P384 => *algorithm == Algorithm::ES384,
                    _ => false,
                },
                AlgorithmParameters::OctetKeyPair(_) => *algorithm == Algorithm::EdDSA,
                // A secret that is published is none.
                _ => false,
            };
            kind && named.as_ref().is_none_or(|named| *named == format!("{algorithm:?}"))
        };
        let algorithms: Vec<_> = allowed.iter().copied().filter(fits).collect();
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, decoding })
    }
}

fn algorithm(named: jwt::Algorithm) -> Algorithm {
    match named {
        jwt::Algorithm::HS256 => Algorithm::HS256,
        jwt::Algorithm::HS384 => Algorithm::HS384,
        jwt::Algorithm::HS512 => Algorithm::HS512,
        jwt::Algorithm::RS256 => Algorithm::RS256,
        jwt::Algorithm::RS384 => Algorithm::RS384,
        jwt::Algorithm::RS512 => Algorithm::RS512,
        jwt::Algorithm::PS256 => Algorithm::PS256,
        jwt::Algorithm::PS384 => Algorithm::PS384,
        jwt::Algorithm::PS512 => Algorithm::PS512,
        jwt::Algorithm::ES256 => Algorithm::ES256,
        jwt::Algorithm::ES384 => Algorithm::ES384,
        jwt::Algorithm::EdDSA => Algorithm::EdDSA,
    }
}
