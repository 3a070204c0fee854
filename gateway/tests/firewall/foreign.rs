//! Check 25: every method, called with another's session.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, Instant},
};

use jetway_wire::catalogue::{self, Method, Path, Scope, Step};
use serde_json::{Value, json};

use crate::{
    common::{client::Client, quantile},
    scene::{CANARY, Scene},
};

/// As long as the ids that there are.
const NEVER: &str = "00000000-never-was";
const HERS: &str = "10000000-is-adas-1";
const UNAS: &str = "20000000-is-unas-2";

/// What many methods ask for beside sessions: so that nothing is refused for what it lacks.
fn filler() -> Value {
    json!({
        "prompt": "x", "name": "n", "requestId": "r", "mode": "plan", "message": "m", "id": "1", "eventId": "e",
        "path": "a.txt", "text": "t", "level": "info", "result": { "kind": "approve-once" }, "model": "scripted",
        "command": "id", "prefix": "1",
    })
}

/// Params with `id` at `path`, and the caller's own session wherever else one may stand.
fn params(method: &Method, path: &Path, id: &str, own: &str) -> Value {
    let mut params = filler();
    for other in method.id_paths() {
        put(&mut params, other.steps(), own);
    }
    put(&mut params, path.steps(), id);
    params
}

pub(crate) fn put(value: &mut Value, path: &[Step<'_>], id: &str) {
    match path {
        [] => *value = json!(id),
        [Step::Member(name), rest @ ..] => {
            if !value.is_object() {
                *value = json!({});
            }
            put(&mut value[*name], rest, id);
        }
        [Step::Each, rest @ ..] => {
            let mut element = Value::Null;
            put(&mut element, rest, id);
            *value = json!([element]);
        }
        [Step::Values, rest @ ..] => {
            *value = json!({ id: null });
            put(&mut value[id], rest, id);
        }
    }
}

/// What a call is answered with, byte for byte but for its id.
async fn ask(client: &mut Client, method: &str, params: &Value) -> String {
    let from = client.seen.len();
    let id = client.request(method, params.clone()).await;
    let reply = client.find_raw(from, |m| m["id"] == id && m["method"].is_null()).await;
    reply.replacen(&format!("\"id\":{id}"), "\"id\":_", 1)
}

fn code_of(reply: &str) -> i64 {
    let reply: Value = serde_json::from_str(&reply.replacen("\"id\":_", "\"id\":0", 1)).unwrap();
    reply["error"]["code"].as_i64().unwrap_or(0)
}

/// Everything that the runtime keeps of a session.
fn kept(scene: &Scene, session: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = scene.runtime.state_of(session);
    let files = std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(|f| f.path().is_file());
    let read = |f: std::fs::DirEntry| {
        (f.file_name().to_string_lossy().into_owned(), std::fs::read(f.path()).unwrap_or_default())
    };
    files.map(read).collect()
}

/// What its owner sees of a session.
async fn seen(owner: &mut Client, session: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for method in ["session.getMessages", "session.name.get", "session.mode.get", "session.model.getCurrent"]
    {
        all.push(owner.call(method, json!({ "sessionId": session })).await.unwrap());
    }
    all
}

/// Somebody who tries.
struct Prober {
    who: &'static str,
    target: &'static str,
    client: Client,
    own: String,
}

impl Prober {
    async fn new(scene: &Scene, who: &'static str, target: &'static str) -> Self {
        let mut client = scene.client(who).await;
        let own = format!("of-{who}-for-{}", &target[..1]);
        client.call("session.create", scene.params(&own)).await.unwrap();
        Self { who, target, client, own }
    }

    /// Calls a method with the target's id, and with one that never was, wherever an id may stand.
    async fn probe(&mut self, method: &'static Method, wrong: &mut Vec<String>) -> BTreeSet<i64> {
        let mut codes = BTreeSet::new();
        for path in method.id_paths() {
            let mut replies = Vec::new();
            for id in [self.target, NEVER] {
                replies.push(ask(&mut self.client, method.name, &params(method, path, id, &self.own)).await);
            }
            let code = code_of(&replies[0]);
            if code == 0 {
                wrong.push(format!("{} as {}: succeeded", method.name, self.who));
            }
            if replies[0] != replies[1] {
                wrong.push(format!(
                    "{} as {}: {} instead of {}",
                    method.name, self.who, replies[0], replies[1]
                ));
            }
            codes.insert(code);
        }
        codes
    }
}

fn answer(code: i64) -> &'static str {
    match code {
        -32011 => "session not found",
        -32012 => "method not allowed",
        0 => "answered",
        _ => "the CLI's own error",
    }
}

