//! What the official Rust SDK does directly against a Copilot CLI server it does through Jetway.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use github_copilot_sdk::{
    Error,
    handler::{PermissionHandler, PermissionResult, UserInputHandler, UserInputResponse},
    hooks::{
        HookContext, PostToolUseInput, PostToolUseOutput, PreToolUseInput, PreToolUseOutput, SessionHooks,
    },
    permission::deny_all,
    provider_token::{BearerTokenError, ProviderTokenArgs},
    tool::ToolHandler,
    types::{PermissionRequestData, RequestId, SessionId, Tool, ToolInvocation, ToolResult},
};
use jetway_sdk_rs::{everywhere, lines, text};
use serde_json::json;

const SHELL: &str = r#"[[tool bash {"command":"echo hello from the shell","description":"greet"}]]"#;
const ASK: &str = r#"[[tool ask_user {"question":"Which colour?","choices":["red","blue"]}]]"#;

/// What a handler saw, for the case to read.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Echo;

#[async_trait]
impl ToolHandler for Echo {
    async fn call(&self, call: ToolInvocation) -> Result<ToolResult, Error> {
        Ok(ToolResult::Text(format!("<{}>", text(&call.arguments, "text"))))
    }
}

fn echo() -> Tool {
    Tool::new("echo")
        .with_description("Echoes")
        .with_parameters(json!({ "type": "object", "properties": { "text": { "type": "string" } } }))
        .with_skip_permission(true)
        .with_handler(Arc::new(Echo))
}

#[tokio::test]
async fn ping_and_status() {
    everywhere(async |t| {
        let client = t.client("alice").await;
        let pong = client.ping(Some("yo")).await.unwrap();
        (pong.message, client.protocol_version(), client.get_status().await.unwrap().version)
    })
    .await;
}

#[tokio::test]
async fn streams_word_by_word() {
    everywhere(async |t| {
        let talk = t.talk(&t.client("alice").await, t.config()).await;
        let answer = talk.say("[[say one two three four]]").await;
        let deltas = talk.recorder.of_type("assistant.message_delta");
        let deltas: Vec<_> = deltas.iter().map(|event| text(&event.data, "deltaContent")).collect();
        assert_eq!(deltas.concat(), answer);
        assert!(deltas.len() >= 4, "{deltas:?}");
        (deltas, talk.recorder.lines())
    })
    .await;
}

