//! JSON Web Tokens: which are believed, every forgery by its name, and how often keys are fetched.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE,
    client::Client,
    issuer::{self, Place, RSA_PUBLIC, Signer, b64, claims, claims_with, now},
    start_fleet, start_from, stub,
};
use jetway_config::{ApiKey, Sources};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const ALGORITHMS: &[&str] = &["RS256", "PS256", "ES256", "EdDSA"];

async fn connect(gateway: &common::Gateway, token: &str) -> Result<Client, Value> {
    let mut client = Client::dial(gateway.sdk).await;
    client.call("connect", json!({ "token": token })).await.map(|_| client)
}

/// What the HTTP port answers to whoever presents this token.
async fn status(gateway: &common::Gateway, token: &str) -> u16 {
    let mut stream = TcpStream::connect(gateway.http.unwrap()).await.unwrap();
    let request = format!(
        "GET /api/v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The reason without its code.
fn why(outcome: Result<Client, Value>) -> String {
    let error = outcome.err().expect("it is refused");
    assert_eq!(error["code"], -32010, "{error}");
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tokens_of_every_algorithm_say_who_calls() {
    let signers = [
        ("RS256", Signer::rsa()),
        ("PS256", Signer::rsa()),
        ("ES256", Signer::ec()),
        ("EdDSA", Signer::ed()),
    ];
    let place = Place::open(&signers.each_ref().map(|(alg, signer)| signer.jwk(alg))).await;
    let (stub, gateway) = start_fleet(1, &place.auth(ALGORITHMS)).await;
    let rsa = &signers[0].1;
    for (alg, signer) in &signers {
        let token = signer.sign(&json!({ "alg": alg, "typ": "JWT", "kid": alg }), &claims("ada@example.com"));
        let mut client = connect(&gateway, &token).await.unwrap_or_else(|e| panic!("{alg}: {e}"));
        client.create(&format!("s-{alg}")).await;
        client.turn(&format!("s-{alg}"), "kept").await;
        // The same user by another token; nobody else's.
        let header = json!({ "alg": "RS256", "kid": "RS256" });
        for (who, theirs) in [("ada@example.com", true), ("bob", false)] {
            let mut other = connect(&gateway, &rsa.sign(&header, &claims(who))).await.unwrap();
            let resumed = other.call("session.resume", json!({ "sessionId": format!("s-{alg}") })).await;
            assert_eq!(resumed.is_ok(), theirs, "{alg} {who}: {resumed:?}");
        }
    }
    // Several audiences, a clock that is a little behind, and one that is ahead.
    let header = json!({ "alg": "RS256", "kid": "RS256" });
    for changes in [
        json!({ "aud": ["other", issuer::AUDIENCE] }),
        json!({ "exp": now() - 20 }),
        json!({ "nbf": now() + 20 }),
    ] {
        connect(&gateway, &rsa.sign(&header, &claims_with("ada", changes))).await.unwrap();
    }
    let told = stub.received().iter().filter(|r| r.params.contains("eyJ")).count();
    assert_eq!(told, 0, "the CLI server hears of no token");
    assert_eq!(place.fetches(), 1);
}

/// Check 32, but for the flood. Each is refused for its own reason.
#[tokio::test]
async fn check_32_forgeries() {
    let (rsa, ec, secret) = (Signer::rsa(), Signer::ec(), Signer::Secret(vec![7; 32]));
    let mut enc = ec.jwk("enc");
    enc["use"] = json!("enc");
    let modulus = rsa.jwk("rsa")["n"].as_str().unwrap().to_owned();
    let place = Place::open(&[rsa.jwk("rsa"), ec.jwk("ec"), enc, secret.jwk("oct")]).await;
    let stub = stub(1);
    let toml = common::fleet(stub.addrs(), &place.auth(ALGORITHMS));
    let gateway = common::start(&toml.replacen("http = \"off\"", "http = \"127.0.0.1:0\"", 1)).await;
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "typ": "JWT", "kid": kid });
    let since = Instant::now();
    let rs = header("RS256", "rsa");
    let good = rsa.sign(&rs, &claims("ada"));
    connect(&gateway, &good).await.unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let of = |changes: Value| rsa.sign(&rs, &claims_with("ada", changes));
    let by_public = |bytes: Vec<u8>| Signer::Secret(bytes).sign(&header("HS256", "rsa"), &claims("ada"));
    let own_key = Signer::ec();
    let mut embedded = header("ES256", "mine");
    embedded["jwk"] = own_key.jwk("mine");
    let mut pointing = header("ES256", "mine");
    pointing["jku"] = json!("http://127.0.0.1:1/keys");
    let mut critical = rs.clone();
    (critical["crit"], critical["b64"]) = (json!(["b64"]), json!(false));

    let forgeries: Vec<(&str, String, &str)> = vec![
        ("alg none", Signer::Nobody.sign(&header("none", "rsa"), &claims("ada")), "malformed"),
        ("alg None", Signer::Nobody.sign(&header("None", "rsa"), &claims("ada")), "malformed"),
        ("alg none, signed", rsa.sign(&header("none", "rsa"), &claims("ada")), "malformed"),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), "signature"),
        ("HS256 by the public PEM", by_public(RSA_PUBLIC.as_bytes().to_vec()), "algorithm"),
        ("HS256 by the modulus", by_public(modulus.into_bytes()), "algorithm"),
        (
            "HS256 by a published secret",
            secret.sign(&header("HS256", "oct"), &claims("ada")),
            "key is not known",
        ),
        ("algorithm off the list", rsa.sign(&header("RS512", "rsa"), &claims("ada")), "algorithm"),
        ("RS256 by the name of an EC key", rsa.sign(&header("RS256", "ec"), &claims("ada")), "algorithm"),
        ("ES256 by the name of an RSA key", ec.sign(&header("ES256", "rsa"), &claims("ada")), "algorithm"),
        ("a key for encryption", ec.sign(&header("ES256", "enc"), &claims("ada")), "key is not known"),
        ("another's key", own_key.sign(&header("ES256", "ec"), &claims("ada")), "signature"),
        ("an unknown kid", rsa.sign(&header("RS256", "new"), &claims("ada")), "key is not known"),
        ("a key in the header", own_key.sign(&embedded, &claims("ada")), "key is not known"),
        ("a key's address in the header", own_key.sign(&pointing, &claims("ada")), "key is not known"),
        ("a critical extension", rsa.sign(&critical, &claims("ada")), "malformed"),
        (
            "other claims",
            format!("{}.{}.{}", parts[0], b64(claims("bob").to_string()), parts[2]),
            "signature",
        ),
        ("another audience", of(json!({ "aud": "other" })), "audience"),
        ("no audience", of(json!({ "aud": null })), "`aud`"),
        ("another issuer", of(json!({ "iss": "https://issuer.test.evil" })), "issuer"),
        ("no issuer", of(json!({ "iss": null })), "`iss`"),
        ("expired", of(json!({ "exp": now() - 120 })), "expired"),
        ("without end", of(json!({ "exp": null })), "`exp`"),
        ("an end that is no number", of(json!({ "exp": "tomorrow" })), "`exp`"),
        ("not valid yet", of(json!({ "nbf": now() + 120 })), "not valid yet"),
        ("no tenant", of(json!({ "tenant": null })), "`tenant`"),
        ("a tenant that is no name", of(json!({ "tenant": "../acme" })), "`tenant`"),
        ("a list of tenants", of(json!({ "tenant": ["acme"] })), "`tenant`"),
        ("a user that is no name", of(json!({ "sub": "a/b" })), "`sub`"),
        ("a user too many", format!("{good}:bob"), "malformed"),
    ];
    let mut refused = 0;
    for (name, token, says) in &forgeries {
        let why = why(connect(&gateway, token).await);
        assert!(why.contains(says), "{name}: {why}");
        assert_eq!(status(&gateway, token).await, 401, "{name}");
        refused += 1;
    }
    // Longer than a stranger's frame may be: its end, as the log says.
    let long = of(json!({ "more": "x".repeat(4000) }));
    let mut client = Client::dial(gateway.sdk).await;
    client.request("connect", json!({ "token": long })).await;
    assert!(client.closes(PATIENCE).await && client.seen.is_empty(), "{:?}", client.seen);
    connect(&gateway, &good).await.unwrap();
    assert_eq!(status(&gateway, &good).await, 200);
    let (fetches, took) = (place.fetches(), since.elapsed());
    println!("CHECK 32: {} forgeries, {refused} refused; {fetches} fetches of the key set", forgeries.len());
    assert!(fetches <= 2 + took.as_secs() as usize / 10, "{fetches} fetches in {took:?}");
}

