//! The configuration is loaded again under connections that stand.

mod common;

use std::os::unix::fs::symlink;

use common::{
    PATIENCE,
    client::Client,
    issuer::{self, Place, Signer},
    key,
    program::Program,
    stub,
};
use jetway_loadtest::stub::Stub;
use nix::sys::signal::Signal;
use serde_json::json;

struct Running {
    _stub: Stub,
    /// The file, with [`MORE`] in the place of what differs.
    toml: String,
    jetway: Program,
}

const MORE: &str = "# more";

/// The real program with the configuration `more`.
fn start(more: &str) -> Running {
    let stub = stub(1);
    let toml = common::fleet(stub.addrs(), MORE);
    let jetway = Program::start(&toml.replace(MORE, more));
    Running { _stub: stub, toml, jetway }
}

impl Running {
    fn write(&self, more: &str) {
        std::fs::write(self.jetway.dir.path().join("jetway.toml"), self.toml.replace(MORE, more)).unwrap();
    }

    /// Writes the file, has it loaded, and waits until all of `says` is logged of it.
    async fn reload(&self, more: &str, says: &[&str]) -> String {
        let from = self.jetway.log().len();
        self.write(more);
        self.jetway.signal(Signal::SIGHUP);
        self.logged(from, says).await
    }

    async fn logged(&self, from: usize, says: &[&str]) -> String {
        let since = |log: String| log.get(from..).unwrap_or_default().to_owned();
        common::until(&format!("the log says {says:?}"), || {
            let log = since(self.jetway.log());
            says.iter().all(|part| log.contains(part))
        })
        .await;
        since(self.jetway.log())
    }

    async fn outcome(&self, outcome: &str) -> f64 {
        self.jetway.metric(&format!("jetway_config_reloads_total{{outcome=\"{outcome}\"}}")).await
    }

    async fn connect(&self, token: &str) -> Result<Client, serde_json::Value> {
        let mut client = Client::dial(self.jetway.sdk).await;
        client.call("connect", json!({ "token": token })).await.map(|_| client)
    }
}

#[tokio::test]
async fn a_revoked_key_is_of_no_more_use_and_others_notice_nothing() {
    let ((stays, stays_entry), (goes, goes_entry), (comes, comes_entry)) =
        (key("acme"), key("acme"), key("acme"));
    let running = start(&format!("auth.keys = [{stays_entry}, {goes_entry}]"));
    let mut ada = running.connect(&format!("{stays}:ada")).await.unwrap();
    let mut bob = running.connect(&format!("{goes}:bob")).await.unwrap();
    ada.create("hers").await;
    bob.create("his").await;
    bob.turn("his", "kept").await;
    assert!(running.connect(&comes).await.is_err());
    // A turn runs while the configuration changes.
    ada.prompt("hers", "before").await.unwrap();

    let says = ["configuration loaded again", "auth.keys", "connection revoked"];
    running.reload(&format!("auth.keys = [{stays_entry}, {comes_entry}]"), &says).await;
    assert!(bob.closes(PATIENCE).await, "the connection of the revoked key ends");
    assert_eq!(running.connect(&goes).await.err().unwrap()["code"], -32010);
    running.connect(&comes).await.unwrap();

    ada.find(0, |m| common::client::is_event(m, "hers", "session.idle")).await;
    ada.turn("hers", "after").await;
    assert!(running.outcome("changed").await >= 1.0);
    running.logged(0, &["\"outcome\":\"revoked\""]).await;
    // Nothing of it is lost: the same user comes back with another key.
    let mut bob = running.connect(&format!("{comes}:bob")).await.unwrap();
    bob.call("session.resume", json!({ "sessionId": "his" })).await.unwrap();
    let log = running.jetway.log();
    assert!(![stays, goes, comes].iter().any(|key| log.contains(key.as_str())), "{log}");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let (token, entry) = key("acme");
    let good = format!("auth.keys = [{entry}]\nlimits.max_in_flight = 9");
    let running = start(&good);
    let mut ada = running.connect(&token).await.unwrap();
    let session = ada.create("hers").await;
    for (bad, says) in [
        (
            "auth.keys = []\nlimits.max_in_flight = 0\nlocks.ttl = 'soon'",
            ["limits.max_in_flight", "locks.ttl"],
        ),
        ("auth.keys = [", ["is not TOML", "jetway.toml"]),
        // Valid by itself: but it would let in whoever comes.
        ("", ["auth.anonymous", "restart"]),
    ] {
        running.reload(bad, &[&says[..], &["the configuration in effect stays"]].concat()).await;
        ada.turn(&session, "still").await;
        running.connect(&token).await.unwrap();
        assert!(running.connect("anybody").await.is_err());
    }
    // A missing file is a bad one.
    std::fs::remove_file(running.jetway.dir.path().join("jetway.toml")).unwrap();
    let from = running.jetway.log().len();
    running.jetway.signal(Signal::SIGHUP);
    running.logged(from, &["cannot be read", "the configuration in effect stays"]).await;
    running.connect(&token).await.unwrap();
    // The file as it was: nothing has changed.
    running.reload(&good, &["nothing that takes effect has changed"]).await;
    assert_eq!(running.outcome("changed").await, 0.0);
    assert!(running.outcome("refused").await >= 4.0 && running.outcome("unchanged").await >= 1.0);
    running.connect(&token).await.unwrap();
}

