//! Processes of users' own, with the real `copilot-runtime`.

mod common;

use std::time::{Duration, Instant};

use common::{MANY, bearing, canonical, is_running, nothing_outside, runtime, script, settings, until, who};
use jetway_config::{Identity, Limits, pool::Pool as Settings};
use jetway_pool::{Gone, Pool, PoolError, ServerId, ServerState, StartError, StopReason, Whose};
use jetway_wire::{
    frame::Caps,
    peer::{Peer, connect_params},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const CAPS: Caps = Caps { header: 4096, body: 16 << 20 };

async fn start(settings: &Settings) -> Pool {
    match Pool::start(settings, &Limits::default(), nothing_outside()).await {
        Ok(pool) => pool,
        Err(StartError::Command(e)) => panic!("{e}; `make test` installs it, or set JETWAY_TEST_RUNTIME"),
        Err(e) => panic!("{e}"),
    }
}

async fn real() -> (Pool, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (start(&settings(runtime(), dir.path())).await, dir)
}

async fn stop(pool: &Pool) {
    pool.shutdown(Instant::now() + Duration::from_secs(10)).await;
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// A connection that has said `connect`.
async fn connect(attachment: &jetway_pool::Attachment) -> Peer {
    let (peer, _) = Peer::new(attachment.dial().await.unwrap(), CAPS);
    let token = attachment.token().map(|t| t.expose().as_str());
    let hello = peer.call("connect", connect_params(token)).await.unwrap();
    assert_eq!(hello["protocolVersion"], json!(3));
    peer
}

/// Starts a shell from a session.
async fn shell(peer: &Peer) {
    let provider = json!({ "type": "openai", "baseUrl": "http://127.0.0.1:9/" });
    let create = json!({ "sessionId": "s1", "model": "m", "provider": provider });
    peer.call("session.create", create).await.unwrap();
    let run = json!({ "sessionId": "s1", "command": "sleep 1000" });
    let ran: Value = peer.call("session.shell.exec", run).await.unwrap();
    assert!(ran["processId"].is_string(), "{ran}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_callers_start_one_process() {
    let (pool, dir) = real().await;
    let ada = who("acme/ada");
    // Half of the callers go away at once: the start goes on for the others.
    let callers: Vec<_> = (0..100)
        .map(|n| {
            let (pool, ada) = (pool.clone(), ada.clone());
            let caller = tokio::spawn(async move { pool.home(&ada, MANY).await.unwrap() });
            if n % 2 == 0 {
                caller.abort();
            }
            caller
        })
        .collect();
    let mut attachments = Vec::new();
    for caller in callers {
        attachments.extend(caller.await.ok());
    }
    assert!(attachments.len() >= 50);
    let pid = attachments[0].pid().unwrap();
    assert!(
        attachments.iter().all(|a| a.pid() == Some(pid) && a.incarnation() == attachments[0].incarnation())
    );
    assert_eq!(bearing(&format!("={}#", canonical(dir.path()).display())), [pid]);
    let status = pool.status();
    assert_eq!((status.len(), status[0].users, status[0].attachments), (1, 1, attachments.len()));
    connect(&attachments[0]).await;
    drop(attachments);
    assert_eq!(pool.status()[0].attachments, 0);
    stop(&pool).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_start() {
    let (pool, _dir) = real().await;
    let ada = who("acme/ada");
    let gave_up = tokio::time::timeout(Duration::from_millis(1), pool.home(&ada, MANY)).await;
    assert!(gave_up.is_err(), "too fast for this test");
    until("it is up", || pool.attach(&ServerId::of_user(&ada)).is_ok()).await;
    stop(&pool).await;
}

#[tokio::test]
async fn nothing_of_value_in_argv_or_reach_of_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let (pool, dir) = real().await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    let pid = ada.pid().unwrap();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let token = ada.token().unwrap().expose();
    assert!(token.len() >= 32 && !read("cmdline").contains(token.as_str()));
    assert!(!format!("{ada:?} {:?} {:?}", ada.server(), pool.status()).contains(token.as_str()));
    let home = canonical(dir.path()).join("acme/ada");
    let environ = read("environ");
    let names: Vec<_> = environ.split_terminator('\0').map(|v| v.split('=').next().unwrap()).collect();
    assert!(environ.contains(&format!("HOME={}\0", home.display())));
    // cargo sets CARGO_*, the test's shell much more; none of it gets in.
    assert!(!names.iter().any(|name| name.starts_with("CARGO") || *name == "USER"), "{names:?}");
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd, home.join("workspace"));
    for private in [home.clone(), home.join("workspace"), home.join("../../acme")] {
        assert_eq!(private.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{private:?}");
    }
    // Another user has another process and another token.
    let bob = pool.home(&who("acme/bob"), MANY).await.unwrap();
    assert!(bob.pid() != ada.pid() && bob.token() != ada.token());
    stop(&pool).await;
}

#[tokio::test]
async fn a_killed_process_is_noticed_and_replaced_at_once() {
    let (pool, _dir) = real().await;
    let ada = who("acme/ada");
    let old = pool.home(&ada, MANY).await.unwrap();
    let begun = Instant::now();
    signal(old.pid().unwrap(), Signal::SIGKILL);
    let gone = tokio::time::timeout(Duration::from_secs(2), old.closed()).await.unwrap();
    assert!(matches!(&gone, Gone::Exited { status } if status.contains("SIGKILL")), "{gone}");
    let new = pool.home(&ada, MANY).await.unwrap();
    eprintln!("kill -9 to replaced: {:?}", begun.elapsed());
    assert!(new.pid() != old.pid() && new.incarnation() != old.incarnation() && new.id() == old.id());
    assert!(old.dial().await.is_err());
    connect(&new).await;
    // The old attachment's end does not count against the new process.
    drop(old);
    assert_eq!(pool.status()[0].attachments, 1);
    stop(&pool).await;
    assert!(matches!(new.closed().await, Gone::Stopped(StopReason::Shutdown)));
}

#[tokio::test]
async fn a_cli_that_keeps_dying_is_left_alone() {
    let (pool, _dir) = real().await;
    let ada = who("acme/ada");
    let mut deaths = 0;
    let refused = loop {
        match pool.home(&ada, MANY).await {
            Ok(attachment) => {
                signal(attachment.pid().unwrap(), Signal::SIGKILL);
                attachment.closed().await;
                deaths += 1;
            }
            Err(error) => break error,
        }
        assert!(deaths < 20, "no end");
    };
    assert!(matches!(refused, PoolError::CrashLoop { failures: 5, .. }), "{refused} after {deaths}");
    assert!(refused.retry_after().is_some_and(|after| after > Duration::from_secs(1)));
    let row = pool.status().into_iter().find(|s| s.id.as_str() == "acme/ada").unwrap();
    assert_eq!((row.state, row.restarts), (ServerState::BackingOff, 5));
    assert!(row.problem.unwrap().starts_with("died 5 times in a row; the next try is in "));
    pool.home(&who("acme/bob"), MANY).await.unwrap();
    stop(&pool).await;
}

#[tokio::test]
async fn a_cli_that_says_nothing_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings =
        settings(script(dir.path(), "sleep 100 & echo hello; sleep 100"), &dir.path().join("state"));
    settings.process.start_timeout = Duration::from_millis(300);
    let pool = start(&settings).await;
    let error = pool.home(&who("acme/ada"), MANY).await.unwrap_err();
    assert!(
        matches!(error, PoolError::StartTimeout { phase: jetway_pool::Phase::Announcement, .. }),
        "{error}"
    );
    let mark = format!("={}#", canonical(&dir.path().join("state")).display());
    until("its whole group is killed", || bearing(&mark).is_empty()).await;
    stop(&pool).await;
}

#[tokio::test]
async fn a_cli_that_does_not_come_up_is_tried_thrice_and_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let body = r#"echo x >> ../tries; echo "no luck, token $COPILOT_CONNECTION_TOKEN" >&2; exit 7"#;
    let pool = start(&settings(script(dir.path(), body), &dir.path().join("state"))).await;
    let error = pool.home(&who("acme/ada"), MANY).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PoolError::Launch { attempts: 3, .. }), "{error:?}");
    assert!(text.contains("exit status: 7") && text.ends_with("no luck, token <redacted>"), "{text}");
    let tries = std::fs::read_to_string(dir.path().join("state/acme/ada/tries")).unwrap();
    assert_eq!(tries.lines().count(), 3);
    stop(&pool).await;
}

