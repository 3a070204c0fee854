//! A `copilot-runtime` that several tenants share, a gateway before it, and a scripted model.

use std::net::SocketAddr;

use jetway_config::{Config, Sources, keys::KeyHash};
use jetway_gateway::App;
use jetway_loadtest::model::{self, Ledger};
use jetway_wire::catalogue::{self, Grant, Surface};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::{
    client::Client,
    runtime::{CLI_TOKEN, Runtime},
};

/// Stands in every prompt of the owners', and nowhere else.
pub(crate) const CANARY: &str = "canary-4711";

pub(crate) struct Scene {
    pub(crate) runtime: Runtime,
    pub(crate) model: model::Handle,
    pub(crate) sdk: SocketAddr,
    _app: App,
    _directory: tempfile::TempDir,
}

/// Whom there is. `wide` is a tenant to which its operator has given every method that can be given.
pub(crate) const PEOPLE: [(&str, &str); 6] =
    [("acme", "ada"), ("acme", "bob"), ("other", "eve"), ("wide", "una"), ("wide", "mal"), ("acme", "vic")];

impl Scene {
    /// `None`, said aloud, where there is no runtime.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let runtime = Runtime::start_for(test)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = model::serve(listener, Ledger::in_memory()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let keys = PEOPLE.map(|(tenant, user)| {
            let hash = KeyHash::of(&token_of(user)).to_hex();
            format!("{{ id = \"{user}\", tenant = \"{tenant}\", user = \"{user}\", sha256 = \"{hash}\" }}")
        });
        let operator = |m: &&catalogue::Method| m.grant(Surface::Shared) == Grant::Operator;
        let all: Vec<_> = catalogue::all().filter(operator).map(|m| format!("\"{}\"", m.name)).collect();
        let toml = format!(
            "listen = {{ sdk = \"127.0.0.1:0\", http = \"off\", admin = \"127.0.0.1:0\" }}\n\
             auth.keys = [{}]\n\
             directory.path = \"{}\"\n\
             tenants.default = {{ requests_per_second = 1000000, policy.allow_addresses = [\"127.0.0.1:{}\"] }}\n\
             tenants.wide.allow_methods = [{}]\n\
             pool.mode = \"fleet\"\n\
             [[pool.fleet]]\naddress = \"{}\"\ntoken_env = \"CLI_TOKEN\"\n",
            keys.join(", "),
            directory.path().join("directory.sqlite").display(),
            model.addr().port(),
            all.join(", "),
            runtime.address,
        );
        let config = Config::load(&Sources::fixed(&toml, &[("CLI_TOKEN", CLI_TOKEN)]));
        let config = config.unwrap_or_else(|e| panic!("{e}\n{toml}"));
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let app = App::start(config, metrics).await.unwrap();
        let sdk = app.addresses().sdk.unwrap();
        Some(Self { runtime, model, sdk, _app: app, _directory: directory })
    }

    /// A connection of one of [`PEOPLE`].
    pub(crate) async fn client(&self, user: &str) -> Client {
        let mut client = Client::dial(self.sdk).await;
        client.call("connect", json!({ "token": token_of(user) })).await.unwrap();
        client
    }

    /// What a session is made with.
    pub(crate) fn params(&self, session: &str) -> Value {
        params(&self.model, session)
    }

    /// A session with history, and a connection of its owner's.
    pub(crate) async fn owner(&self, user: &str, session: &str) -> Client {
        let mut client = self.client(user).await;
        client.call("session.create", self.params(session)).await.unwrap();
        client.turn(session, &format!("{CANARY} of {user}")).await;
        client.call("session.name.set", json!({ "sessionId": session, "name": CANARY })).await.unwrap();
        client
    }
}

/// What a session before the scripted model is made with.
pub(crate) fn params(model: &model::Handle, session: &str) -> Value {
    let provider = json!({ "type": "openai", "baseUrl": model.base_url(), "apiKey": "sk-test" });
    json!({ "sessionId": session, "model": "scripted", "provider": provider, "streaming": true })
}

fn token_of(user: &str) -> String {
    format!("token-of-{user}")
}