#[tokio::test]
async fn what_cannot_change_is_said_by_name() {
    let running = start("");
    let says = ["drain.timeout", "this change needs a restart", "limits.max_in_flight", "loaded again"];
    let log = running.reload("drain.timeout = '7s'\nlimits.max_in_flight = 9", &says).await;
    assert!(!log.contains("pool."), "{log}");
}

#[tokio::test]
async fn tokens_are_judged_anew_when_what_is_trusted_changes() {
    let signer = Signer::ec();
    let place = Place::open(&[signer.jwk("k")]).await;
    let (key, entry) = key("acme");
    let trusts = |audience: &str| {
        let jwt = place.auth(&["ES256"]).replace(issuer::AUDIENCE, audience);
        format!("{jwt}\nauth.keys = [{entry}]")
    };
    let running = start(&trusts(issuer::AUDIENCE));
    let token = signer.sign(&json!({ "alg": "ES256", "kid": "k" }), &issuer::claims("ada"));
    let mut ada = running.connect(&token).await.unwrap();
    let mut bob = running.connect(&format!("{key}:bob")).await.unwrap();
    // What else changes is nothing to a token.
    running
        .reload(&format!("{}\nlimits.max_in_flight = 9", trusts(issuer::AUDIENCE)), &["loaded again"])
        .await;
    ada.call("ping", json!({})).await.unwrap();
    running.reload(&trusts("other"), &["auth.jwt.audience", "loaded again"]).await;
    assert!(ada.closes(PATIENCE).await);
    assert!(running.connect(&token).await.is_err());
    bob.call("ping", json!({})).await.unwrap();
    let log = running.jetway.log();
    assert!(!log.contains(&token) && !log.contains(token.rsplit('.').next().unwrap()), "{log}");
}

/// Nobody asks: secrets are mounted as links to a directory that is swapped.
#[tokio::test]
async fn a_swapped_link_is_noticed() {
    let ((old, old_entry), (new, new_entry)) = (key("acme"), key("acme"));
    let stub = stub(1);
    let base = common::fleet(stub.addrs(), MORE);
    let toml = |entry: &str| base.replace(MORE, &format!("auth.keys = [{entry}]"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    for (name, entry) in [("1", &old_entry), ("2", &new_entry)] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("jetway.toml"), toml(entry)).unwrap();
    }
    let swap = |to: &str| {
        symlink(to, path.join("next")).unwrap();
        std::fs::rename(path.join("next"), path.join("data")).unwrap();
    };
    swap("1");
    symlink("data/jetway.toml", dir.path().join("jetway.toml")).unwrap();
    let jetway = Program::start_in(dir, &toml(&old_entry));
    let running = Running { _stub: stub, toml: base, jetway };
    let mut before = running.connect(&old).await.unwrap();
    swap("2");
    running.logged(0, &["configuration loaded again", "auth.keys"]).await;
    assert!(before.closes(PATIENCE).await);
    assert!(running.connect(&old).await.is_err());
    running.connect(&new).await.unwrap();
}