#[tokio::test]
async fn the_idlest_makes_room_and_the_idle_are_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(runtime(), dir.path());
    settings.process.max_processes = 2;
    settings.process.idle_timeout = Duration::from_secs(2);
    settings.process.start_timeout = Duration::from_secs(3);
    let pool = start(&settings).await;
    let (ada, bob, cyd) = (who("acme/ada"), who("acme/bob"), who("acme/cyd"));
    let at_ada = pool.home(&ada, MANY).await.unwrap();
    let at_bob = pool.home(&bob, MANY).await.unwrap();
    let full = pool.home(&cyd, MANY).await.unwrap_err();
    assert!(matches!(full, PoolError::Full { whose: Whose::Host, limit: 2, .. }), "{full}");
    until("nobody waits for cyd's", || state_of(&pool, &cyd).is_none()).await;
    let bobs = at_bob.server().clone();
    let mut short = pool.short().unwrap();
    short.borrow_and_update();
    let waiting = {
        let (pool, cyd) = (pool.clone(), cyd.clone());
        tokio::spawn(async move { pool.home(&cyd, MANY).await })
    };
    let wanted = short.wait_for(|of| !of.is_empty()).await.unwrap().clone();
    assert_eq!((wanted, state_of(&pool, &cyd)), (vec![None], Some(ServerState::Waiting)));
    drop(at_bob);
    let at_cyd = waiting.await.unwrap().unwrap();
    // There are never more than two: cyd's process started when bob's had ended.
    assert_eq!(bobs.gone(), Some(Gone::Stopped(StopReason::Evicted)));
    assert!(!is_running(bobs.pid().unwrap()));
    assert!(matches!(pool.attach(&ServerId::of_user(&bob)), Err(PoolError::NotRunning(_))));
    let cyds = at_cyd.server().clone();
    drop(at_cyd);
    until("the idle one is stopped", || cyds.gone() == Some(Gone::Stopped(StopReason::Idle))).await;
    assert_eq!(at_ada.server().gone(), None, "who is attached stays");
    stop(&pool).await;
}

