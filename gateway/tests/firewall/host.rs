//! Whoever has a session on a shared server, a model of their own, and approves of whatever it asks for, still gets at
//! nothing of the host: no other session's files, no program.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    common::client::{Client, is_event},
    scene::{CANARY, Scene, params},
};

const HERS: &str = "10000000-is-adas-1";

/// Those of the CLI's tools that keep to the session.
const ISOLATED: &str = "ask_user task_complete exit_plan_mode task read_agent write_agent list_agents send_inbox \
    context_board skill";

/// What to get at: another's history; and a file that only a program on the host could make.
struct Prize {
    file: PathBuf,
    marker: PathBuf,
}

impl Prize {
    fn of(scene: &Scene) -> Self {
        let file = scene.runtime.state_of(HERS).join("events.jsonl");
        Self { file, marker: scene.runtime.home.path().join("marker") }
    }

    fn shell(&self) -> String {
        format!("touch {}; cat {}", self.marker.display(), self.file.display())
    }

    /// What a model would say to run a shell.
    fn bash(&self) -> String {
        format!("[[tool bash {}]]", json!({ "command": self.shell(), "description": "d" }))
    }

    /// Whether it was had, by what came of it.
    fn was_had(&self, came: &[String]) -> bool {
        let made = std::fs::remove_file(&self.marker).is_ok();
        made || came.iter().any(|raw| raw.contains(&format!("{CANARY} of ada")))
    }

    /// What else a model might ask for.
    fn calls(&self) -> Vec<(&'static str, Value)> {
        let (file, marker) = (&self.file, &self.marker);
        let patch = format!("*** Begin Patch\n*** Add File: {}\n+x\n*** End Patch", marker.display());
        vec![
            ("bash", json!({ "command": self.shell(), "description": "d" })),
            ("view", json!({ "path": file })),
            ("create", json!({ "path": marker, "file_text": "x" })),
            ("str_replace_editor", json!({ "command": "view", "path": file })),
            ("edit", json!({ "path": file, "old_str": CANARY, "new_str": "gone" })),
            ("apply_patch", json!({ "patch": patch })),
            ("grep", json!({ "pattern": "canary", "path": file, "output_mode": "content" })),
            ("rg", json!({ "pattern": "canary", "path": file, "output_mode": "content" })),
            ("glob", json!({ "pattern": "**/*", "path": file.parent() })),
            ("session_store_sql", json!({ "query": "SELECT * FROM turns", "description": "d" })),
            ("sql", json!({ "query": "SELECT 1", "description": "d" })),
        ]
    }
}

/// Like [`Client::turn`], approving whatever is asked. Returns all that came.
async fn approving(client: &mut Client, session: &str, prompt: &str) -> Vec<String> {
    let from = client.seen.len();
    client.prompt(session, prompt).await.unwrap();
    let of_interest =
        |m: &Value| is_event(m, session, "session.idle") || is_event(m, session, "permission.requested");
    let mut at = from;
    loop {
        client.find(at, of_interest).await;
        at += client.seen[at..].iter().position(of_interest).unwrap() + 1;
        let event = &client.seen[at - 1]["params"]["event"];
        if event["type"] == "session.idle" {
            return client.raw[from..].to_vec();
        }
        let request = event["data"]["requestId"].clone();
        let answer =
            json!({ "sessionId": session, "requestId": request, "result": { "kind": "approve-once" } });
        client.call("session.permissions.handlePendingPermissionRequest", answer).await.unwrap();
    }
}

/// Whether it tells of a tool that did what it was to do.
fn worked(raw: &str) -> bool {
    let event = &serde_json::from_str::<Value>(raw).unwrap()["params"]["event"];
    event["type"] == "tool.execution_complete" && event["data"]["success"] == true
}

