//! JSON Web Tokens as credentials: what the operator trusts. Verifying them is the gateway's part.

use crate::{
    error::Problem,
    net::HttpUrl,
    reader::Section,
    secret::{self, SecretString},
    setting::choice,
};

/// `[auth.jwt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// What signatures are checked with.
    pub keys: JwtKeys,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that names the user.
    pub user_claim: String,
    /// The algorithms that are accepted: never empty, and of one family if there is a single key.
    pub algorithms: Vec<Algorithm>,
}

/// Where the keys that check signatures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtKeys {
    /// A key set, fetched from a URL: `jwks_url`.
    Jwks(HttpUrl),
    /// A single key, read from `key_file`: a PEM public key, or the shared secret of the HS algorithms.
    Key(SecretString),
}

choice! {
    /// A signature algorithm by its name in a token's header. `none` is not one.
    Algorithm {
        /// HMAC with SHA-256.
        HS256 = "HS256",
        /// HMAC with SHA-384.
        HS384 = "HS384",
        /// HMAC with SHA-512.
        HS512 = "HS512",
        /// RSA PKCS #1 v1.5 with SHA-256.
        RS256 = "RS256",
        /// RSA PKCS #1 v1.5 with SHA-384.
        RS384 = "RS384",
        /// RSA PKCS #1 v1.5 with SHA-512.
        RS512 = "RS512",
        /// RSA PSS with SHA-256.
        PS256 = "PS256",
        /// RSA PSS with SHA-384.
        PS384 = "PS384",
        /// RSA PSS with SHA-512.
        PS512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        ES256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        ES384 = "ES384",
        /// Ed25519.
        EdDSA = "EdDSA",
    }
}

impl Algorithm {
    /// Whether signing and checking take the same, secret key.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// Algorithms of one family can share a key.
    fn family(self) -> &'static str {
        match self {
            Self::HS256 | Self::HS384 | Self::HS512 => "HS",
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => "RS and PS",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}

impl Jwt {
    pub(crate) fn read(s: &mut Section<'_>) -> Option<Self> {
        let (issuer, audience) = (s.required("issuer"), s.required("audience"));
        let (has_url, has_file) = (s.has("jwks_url"), s.has("key_file"));
        let url: Option<HttpUrl> = s.optional("jwks_url");
        let key = secret::from_file(s, "key_file");
        let tenant_claim = s.get("tenant_claim", "tenant".to_owned());
        let user_claim = s.get("user_claim", "sub".to_owned());
        let algorithms = s.list_or("algorithms", vec![Algorithm::RS256]);

        if has_url == has_file {
            s.fail(
                "jwks_url",
                match has_url {
                    true => Problem::new("key_file is given as well", "remove one of them"),
                    false => Problem::new("is missing, and so is key_file", "add one of them to [auth.jwt]"),
                },
            );
        }
        let confidential = url.as_ref().is_none_or(HttpUrl::is_confidential);
        s.relate(&["jwks_url"], confidential, || {
            Problem::new(
                "is fetched in the clear, so that anybody on the way can replace the keys",
                "use https",
            )
        });
        check_algorithms(s, &algorithms, has_file);

        let keys = url.map(JwtKeys::Jwks).or(key.map(JwtKeys::Key));
        Some(Self { issuer: issuer?, audience: audience?, keys: keys?, tenant_claim, user_claim, algorithms })
    }
}

/// Keeps a public key from being taken for a shared secret, which anybody could then sign with.
fn check_algorithms(s: &Section<'_>, algorithms: &[Algorithm], single_key: bool) {
    s.relate(&["algorithms"], !algorithms.is_empty(), || {
        Problem::new("is empty", "name an algorithm such as RS256")
    });
    let symmetric = algorithms.iter().find(|a| a.is_symmetric());
    s.relate(&["algorithms"], single_key || symmetric.is_none(), || {
        let named = symmetric.map_or("", |a| a.as_str());
        Problem::new(
            format!("{named} needs a shared secret, and a key set is public"),
            "remove it, or give the secret as key_file instead of jwks_url",
        )
    });
    let mixed = algorithms.iter().find(|a| a.family() != algorithms[0].family()).filter(|_| single_key);
    s.relate(&["algorithms"], mixed.is_none(), || {
        let (a, b) = (algorithms[0].as_str(), mixed.map_or("", |a| a.as_str()));
        Problem::new(format!("{a} and {b} cannot share the one key of key_file"), "keep those of one kind")
    });
}