fn spell(codes: &BTreeSet<i64>) -> String {
    codes.iter().map(|code| answer(*code)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// Check 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_25_every_method_with_anothers_session() {
    let Some(scene) = Scene::start("check_25_every_method_with_anothers_session").await else { return };
    let (mut ada, mut una) = (scene.owner("ada", HERS).await, scene.owner("una", UNAS).await);
    // Without a gateway it is anybody's: so the test can fail.
    let open = scene.runtime.connect().await.call("session.getMessages", json!({ "sessionId": HERS })).await;
    assert!(open.unwrap().to_string().contains(CANARY), "the runtime has no boundary of its own");

    let before = (seen(&mut ada, HERS).await, seen(&mut una, UNAS).await);
    let files = (kept(&scene, HERS), kept(&scene, UNAS));
    let mut probers = Vec::new();
    // In the tenant and out of it; and where everything is allowed, so that only the owner counts.
    for (who, target) in [("bob", HERS), ("eve", HERS), ("mal", HERS), ("mal", UNAS)] {
        probers.push(Prober::new(&scene, who, target).await);
    }
    let mut methods: Vec<_> = catalogue::all().filter(|m| m.names_sessions()).collect();
    methods.sort_by_key(|m| m.name);
    let (mut wrong, mut table, mut calls) = (Vec::new(), String::new(), 0);
    for method in &methods {
        // A new id is anybody's to take; what there is of another's is refused like any unknown one.
        let mut codes = Vec::new();
        for prober in &mut probers {
            codes.push(match method.scope {
                Scope::Create => {
                    let reply = ask(&mut prober.client, method.name, &scene.params(prober.target)).await;
                    BTreeSet::from([code_of(&reply)])
                }
                _ => prober.probe(method, &mut wrong).await,
            });
            calls += 2 * method.id_paths().len();
        }
        if method.scope == Scope::Create && codes.iter().any(|codes| *codes != BTreeSet::from([-32011])) {
            wrong.push(format!("{}: {codes:?}", method.name));
        }
        // Whoever may call the method at all learns that there is no such session.
        if codes[2..].iter().any(|codes| codes.iter().any(|code| ![-32011, -32012].contains(code))) {
            wrong.push(format!("{}: {codes:?}", method.name));
        }
        let spelled: Vec<_> = codes.iter().map(spell).collect();
        writeln!(table, "{:<56} {:<20} {:<20} {}", method.name, spelled[0], spelled[1], spelled[2]).unwrap();
    }
    let files_after = (kept(&scene, HERS), kept(&scene, UNAS));
    let after = (seen(&mut ada, HERS).await, seen(&mut una, UNAS).await);
    let told: usize = probers.iter().map(|p| p.client.raw.iter().filter(|raw| tells(raw)).count()).sum();
    write_down(&table);
    println!(
        "CHECK 25: {} methods, {calls} calls with another's session or none that ever was, {} kinds of callers: {} wrong; {told} messages told of another's session",
        methods.len(),
        probers.len(),
        wrong.len()
    );
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(told, 0);
    assert_eq!(before, after);
    assert!(files == files_after, "what the runtime keeps has changed");
}

/// Of which nothing may come to anybody but the owners.
fn tells(raw: &str) -> bool {
    [CANARY, HERS, UNAS].iter().any(|secret| raw.contains(secret))
}

fn write_down(table: &str) {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("firewall-methods.txt");
    let head = "# what is answered to a call with another's session id; tenant `wide` may call all that can be allowed\n";
    let columns =
        format!("# {:<54} {:<20} {:<20} {}\n", "method", "same tenant", "other tenant", "tenant `wide`");
    std::fs::write(&path, format!("{head}{columns}{table}")).unwrap();
    println!("what was answered to each: {}", path.display());
}

/// Check 25: what names no session tells of none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_25_every_method_without_a_session() {
    let Some(scene) = Scene::start("check_25_every_method_without_a_session").await else { return };
    let _ada = scene.owner("ada", HERS).await;
    let home = scene.runtime.home.path().display().to_string();
    let mut methods: Vec<_> = catalogue::all().filter(|m| !m.names_sessions()).collect();
    // The one that ends the connection comes last.
    methods.sort_by_key(|m| (m.name == "runtime.shutdown", m.name));
    let (mut answered, mut told) = (0, Vec::new());
    for who in ["bob", "eve"] {
        let mut client = scene.client(who).await;
        for method in &methods {
            let reply = ask(&mut client, method.name, &filler()).await;
            let bare = ask_bare(&mut client, method).await;
            answered += usize::from(code_of(&reply) == 0 || code_of(&bare) == 0);
        }
        let of_acme = |raw: &str| raw.contains("\"ada\"") || (who == "eve" && raw.contains("acme"));
        told.extend(client.raw.into_iter().filter(|raw| tells(raw) || of_acme(raw) || raw.contains(&home)));
    }
    println!(
        "CHECK 25: {} methods that name no session, called by two others: {answered} answered, {} messages told of another's session",
        methods.len(),
        told.len()
    );
    assert_eq!(told, Vec::<String>::new());
    assert!(answered > 20, "hardly anything was asked at all");
    // And the server is still there.
    scene.runtime.connect().await.call("ping", json!({})).await.unwrap();
}

/// Many methods take no more than this.
async fn ask_bare(client: &mut Client, method: &Method) -> String {
    match method.name {
        "runtime.shutdown" => r#"{"id":_,"result":null}"#.into(),
        name => ask(client, name, &json!({})).await,
    }
}

/// Check 25: nor does the time that it takes tell which id is another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_25_denials_take_the_same_time() {
    const SAMPLES: usize = 300;
    let Some(scene) = Scene::start("check_25_denials_take_the_same_time").await else { return };
    let _ada = scene.owner("ada", HERS).await;
    for who in ["bob", "eve"] {
        let mut client = scene.client(who).await;
        for method in ["session.send", "session.resume", "session.delete"] {
            let mut took = [Vec::new(), Vec::new()];
            for n in 0..2 * SAMPLES {
                let id = [HERS, NEVER][n % 2];
                let since = Instant::now();
                let reply = ask(&mut client, method, &json!({ "sessionId": id, "prompt": "x" })).await;
                took[n % 2].push(since.elapsed());
                assert_eq!(code_of(&reply), -32011, "{reply}");
                client.seen.clear();
                client.raw.clear();
            }
            let [foreign, never] = took.map(|mut samples| quantile(&mut samples, 0.5));
            println!(
                "CHECK 25: {method} as {who}: median {foreign:.1?} for another's session, {never:.1?} for none"
            );
            let noise = Duration::from_millis(2);
            assert!(foreign < 3 * never + noise && never < 3 * foreign + noise, "{foreign:?} {never:?}");
        }
    }
}