/// Who is to call the tool.
enum Caller {
    /// The model that is prompted.
    Model,
    /// An agent of that kind, which the model begins.
    Agent(&'static str),
    /// An agent of that kind, which the client begins.
    Task(&'static str),
    /// The model in a fork of the session.
    Fork,
}

/// A way to more tools that the policy lets through: what a session is made with, what is called then, who calls.
type Way = (&'static str, Value, Option<(&'static str, Value)>, Caller);

fn ways() -> Vec<Way> {
    let agents = |tools: Value| json!([{ "name": "x", "displayName": "X", "description": "d", "prompt": "p", "tools": tools }]);
    let chosen = |tools: Value| json!({ "customAgents": agents(tools), "agent": "x" });
    let open = json!({ "toolFilterPrecedence": "excluded", "excludedTools": ["nothing"] });
    let aliases = ["Bash", "BASH", "shell", "execute", "builtin_bash"];
    let aliases = aliases.map(|name| json!({ "name": name, "description": "", "parameters": {} }));
    let made = |name, with| (name, with, None, Caller::Model);
    let then = |name, method, with| (name, json!({}), Some((method, with)), Caller::Model);
    let by = |name, caller| (name, json!({}), None, caller);
    vec![
        made("precedence", open.clone()),
        made("tools of other sources", json!({ "availableTools": ["custom:bash", "mcp:bash"] })),
        made("tools called alike", json!({ "tools": aliases })),
        made("commands", json!({ "commands": [{ "name": "bash", "description": "d" }] })),
        made("an agent with all tools", chosen(json!(["*"]))),
        made("an agent with a named tool", chosen(json!(["bash"]))),
        made("an agent with whatever there is", chosen(Value::Null)),
        made("the default agent", json!({ "defaultAgent": { "tools": ["*"], "excludedTools": [] } })),
        made("tool search", json!({ "toolSearch": { "enabled": true } })),
        made("experiments", json!({ "isExperimentalMode": true })),
        then("options", "session.options.update", open),
        then("tools anew", "session.tools.initializeAndValidate", json!({})),
        then("autopilot", "session.mode.set", json!({ "mode": "autopilot" })),
        then("another model", "session.model.switchTo", json!({ "modelId": "gpt-5" })),
        by("general-purpose", Caller::Agent("general-purpose")),
        by("explore", Caller::Agent("explore")),
        by("task", Caller::Agent("task")),
        by("code-review", Caller::Agent("code-review")),
        ("one's own agent", json!({ "customAgents": agents(json!(["*"])) }), None, Caller::Agent("x")),
        by("a started agent", Caller::Task("general-purpose")),
        ("one's own, started", json!({ "customAgents": agents(json!(["bash"])) }), None, Caller::Task("x")),
        by("a fork", Caller::Fork),
    ]
}

/// Has it called. Returns all that came.
async fn ask(client: &mut Client, session: &str, caller: &Caller, prompt: &str) -> Vec<String> {
    let from = client.seen.len();
    match caller {
        Caller::Model => drop(approving(client, session, prompt).await),
        Caller::Agent(kind) => {
            let task = json!({ "agent_type": kind, "name": "n", "description": "d", "prompt": prompt, "mode": "sync" });
            approving(client, session, &format!("[[tool task {task}]]")).await;
        }
        Caller::Task(kind) => {
            let task = json!({ "sessionId": session, "agentType": kind, "name": "n", "description": "d", "prompt": prompt });
            client.call("session.tasks.startAgent", task).await.unwrap();
            client.call("session.tasks.waitForPending", json!({ "sessionId": session })).await.unwrap();
        }
        Caller::Fork => {
            approving(client, session, "something to fork").await;
            let fork = client.call("sessions.fork", json!({ "sessionId": session })).await.unwrap();
            let fork = fork["sessionId"].as_str().unwrap().to_owned();
            // Nobody has said what tools it is to have.
            client.prompt(&fork, prompt).await.unwrap_err();
            let resume = json!({ "sessionId": fork, "requestPermission": true });
            client.call("session.resume", resume).await.unwrap();
            approving(client, &fork, prompt).await;
        }
    }
    client.raw[from..].to_vec()
}

fn with(scene: &Scene, session: &str, more: &Value) -> Value {
    let mut all = params(&scene.model, session);
    all["requestPermission"] = json!(true);
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// Check 29, and all other ways to run something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_29_no_way_to_the_host() {
    let Some(scene) = Scene::start("check_29_no_way_to_the_host").await else { return };
    let _ada = scene.owner("ada", HERS).await;
    let prize = Prize::of(&scene);
    // Without a gateway it is there for the asking: so the test can fail.
    let mut direct = scene.runtime.connect().await;
    direct.call("session.create", with(&scene, "direct", &json!({}))).await.unwrap();
    let came = approving(&mut direct, "direct", &prize.bash()).await;
    assert!(prize.was_had(&came) && came.iter().any(|raw| worked(raw)), "{came:#?}");

    let mut eve = scene.client("eve").await;
    eve.call("session.create", with(&scene, "plain", &json!({}))).await.unwrap();
    let (mut had, mut tried) = (Vec::new(), 0);
    for (tool, arguments) in prize.calls() {
        let came = approving(&mut eve, "plain", &format!("[[tool {tool} {arguments}]]")).await;
        if prize.was_had(&came) || came.iter().any(|raw| worked(raw)) {
            had.push(tool);
        }
        tried += 1;
    }
    for (n, (name, more, then, caller)) in ways().into_iter().enumerate() {
        let session = format!("way-{n}");
        eve.call("session.create", with(&scene, &session, &more))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Some((method, mut params)) = then {
            params["sessionId"] = json!(session);
            eve.call(method, params).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if prize.was_had(&ask(&mut eve, &session, &caller, &prize.bash()).await) {
            had.push(name);
        }
        tried += 1;
    }
    println!("CHECK 29: {tried} ways to a shell or a file of the host: {} led there", had.len());
    assert_eq!(had, [""; 0]);
}

/// Check 29: nor by a program that is to serve tools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_29_programs_are_refused() {
    let Some(scene) = Scene::start("check_29_programs_are_refused").await else { return };
    let marker = scene.runtime.home.path().join("marker");
    let servers = json!({ "m": { "type": "local", "command": "touch", "args": [marker], "tools": ["*"] } });
    let agents = json!([{ "name": "x", "description": "d", "prompt": "p", "mcpServers": servers }]);
    let mut refused = 0;
    // Not even where the operator allows every method.
    for who in ["eve", "mal"] {
        let mut client = scene.client(who).await;
        let session = format!("of-{who}");
        client.call("session.create", scene.params(&session)).await.unwrap();
        for (method, key, value) in [
            ("session.create", "mcpServers", &servers),
            ("session.create", "customAgents", &agents),
            ("session.resume", "mcpServers", &servers),
            ("session.resume", "customAgents", &agents),
        ] {
            let mut params = scene.params(&session);
            params[key] = value.clone();
            let error = client.call(method, params).await.unwrap_err();
            assert_eq!(
                (&error["code"], &error["data"]["rule"]),
                (&json!(-32012), &json!("command")),
                "{error}"
            );
            refused += 1;
        }
        client.turn(&session, "whatever starts with the first prompt").await;
    }
    println!("CHECK 29: {refused} MCP servers given by `command`: all refused");
    assert!(!marker.exists());
}

/// The names of the tools that the runtime itself has, for models of each kind.
async fn own_tools(scene: &Scene) -> Vec<String> {
    let mut direct = scene.runtime.connect().await;
    direct.call("session.create", scene.params("direct")).await.unwrap();
    let session = json!({ "sessionId": "direct" });
    let mut lists = vec![direct.call("session.tools.getBuiltinDescriptors", session).await.unwrap()];
    for model in ["gpt-5", "gpt-5.1-codex", "claude-sonnet-4.5", "gemini-3-pro-preview"] {
        lists.push(direct.call("tools.list", json!({ "model": model })).await.unwrap());
    }
    let mut names = Vec::new();
    lists.iter().for_each(|list| collect(list, &mut names));
    names.sort_unstable();
    names.dedup();
    names
}

/// The `name`s of objects that are no params.
fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|value| collect(value, names)),
        Value::Object(members) => {
            match members.get("name").and_then(Value::as_str) {
                Some(name) => names.push(name.to_owned()),
                None => members.values().for_each(|value| collect(value, names)),
            };
        }
        _ => {}
    }
}