#[tokio::test]
async fn a_single_key_is_read_from_a_file() {
    let (secret, rsa) = (Signer::Secret(b"a shared secret of some length".to_vec()), Signer::rsa());
    let header = |alg: &str| json!({ "alg": alg });
    let stub = stub(1);
    for (text, alg, signer) in
        [("a shared secret of some length\n", "HS256", &secret), (RSA_PUBLIC, "RS256", &rsa)]
    {
        let (name, audience) = (issuer::NAME, issuer::AUDIENCE);
        let more = format!(
            "auth.jwt = {{ issuer = \"{name}\", audience = \"{audience}\", key_file = \"the.key\", algorithms = [\"{alg}\"] }}"
        );
        let sources = Sources::fixed(&common::fleet(stub.addrs(), &more), &[]).with_file("the.key", text);
        let gateway = start_from(&sources).await;
        connect(&gateway, &signer.sign(&header(alg), &claims("ada"))).await.unwrap();
        // Whatever it calls its key.
        connect(&gateway, &signer.sign(&json!({ "alg": alg, "kid": "x" }), &claims("ada"))).await.unwrap();
        let confused = Signer::Secret(text.trim().as_bytes().to_vec());
        let forged = confused.sign(&header("HS256"), &claims("ada"));
        assert_eq!(connect(&gateway, &forged).await.is_ok(), alg == "HS256");
    }
}

