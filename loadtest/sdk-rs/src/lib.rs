//! Runs each case against every target and compares what it returns.

mod processes;

use std::{
    fmt::Debug,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use github_copilot_sdk::{
    Client, ClientOptions, Error, Transport,
    permission::approve_all,
    session::Session,
    subscription::EventSubscription,
    types::{MessageOptions, ProviderConfig, ResumeSessionConfig, SessionConfig, SessionEvent, SessionId},
};
use processes::{Model, Target};
use serde_json::Value;

/// How long anything on loopback may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `case` on a fresh instance of every target, and fails unless it returns the same everywhere. What it
/// returns must not depend on time or chance; session ids are the same on every target.
pub async fn everywhere<T: PartialEq + Debug>(case: impl AsyncFn(&Scene) -> T) {
    let model = Model::start();
    let mut first: Option<(&str, T)> = None;
    for target in Target::all() {
        let name = target.name;
        let scene = Scene {
            target,
            provider_url: model.base_url.clone(),
            sessions: AtomicUsize::new(0),
            clients: Mutex::default(),
        };
        let outcome = case(&scene).await;
        for client in scene.clients.lock().expect("unpoisoned").iter() {
            client.force_stop();
        }
        match &first {
            None => first = Some((name, outcome)),
            Some((reference, expected)) => assert_eq!(&outcome, expected, "{name} differs from {reference}"),
        }
    }
}

/// What a case gets: one target, and clients and sessions on it.
pub struct Scene {
    target: Target,
    provider_url: String,
    sessions: AtomicUsize,
    clients: Mutex<Vec<Client>>,
}

impl Scene {
    /// Whether this is Jetway, which keeps users apart and turns alive; a CLI of one's own does neither.
    pub fn is_jetway(&self) -> bool {
        self.target.name == "jetway"
    }

    /// A connected client of `user`.
    pub async fn client(&self, user: &str) -> Client {
        let transport = Transport::External {
            host: "127.0.0.1".to_owned(),
            port: self.target.port,
            connection_token: Some(self.target.token(user)),
        };
        // The SDK looks for a CLI even when it is to start none.
        let options = ClientOptions::new().with_transport(transport).with_program(PathBuf::from("none"));
        let client = Client::start(options).await;
        let client = client.unwrap_or_else(|error| panic!("on {}: {error}", self.target.name));
        self.clients.lock().expect("unpoisoned").push(client.clone());
        client
    }

    /// A bring-your-own-key provider that is the scripted model.
    pub fn provider(&self) -> ProviderConfig {
        ProviderConfig::new(&self.provider_url).with_provider_type("openai").with_api_key("sk-test")
    }

    /// Session settings: scripted model, streaming, everything approved, an own id and directory.
    pub fn config(&self) -> SessionConfig {
        let id = format!("session-{}", self.sessions.fetch_add(1, Ordering::Relaxed));
        let dir = self.target.dir().join(&id);
        fs::create_dir(&dir).expect("a directory");
        SessionConfig::default()
            .with_session_id(id)
            .with_model("scripted")
            .with_provider(self.provider())
            .with_streaming(true)
            .with_permission_handler(approve_all())
            .with_working_directory(dir)
    }

    /// Settings for `id` again.
    pub fn again(&self, id: &SessionId) -> ResumeSessionConfig {
        ResumeSessionConfig::new(id.clone())
            .with_model("scripted")
            .with_provider(self.provider())
            .with_streaming(true)
            .with_permission_handler(approve_all())
    }

    /// A new session.
    pub async fn talk(&self, client: &Client, config: SessionConfig) -> Talk {
        let prepared = client.prepare_session(config).expect("valid settings");
        let recorder = Recorder::of(prepared.subscribe());
        Talk::of(prepared.start().await.expect("a session"), recorder)
    }

    /// A session resumed.
    pub async fn resume(&self, client: &Client, config: ResumeSessionConfig) -> Talk {
        let prepared = client.prepare_resume_session(config).expect("valid settings");
        let recorder = Recorder::of(prepared.subscribe());
        Talk::of(prepared.start().await.expect("the session again"), recorder)
    }
}

/// A session and what came of it.
pub struct Talk {
    /// The SDK's session.
    pub session: Session,
    /// Its events, from the first one on.
    pub recorder: Recorder,
}

impl Talk {
    fn of(session: Session, recorder: Recorder) -> Self {
        Self { session, recorder }
    }

    /// A turn's final text.
    pub async fn say(&self, prompt: &str) -> String {
        self.try_say(prompt).await.expect("an answer")
    }

    /// A turn's final text, or why there is none. Returns once the recorder has the turn's end too.
    pub async fn try_say(&self, prompt: &str) -> Result<String, Error> {
        let before = self.recorder.of_type("session.idle").len();
        let answer =
            self.session.send_and_wait(MessageOptions::new(prompt).with_wait_timeout(PATIENCE)).await;
        self.recorder.seen("session.idle", before + 1).await;
        Ok(answer?.map(|event| text(&event.data, "content")).unwrap_or_default())
    }
}

/// Remembers a session's events.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<SessionEvent>>>);

impl Recorder {
    fn of(mut events: EventSubscription) -> Self {
        let recorder = Self::default();
        let kept = recorder.clone();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                kept.0.lock().expect("unpoisoned").push(event);
            }
        });
        recorder
    }

    /// Those of one type.
    pub fn of_type(&self, name: &str) -> Vec<SessionEvent> {
        self.0.lock().expect("unpoisoned").iter().filter(|event| event.event_type == name).cloned().collect()
    }

    /// Waits for the `count`-th event of a type.
    pub async fn seen(&self, name: &str, count: usize) {
        let waiting = async {
            while self.of_type(name).len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(came.is_ok(), "{count} × {name} not among {:#?}", self.lines());
    }

    /// See [`lines`].
    pub fn lines(&self) -> Vec<String> {
        lines(&self.0.lock().expect("unpoisoned"))
    }
}

/// One short line for each event that a user of the SDK acts on; runs of deltas become one line. The other events
/// vary between two runs of the same turn.
pub fn lines(events: &[SessionEvent]) -> Vec<String> {
    let mut told: Vec<String> = events.iter().filter_map(line).collect();
    told.dedup_by(|next, last| next == last && next.ends_with("_delta"));
    told
}

fn line(event: &SessionEvent) -> Option<String> {
    let data = &event.data;
    let gist = match event.event_type.as_str() {
        "assistant.turn_start" | "assistant.message_delta" | "assistant.turn_end" | "session.idle" => {
            String::new()
        }
        "user.message" | "assistant.message" => text(data, "content"),
        "tool.execution_start" | "external_tool.requested" => text(data, "toolName"),
        "tool.execution_complete" => format!("{} {}", data["success"], text(&data["error"], "message")),
        "permission.requested" => text(&data["permissionRequest"], "kind"),
        "session.error" => text(data, "message"),
        _ => return None,
    };
    Some(format!("{} {gist}", event.event_type).trim_end().to_owned())
}

/// The string at `key`, or nothing.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