fn state_of(pool: &Pool, who: &Identity) -> Option<ServerState> {
    pool.status().into_iter().find(|row| row.id == ServerId::of_user(who)).map(|row| row.state)
}

/// Twenty at a time, on however few processors: each is started in its turn, and none is stopped for another that is
/// asked for later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_started_in_turn() {
    let (pool, _dir) = real().await;
    let most = 2 * std::thread::available_parallelism().unwrap().get();
    let callers: Vec<_> = (0..20)
        .map(|n| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.home(&who(&format!("acme/user-{n}")), MANY).await })
        })
        .collect();
    let (mut seen, begun) = (0, Instant::now());
    until("all are up", || {
        let states: Vec<_> = pool.status().into_iter().map(|row| row.state).collect();
        let starting = states.iter().filter(|s| **s == ServerState::Starting).count();
        seen = seen.max(starting);
        states.iter().filter(|s| **s == ServerState::Up).count() == 20
    })
    .await;
    // Starts that take longer than two seconds do not count, so on a machine that slow there may be more.
    let slow = begun.elapsed() >= Duration::from_secs(2);
    assert!(seen >= 1 && (seen <= most || slow), "{seen} at a time");
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(pool.departed().is_empty());
    stop(&pool).await;
}

#[tokio::test]
async fn shutdown_leaves_nothing() {
    let (pool, dir) = real().await;
    let mut attachments = Vec::new();
    for user in ["acme/ada", "acme/bob", "umbrella/ada"] {
        attachments.push(pool.home(&who(user), MANY).await.unwrap());
    }
    let late = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.home(&who("acme/late"), MANY).await })
    };
    tokio::task::yield_now().await;
    stop(&pool).await;
    let mark = format!("={}#", canonical(dir.path()).display());
    until("nothing bears our mark", || bearing(&mark).is_empty()).await;
    assert!(matches!(late.await.unwrap(), Err(PoolError::ShuttingDown) | Ok(_)));
    assert!(matches!(pool.home(&who("acme/ada"), MANY).await, Err(PoolError::ShuttingDown)));
    assert!(attachments.iter().all(|a| a.gone() == Some(Gone::Stopped(StopReason::Shutdown))));
    assert!(!pool.ready().ready);
    drop(pool);
    drop(attachments);
    // The state directory is free for the next one.
    stop(&start(&settings(runtime(), dir.path())).await).await;
}