#[tokio::test]
async fn custom_tool() {
    everywhere(async |t| {
        let talk = t.talk(&t.client("alice").await, t.config().with_tools([echo()])).await;
        let answer = talk.say(r#"[[tool echo {"text":"hi"}]]"#).await;
        assert!(answer.contains("<hi>"), "{answer}");
        (answer, talk.recorder.lines())
    })
    .await;
}

struct ApproveOnce(Seen);

#[async_trait]
impl PermissionHandler for ApproveOnce {
    async fn handle(&self, _: SessionId, _: RequestId, data: PermissionRequestData) -> PermissionResult {
        self.0.note(text(&data.extra["permissionRequest"], "fullCommandText"));
        PermissionResult::approve_once()
    }
}

#[tokio::test]
async fn permission_given() {
    everywhere(async |t| {
        let seen = Seen::default();
        let config = t.config().with_permission_handler(Arc::new(ApproveOnce(seen.clone())));
        let talk = t.talk(&t.client("alice").await, config).await;
        let answer = talk.say(SHELL).await;
        assert!(answer.contains("hello from the shell"), "{answer}");
        assert_eq!(seen.all(), ["echo hello from the shell"]);
        talk.recorder.lines()
    })
    .await;
}

#[tokio::test]
async fn permission_refused() {
    everywhere(async |t| {
        let talk = t.talk(&t.client("alice").await, t.config().with_permission_handler(deny_all())).await;
        (talk.say(SHELL).await, talk.recorder.lines())
    })
    .await;
}

struct Rewrite(Seen);

#[async_trait]
impl SessionHooks for Rewrite {
    async fn on_pre_tool_use(&self, input: PreToolUseInput, _: HookContext) -> Option<PreToolUseOutput> {
        self.0.note(format!("before {} {}", input.tool_name, input.tool_args));
        let modified_args = Some(json!({ "text": "changed" }));
        Some(PreToolUseOutput {
            permission_decision: Some("allow".into()),
            modified_args,
            ..Default::default()
        })
    }

    async fn on_post_tool_use(&self, input: PostToolUseInput, _: HookContext) -> Option<PostToolUseOutput> {
        self.0.note(format!("after {}", input.tool_name));
        None
    }
}

#[tokio::test]
async fn hooks() {
    everywhere(async |t| {
        let seen = Seen::default();
        let config = t.config().with_tools([echo()]).with_hooks(Arc::new(Rewrite(seen.clone())));
        let talk = t.talk(&t.client("alice").await, config).await;
        let answer = talk.say(r#"[[tool echo {"text":"as sent"}]]"#).await;
        assert!(answer.contains("<changed>"), "{answer}");
        (answer, seen.all(), talk.recorder.lines())
    })
    .await;
}

struct Blue(Seen);

#[async_trait]
impl UserInputHandler for Blue {
    async fn handle(
        &self,
        _: SessionId,
        question: String,
        choices: Option<Vec<String>>,
        allow_freeform: Option<bool>,
    ) -> Option<UserInputResponse> {
        self.0.note(format!("{question} {choices:?} {allow_freeform:?}"));
        Some(UserInputResponse { answer: "blue".into(), was_freeform: false })
    }
}

#[tokio::test]
async fn user_input() {
    everywhere(async |t| {
        let seen = Seen::default();
        let config = t.config().with_user_input_handler(Arc::new(Blue(seen.clone())));
        let talk = t.talk(&t.client("alice").await, config).await;
        let answer = talk.say(ASK).await;
        assert!(answer.contains("blue"), "{answer}");
        (answer, seen.all(), talk.recorder.lines())
    })
    .await;
}

#[tokio::test]
async fn bearer_token_provider() {
    everywhere(async |t| {
        let seen = Seen::default();
        let asked = seen.clone();
        let token = move |args: ProviderTokenArgs| {
            asked.note(args.provider_name);
            async { Ok::<_, BearerTokenError>("fresh-token".to_owned()) }
        };
        let provider = t.provider().with_bearer_token_provider(Arc::new(token));
        let talk = t.talk(&t.client("alice").await, t.config().with_provider(provider)).await;
        let answer = talk.say("hello").await;
        assert!(!seen.all().is_empty());
        answer
    })
    .await;
}

#[tokio::test]
async fn resumed_with_history() {
    everywhere(async |t| {
        let client = t.client("alice").await;
        let talk = t.talk(&client, t.config()).await;
        talk.say("first").await;
        talk.session.disconnect().await.unwrap();
        let again = t.resume(&client, t.again(talk.session.id()).with_tools([echo()])).await;
        assert_eq!(again.say("history").await, "History: first");
        let called = again.say(r#"[[tool echo {"text":"again"}]]"#).await;
        (called, again.recorder.lines(), lines(&again.session.get_events().await.unwrap()))
    })
    .await;
}

#[tokio::test]
async fn resumed_by_another_client_after_a_lost_connection() {
    everywhere(async |t| {
        let client = t.client("alice").await;
        let talk = t.talk(&client, t.config()).await;
        talk.say("before").await;
        talk.session.send("[[stream 150 10 20]]").await.unwrap();
        talk.recorder.seen("assistant.message_delta", 8).await;
        client.force_stop();
        let again = t.resume(&t.client("alice").await, t.again(talk.session.id())).await;
        if t.is_jetway() {
            // There the turn runs on, and who comes back sees the rest of it.
            again.recorder.seen("session.idle", 1).await;
        }
        let answer = again.say("history").await;
        assert!(answer.starts_with("History: before"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn abort() {
    everywhere(async |t| {
        let talk = t.talk(&t.client("alice").await, t.config()).await;
        talk.session.send("[[stream 1000 10 20]]").await.unwrap();
        talk.recorder.seen("assistant.message_delta", 3).await;
        talk.session.abort().await.unwrap();
        talk.recorder.seen("session.idle", 1).await;
        (talk.say("still there?").await, talk.recorder.of_type("session.error").len())
    })
    .await;
}

#[tokio::test]
async fn listed_and_deleted() {
    everywhere(async |t| {
        let client = t.client("alice").await;
        let talk = t.talk(&client, t.config()).await;
        talk.say("to be deleted").await;
        let id = talk.session.id();
        let listed = client.list_sessions(None).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|each| (each.session_id, each.summary)).collect();
        client.delete_session(id).await.unwrap();
        assert!(client.get_session_metadata(id).await.unwrap().is_none());
        assert!(client.list_sessions(None).await.unwrap().is_empty());
        let refused = client.resume_session(t.again(id)).await.err().unwrap().to_string();
        (listed, refused)
    })
    .await;
}

#[tokio::test]
async fn unknown_session() {
    everywhere(async |t| {
        let client = t.client("alice").await;
        client.resume_session(t.again(&SessionId::new("nobodys"))).await.err().unwrap().to_string()
    })
    .await;
}

#[tokio::test]
async fn a_model_error() {
    everywhere(async |t| {
        let talk = t.talk(&t.client("alice").await, t.config()).await;
        let error = talk.try_say("[[error 400 no such thing]]").await.unwrap_err().to_string();
        (error, talk.recorder.lines())
    })
    .await;
}

#[tokio::test]
async fn two_users_at_once() {
    everywhere(async |t| {
        let turns = async |user: &str| {
            let client = t.client(user).await;
            let talk = t.talk(&client, t.config()).await;
            let answers = [talk.say(&format!("{user} one")).await, talk.say(&format!("{user} two")).await];
            let listed = client.list_sessions(None).await.unwrap();
            let listed: Vec<_> = listed.into_iter().map(|each| each.session_id).collect();
            assert!(listed.contains(talk.session.id()), "{listed:?}");
            assert!(!t.is_jetway() || listed.len() == 1, "one user sees the other's session");
            (answers, talk.recorder.lines())
        };
        tokio::join!(turns("ada"), turns("linus"))
    })
    .await;
}
