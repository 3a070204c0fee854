//! An issuer of JSON Web Tokens: its keys, the place where it publishes them, and every way to forge a token.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const NAME: &str = "https://issuer.test";
pub const AUDIENCE: &str = "jetway-test";
/// The public half of the issuer's RSA key. The private one is known to everybody who reads this repository.
pub const RSA_PUBLIC: &str = include_str!("../fixtures/test-only-rsa.pub.pem");
const RSA_PRIVATE: &str = include_str!("../fixtures/test-only-rsa.pem");

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What signs.
pub enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
    Nobody,
}

impl Signer {
    pub fn rsa() -> Self {
        let pem: String = RSA_PRIVATE.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(pem).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(&der).unwrap())
    }

    pub fn ec() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &rng).unwrap())
    }

    pub fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    /// The key as it is published.
    pub fn jwk(&self, id: &str) -> Value {
        match self {
            Signer::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "use": "sig", "kid": id, "n": b64(public.n), "e": b64(public.e) })
            }
            Signer::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (b64(&point[1..33]), b64(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id, "x": x, "y": y })
            }
            Signer::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": b64(pair.public_key().as_ref()) })
            }
            Signer::Secret(secret) => json!({ "kty": "oct", "kid": id, "k": b64(secret) }),
            Signer::Nobody => panic!("nobody has no key"),
        }
    }

    /// A token with that header and those claims, signed as the header says.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let (bytes, rng) = (message.as_bytes(), SystemRandom::new());
        let signature = match self {
            Signer::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                match header["alg"].as_str().unwrap() {
                    "RS512" => pair.sign(&RSA_PKCS1_SHA512, &rng, bytes, &mut out).unwrap(),
                    "PS256" => pair.sign(&RSA_PSS_SHA256, &rng, bytes, &mut out).unwrap(),
                    _ => pair.sign(&RSA_PKCS1_SHA256, &rng, bytes, &mut out).unwrap(),
                }
                out
            }
            Signer::Ec(pair) => pair.sign(&rng, bytes).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
            Signer::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), bytes).as_ref().to_vec()
            }
            Signer::Nobody => Vec::new(),
        };
        format!("{message}.{}", b64(signature))
    }
}

/// Claims of `user` of acme's, good for an hour.
pub fn claims(user: &str) -> Value {
    json!({ "iss": NAME, "aud": AUDIENCE, "exp": now() + 3600, "tenant": "acme", "sub": user })
}

/// The same, with some changed; those that are null are left out.
pub fn claims_with(user: &str, changes: Value) -> Value {
    let mut all = claims(user);
    let map = all.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => map.remove(name),
            value => map.insert(name.clone(), value.clone()),
        };
    }
    all
}

/// Where keys are published.
#[derive(Clone)]
pub struct Place {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    document: Mutex<String>,
    fetches: AtomicUsize,
    down: AtomicBool,
}

impl Place {
    pub async fn open(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        place.publish(keys);
        let router = Router::new().route("/keys", get(serve)).with_state(place.shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        place
    }

    pub fn publish(&self, keys: &[Value]) {
        *self.shared.document.lock().unwrap() = json!({ "keys": keys }).to_string();
    }

    /// From now on it answers with an error, or not.
    pub fn fail(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// The configuration that trusts it.
    pub fn auth(&self, algorithms: &[&str]) -> String {
        format!(
            "auth.jwt = {{ issuer = \"{NAME}\", audience = \"{AUDIENCE}\", jwks_url = \"http://{}/keys\", algorithms = {algorithms:?} }}",
            self.address
        )
    }
}

async fn serve(State(shared): State<Arc<Shared>>) -> Result<String, StatusCode> {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    if shared.down.load(Ordering::SeqCst) {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Ok(shared.document.lock().unwrap().clone())
}