/// 1.0.85 runs its own tool where the client has one of the same name, whatever tools are available: so a client may
/// not have one. Fails, naming it, when the installed runtime has a tool that Jetway does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtimes_own_tools_are_not_called_by_name() {
    let Some(scene) = Scene::start("the_runtimes_own_tools_are_not_called_by_name").await else { return };
    let names = own_tools(&scene).await;
    assert!(
        ["bash", "view", "apply_patch", "rg"].iter().all(|name| names.iter().any(|n| n == name)),
        "{names:?}"
    );
    let mut eve = scene.client("eve").await;
    eve.call("session.create", scene.params("mine")).await.unwrap();
    let mut unknown = Vec::new();
    for name in names.iter().filter(|name| !ISOLATED.split_whitespace().any(|i| i == *name)) {
        let tools =
            json!([{ "name": name, "description": "", "parameters": {}, "overridesBuiltInTool": true }]);
        for method in ["session.create", "session.resume", "session.tools.set"] {
            let mut params = if method == "session.tools.set" {
                json!({ "sessionId": "mine" })
            } else {
                scene.params("mine")
            };
            params["tools"] = tools.clone();
            let rule = eve.call(method, params).await.err().map(|error| error["data"]["rule"].clone());
            if rule != Some(json!("tool_name")) {
                unknown.push(format!("{method}: {name}"));
            }
        }
    }
    println!("{} tools of the runtime's own: {} not known", names.len(), unknown.len());
    assert_eq!(unknown, Vec::<String>::new());
}
