//! On a process of the owner's own, others have what their roles and the shared surface give.

use std::collections::BTreeSet;

use jetway_loadtest::model::{self, Ledger};
use jetway_wire::catalogue::{self, Grant, Method, Surface};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    common::{self, client::Client},
    scene,
};

/// What a viewer may do, written down a second time.
const SEES: &str = "session.agent.getCurrent session.agent.list session.destroy session.detach session.eventLog.read \
    session.eventLog.tail session.getMessages session.getMetadata session.history.listRewindPoints session.mode.get \
    session.model.getCurrent session.model.list session.name.get session.permissions.pendingRequests \
    session.plan.read session.queue.pendingItems session.resume session.tasks.list session.usage.getMetrics \
    sessions.getMetadata sessions.readPersistedEvents";

/// Of what is safe beside others, what a member may not do.
fn owners(method: &str) -> bool {
    let rules = method.starts_with("session.permissions.")
        && !["getMode", "handlePendingPermissionRequest", "notifyPromptShown", "pendingRequests"]
            .contains(&&method["session.permissions.".len()..]);
    let ends = [
        "session.delete",
        "session.history.clearContext",
        "session.history.rewind",
        "session.history.truncate",
        "session.options.update",
        "session.shutdown",
        "session.suspend",
        "sessions.bulkDelete",
        "sessions.close",
        "sessions.delete",
    ];
    rules || ends.contains(&method)
}

/// Params with `id` wherever a session may stand.
fn params(method: &Method, id: &str) -> Value {
    let mut params = json!({});
    for path in method.id_paths() {
        crate::foreign::put(&mut params, path.steps(), id);
    }
    params
}

/// Whether Jetway refuses a call to its caller. Refusals come in order, and what is forwarded may never be
/// answered: so a call that is refused anyhow comes after it.
async fn refused(client: &mut Client, method: &Method, id: &str) -> bool {
    let from = client.seen.len();
    let call = client.request(method.name, params(method, id)).await;
    let after = client.request("no.such.method", json!({})).await;
    client.find(from, |m| m["id"] == after).await;
    let reply = client.seen[from..].iter().find(|m| m["id"] == call && m["method"].is_null());
    reply.is_some_and(|reply| [json!(-32011), json!(-32012)].contains(&reply["error"]["code"]))
}

/// Check 25, for those with whom a session is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_25_members_have_what_their_roles_give() {
    let Some(runtime) = common::runtime("check_25_members_have_what_their_roles_give") else { return };
    let home = tempfile::tempdir().unwrap();
    let model = model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Ledger::in_memory()).unwrap();
    let gateway = common::start(&common::per_user(&runtime, home.path(), "")).await;
    let mut ada = Client::hello(gateway.sdk, "ada").await;
    let mut create = scene::params(&model, "room");
    create["members"] = json!([{ "user": "bob", "role": "member" }, { "user": "vic", "role": "viewer" }]);
    ada.call("session.create", create).await.unwrap();
    ada.turn("room", "first").await;
    ada.call("session.create", scene::params(&model, "private")).await.unwrap();
    ada.turn("private", scene::CANARY).await;

    let mut methods: Vec<_> = catalogue::all().filter(|m| m.names_sessions()).collect();
    // What leaves the session comes last.
    let leaves = |m: &Method| matches!(m.name, "session.detach" | "session.destroy");
    methods.sort_by_key(|m| (leaves(m), m.name));
    let safe = |m: &Method| m.grant(Surface::Shared) == Grant::Own;
    let sees: BTreeSet<_> = SEES.split_whitespace().collect();
    let (mut wrong, mut allowed) = (Vec::new(), [0, 0]);
    for (n, who) in ["vic", "bob"].into_iter().enumerate() {
        let mut client = Client::hello(gateway.sdk, who).await;
        client.call("session.resume", json!({ "sessionId": "room" })).await.unwrap();
        for method in &methods {
            let may =
                safe(method) && if who == "vic" { sees.contains(method.name) } else { !owners(method.name) };
            if refused(&mut client, method, "room").await == may {
                wrong.push(format!(
                    "{} as {who}: expected {}",
                    method.name,
                    if may { "a way" } else { "none" }
                ));
            }
            allowed[n] += usize::from(may);
        }
        let told = client
            .raw
            .iter()
            .filter(|raw| raw.contains(scene::CANARY) || raw.contains("\"private\""))
            .count();
        assert_eq!(told, 0, "{who}: of the owner's other session");
    }
    println!(
        "CHECK 25: {} methods in a session shared on its owner's process: a viewer may call {}, a member {}; {} wrong",
        methods.len(),
        allowed[0],
        allowed[1],
        wrong.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    let history = ada.call("session.getMessages", json!({ "sessionId": "private" })).await.unwrap();
    assert!(history.to_string().contains(scene::CANARY));
}