#[tokio::test]
async fn a_cli_that_will_not_end_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let program = {
        let (pool, _dir) = real().await;
        let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
        let program = std::fs::read_link(format!("/proc/{}/exe", ada.pid().unwrap())).unwrap();
        stop(&pool).await;
        program.display().to_string()
    };
    // A server that answers, in a session of its own, behind a shell that ignores SIGTERM.
    let body = format!("trap '' TERM\nsetsid {program} \"$@\" &\nwhile :; do sleep 1; done");
    let pool = start(&settings(script(dir.path(), &body), &dir.path().join("state"))).await;
    let ada = pool.home(&who("acme/ada"), MANY).await.unwrap();
    let begun = Instant::now();
    pool.shutdown(begun + Duration::from_millis(500)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!is_running(ada.pid().unwrap()));
    let mark = format!("={}#", canonical(&dir.path().join("state")).display());
    until("the server in a session of its own is a stray", || bearing(&mark).is_empty()).await;
}

#[tokio::test]
async fn two_pools_do_not_share_a_state_directory() {
    let (pool, dir) = real().await;
    let second = Pool::start(&settings(runtime(), dir.path()), &Limits::default(), nothing_outside()).await;
    assert!(matches!(second, Err(StartError::StateDirInUse { .. })));
    stop(&pool).await;
}

#[tokio::test]
async fn what_sessions_leave_running_is_swept() {
    let (pool, dir) = real().await;
    let ada = who("acme/ada");
    let attachment = pool.home(&ada, MANY).await.unwrap();
    let peer = connect(&attachment).await;
    shell(&peer).await;
    let mark = format!("={}#", canonical(dir.path()).display());
    until("the shell runs", || bearing(&mark).len() >= 2).await;
    // In a session of its own: killing the CLI's group does not reach it.
    signal(attachment.pid().unwrap(), Signal::SIGKILL);
    attachment.closed().await;
    until("its shell is killed", || bearing(&mark).is_empty()).await;
    stop(&pool).await;
}

/// In the child: the parent that is killed. Elsewhere it does nothing.
#[tokio::test]
async fn helper_parent() {
    let Ok(dir) = std::env::var("JETWAY_TEST_STATE_DIR") else { return };
    let pool = start(&settings(runtime(), dir.as_ref())).await;
    let attachment = pool.home(&who("acme/ada"), MANY).await.unwrap();
    let peer = connect(&attachment).await;
    shell(&peer).await;
    println!("holding {}", attachment.pid().unwrap());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn kill_9_of_the_parent_leaves_no_cli() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut parent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_parent", "--nocapture"])
        .env("JETWAY_TEST_STATE_DIR", dir.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let cli = loop {
        let line = lines.next_line().await.unwrap().expect("the parent holds a process");
        if let Some((_, pid)) = line.split_once("holding ") {
            break pid.parse::<u32>().unwrap();
        }
    };
    let mark = format!("={}#", canonical(dir.path()).display());
    until("the shell runs", || bearing(&mark).len() >= 2).await;
    parent.kill().await.unwrap();
    until("the kernel killed the CLI", || !is_running(cli)).await;
    // Its shell is in a session of its own: the next Jetway on this state directory ends it.
    assert!(!bearing(&mark).is_empty());
    let pool = start(&settings(runtime(), dir.path())).await;
    until("the shell is swept", || bearing(&mark).is_empty()).await;
    stop(&pool).await;
}