/// Check 32's flood: strangers choose key ids. The keys in use stay in use, and a new one is found in time.
#[tokio::test]
async fn check_32_a_flood_of_unknown_keys() {
    let (old, new) = (Signer::ec(), Signer::ec());
    let header = |kid: &str| json!({ "alg": "ES256", "kid": kid });
    let place = Place::open(&[old.jwk("old")]).await;
    let (_stub, gateway) = start_fleet(1, &place.auth(ALGORITHMS)).await;
    let since = Instant::now();
    let (known, comes) = (old.sign(&header("old"), &claims("ada")), new.sign(&header("new"), &claims("ada")));
    connect(&gateway, &known).await.unwrap();
    place.publish(&[old.jwk("old"), new.jwk("new")]);
    let mut tried = 0;
    let deadline = since + PATIENCE * 3;
    // Until the key that was published meanwhile is found, which takes a fetch.
    loop {
        for n in 0..20 {
            why(connect(&gateway, &old.sign(&header(&format!("unknown-{tried}-{n}")), &claims("ada"))).await);
        }
        tried += 20;
        if connect(&gateway, &comes).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "the new key is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (fetches, took) = (place.fetches(), since.elapsed());
    println!("CHECK 32: {tried} tokens of unknown keys in {took:.1?}: {fetches} fetches of the key set");
    assert!(took >= Duration::from_secs(9), "a fetch in 10 s: {took:?}");
    assert!(fetches <= 2 + took.as_secs() as usize / 10, "{fetches} fetches in {took:?}");
    // The issuer is down: what is known is used, without waiting for it.
    place.fail(true);
    for token in [&known, &comes] {
        connect(&gateway, token).await.unwrap();
    }
}

#[tokio::test]
async fn without_an_issuer_nobody_is_let_in_and_nothing_else_suffers() {
    let signer = Signer::ec();
    let place = Place::open(&[signer.jwk("k")]).await;
    place.fail(true);
    let key = ApiKey::generate();
    let entry = key.entry("acme".parse().unwrap());
    let more = format!(
        "{}\nauth.keys = [{{ id = \"{}\", tenant = \"acme\", sha256 = \"{}\" }}]",
        place.auth(ALGORITHMS),
        entry.id,
        entry.sha256.to_hex()
    );
    let (_stub, gateway) = start_fleet(1, &more).await;
    let token = signer.sign(&json!({ "alg": "ES256", "kid": "k" }), &claims("ada"));
    assert!(why(connect(&gateway, &token).await).contains("keys cannot be had"));
    connect(&gateway, key.expose()).await.unwrap();
    // It comes up, and is asked again before long.
    place.fail(false);
    let deadline = Instant::now() + PATIENCE * 3;
    while connect(&gateway, &token).await.is_err() {
        assert!(Instant::now() < deadline, "the issuer is back and not asked");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A token's end is its connections' end, when they do nothing.
#[tokio::test]
async fn a_connection_ends_after_its_token() {
    let signer = Signer::ec();
    let place = Place::open(&[signer.jwk("k")]).await;
    let (_stub, gateway) = start_fleet(1, &place.auth(ALGORITHMS)).await;
    let header = json!({ "alg": "ES256", "kid": "k" });
    let mut lasting = connect(&gateway, &signer.sign(&header, &claims("bob"))).await.unwrap();
    // It is over when the skew of clocks is: in a few seconds.
    let ending = claims_with("ada", json!({ "exp": now() - 52 }));
    let mut client = connect(&gateway, &signer.sign(&header, &ending)).await.unwrap();
    client.call("ping", json!({})).await.unwrap();
    assert!(client.closes(PATIENCE * 3).await);
    lasting.call("ping", json!({})).await.unwrap();
}
