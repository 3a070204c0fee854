//! What a session's shell can reach.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
};

use crate::{
    common::{
        client::{Client, is_event},
        program::bearing,
        until,
    },
    scene::{PATIENCE, scene, scene_of, scene_of_uids, wait},
};

/// Says of everything that belongs to others whether it is open.
const TRY: &str = r#"
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "open $what"; else echo "shut $what"; fi; }
tcp() { timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1"; }
# The way out must not lead to it either.
proxied() {
  timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/${HTTP_PROXY##*:} || exit; printf 'CONNECT 127.0.0.1:$1 HTTP/1.1\r\n\r\n' >&3; read -r line <&3; [[ \$line == *' 200 '* ]]"
}
listed() { ls "$STATE/local" | grep -q bob; }
environ() { cat /proc/*/environ | tr '\0' '\n' | grep -q "^COPILOT_HOME=$1"; }
try file cat "$BOB/workspace/secret"
try home ls "$BOB"
try others listed
try gateway cat "$CONFIG"
try shadow cat /etc/shadow
try process environ "$BOB"
try signal kill -0 "$BOB_PID"
for port in $PORTS; do try "port $port" tcp "$port"; try "way $port" proxied "$port"; done
"#;

fn outside(script: &str) -> String {
    let ran = Command::new("bash").args(["-c", script]).output().unwrap();
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_30_a_shell_in_bwrap_reaches_nothing_of_others() {
    reaches_nothing_of_others("check_30_a_shell_in_bwrap_reaches_nothing_of_others", "bwrap").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_30_a_shell_under_landlock_reaches_nothing_of_others() {
    reaches_nothing_of_others("check_30_a_shell_under_landlock_reaches_nothing_of_others", "landlock").await;
}

async fn reaches_nothing_of_others(test: &str, level: &str) {
    let Some(scene) = scene_of(test, level, "").await else { return };
    let mut ada = scene.session("ada").await;
    let mut bob = scene.session("bob").await;
    assert_eq!(ada.turn("chat", "hello").await, "You said: hello");
    let home = scene.home("bob");
    std::fs::write(home.join("workspace/secret"), "bob's").unwrap();
    let ports = [scene.gateway.sdk, scene.gateway.admin, scene.traps[0].address, scene.traps[1].address];
    let ports: Vec<_> = ports.iter().map(|address| address.port().to_string()).collect();
    let script = format!(
        "BOB={} BOB_PID={} STATE={} CONFIG={} PORTS='{}'\n{TRY}",
        home.display(),
        bearing(&format!("COPILOT_HOME={}", home.display()))[0],
        scene.state().display(),
        scene.gateway.dir.path().join("jetway.toml").display(),
        ports.join(" ")
    );

    // All of it is there to be had: the same script finds it, where there are no walls.
    let without = outside(&script);
    for line in ["file", "home", "others", "gateway", "process", "signal"] {
        assert!(without.contains(&format!("open {line}\n")), "{without}");
    }
    assert!(ports.iter().all(|port| without.contains(&format!("open port {port}\n"))), "{without}");
    wait("the traps have counted that", || scene.traps.iter().all(|trap| trap.count() == 1)).await;

    let within = scene.shell(&mut ada, "ada", &script).await;
    assert_eq!(within.lines().count(), 7 + 2 * ports.len(), "{within}");
    println!(
        "CHECK 30, {level}: of {} attempts {} succeeded",
        within.lines().count(),
        within.matches("open ").count()
    );
    assert!(within.lines().all(|line| line.starts_with("shut ")), "{within}");
    assert!(scene.traps.iter().all(|trap| trap.count() == 1));

    // The way out is there, and leads where a call of hers led.
    let model = scene.model.base_url().to_string();
    let port = model.trim_start_matches("http://").split([':', '/']).nth(1).unwrap().to_owned();
    let open = scene.shell(&mut ada, "ada", &format!("{TRY}\ntry model proxied {port}")).await;
    assert!(open.ends_with("open model\n"), "{open}");
    assert!(scene.gateway.metric("jetway_egress_total{outcome=\"own\"}").await >= 2.0);
    assert_eq!(scene.gateway.metric(&format!("jetway_sandbox{{level=\"{level}\"}}")).await, 1.0);
    assert_eq!(bob.turn("chat", "still here").await, "You said: still here");
}

/// An account for each user closes what Landlock leaves open: names, sizes, modes and times.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_close_what_rules_leave_open() {
    for level in ["none", "landlock", "bwrap"] {
        let test = format!("accounts_close_what_rules_leave_open ({level})");
        let Some(mut scene) = scene_of_uids(&test, level, "uids = \"210000-210099\"").await else { continue };
        let mut ada = scene.session("ada").await;
        let mut bob = scene.session("bob").await;
        assert_eq!(ada.turn("chat", "hello").await, "You said: hello");
        let secret = scene.home("bob").join("workspace/secret");
        std::fs::write(&secret, "bob's").unwrap();
        let script = format!(
            "try() {{ what=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"open $what\"; else echo \"shut $what\"; fi; }}\n\
             touched() {{ [ -e {secret} ] && touch -c {secret}; }}\n\
             listed() {{ ls {home} | grep -q bob; }}\n\
             try read cat {secret}\ntry mode chmod 777 {secret}\ntry time touched\ntry list listed\n\
             try size stat {secret}\ntry kill kill -0 {pid}\ntry own touch mine\n",
            secret = secret.display(),
            home = scene.state().join("local").display(),
            pid = bearing(&format!("COPILOT_HOME={}", scene.home("bob").display()))[0],
        );
        let said = scene.shell(&mut ada, "ada", &script).await;
        let open: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("open ")).collect();
        assert_eq!((open, said.lines().count()), (vec!["own"], 7), "{level}: {said}");
        let homes = [scene.home("ada"), scene.home("bob")];
        let owner = |user: usize| std::fs::metadata(&homes[user]).unwrap().uid();
        let (hers, his) = (owner(0), owner(1));
        assert!(hers != his && [hers, his].iter().all(|uid| (210_000..210_100).contains(uid)));
        assert_eq!(std::fs::metadata(scene.home("ada").join("workspace/mine")).unwrap().uid(), hers);
        assert_eq!(bob.turn("chat", "still here").await, "You said: still here");
        // They keep them.
        scene.gateway.signal(Signal::SIGTERM);
        scene.gateway.exit(PATIENCE).await;
        scene.gateway.start_again();
        let _bob = Client::hello(scene.gateway.sdk, "bob").await;
        let _ada = Client::hello(scene.gateway.sdk, "ada").await;
        assert_eq!((owner(0), owner(1)), (hers, his));
    }
}

/// Ways past Landlock's own rules, which have no bubblewrap's namespaces behind them.
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_past_landlock() {
    let Some(scene) = scene_of("there_is_no_way_past_landlock", "landlock", "").await else { return };
    let mut ada = scene.session("ada").await;
    let _bob = scene.session("bob").await;
    let dir = scene.gateway.dir.path();
    let named = std::os::unix::net::UnixListener::bind(dir.join("named")).unwrap();
    let script = format!(
        r#"/usr/bin/python3 - <<'END'
import ctypes, os, resource, signal, socket
LIBC = ctypes.CDLL(None, use_errno=True)
BOB, TRAP, NAMED, HOME = {bob}, {trap}, "{named}", os.environ["HOME"]
def call(number, *arguments):
    if LIBC.syscall(number, *arguments) < 0: raise OSError(ctypes.get_errno(), "refused")
def attempt(what, action):
    try: action(); print("open", what)
    except OSError: print("shut", what)
def connect(family, kind, protocol, address):
    socket.socket(family, kind, protocol).connect(address)
attempt("mptcp", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, 262, ("127.0.0.1", TRAP)))
attempt("tcp6", lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, 0, ("::ffff:127.0.0.1", TRAP)))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", TRAP)))
attempt("named", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, 0, NAMED))
attempt("pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("ring", lambda: call(425, 8, ctypes.create_string_buffer(120)))
attempt("memory", lambda: call(29, 4242, 4096, 0o1600))
attempt("keyring", lambda: call(250, 0, -4, 1))
attempt("kill", lambda: os.kill(BOB, signal.SIGKILL))
attempt("limits", lambda: resource.prlimit(BOB, resource.RLIMIT_CPU, (1, 1)))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, BOB, 19))
attempt("x32", lambda: call(41 | 0x40000000, 1, 1, 0))
attempt("port", lambda: socket.socket().bind(("127.0.0.1", 54321)))
attempt("device", lambda: os.mknod(HOME + "/device", 0o20666, os.makedev(1, 1)))
attempt("owner", lambda: os.chown(HOME, 4242, 4242))
attempt("tmp", lambda: open("/tmp/x", "w"))
attempt("usr", lambda: open("/usr/x", "w"))
attempt("program", lambda: open("{jetway}", "a"))
attempt("kernel", lambda: open("/proc/sys/kernel/core_pattern", "r+"))
attempt("proc", lambda: os.listdir("/proc"))
attempt("terminals", lambda: os.listdir("/dev/pts"))
attempt("home", lambda: open(HOME + "/x", "w"))
attempt("temporary", lambda: open(os.environ["TMPDIR"] + "/x", "w"))
attempt("listen", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("child", lambda: os.kill(os.posix_spawn("/bin/sleep", ["sleep", "100"], {{}}), signal.SIGKILL))
END
"#,
        bob = bearing(&format!("COPILOT_HOME={}", scene.home("bob").display()))[0],
        trap = scene.traps[1].address.port(),
        named = dir.canonicalize().unwrap().join("named").display(),
        jetway = env!("CARGO_BIN_EXE_jetway"),
    );
    let said = scene.shell(&mut ada, "ada", &script).await;
    let open: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("open ")).collect();
    assert_eq!(open, ["home", "temporary", "listen", "child"], "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("shut ")).count(), 22, "{said}");
    assert_eq!(scene.traps[1].count(), 0);
    named.set_nonblocking(true).unwrap();
    assert!(named.accept().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walls_hold() {
    let Some(scene) = scene("the_walls_hold", "").await else { return };
    let mut ada = scene.session("ada").await;
    let script = r#"
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "open $what"; else echo "shut $what"; fi; }
try root touch /x
try usr touch /usr/x
try state touch "$HOME/../x"
# Asked, not tried: it is the host's.
find /proc -maxdepth 5 -path '/proc/[0-9]*' -prune -o -type f -writable -print 2> /dev/null |
  while read -r file; do [ -c "$file" ] || echo "$file"; done | head -3
try memory test -s /proc/kpageflags
try namespaces unshare -U true
try init cat /proc/1/environ
try program sh -c 'echo >> /jetway'
try home touch "$HOME/x"
try tmp touch /tmp/x
grep -E '^Cap(Prm|Eff|Bnd):' /proc/self/status
"#;
    let said = scene.shell(&mut ada, "ada", script).await;
    let (tried, rights) = said.split_once("CapPrm").unwrap();
    let shut = ["root", "usr", "state", "memory", "namespaces", "init", "program"];
    let expected: String = shut.iter().map(|what| format!("shut {what}\n")).collect();
    assert_eq!(tried, format!("{expected}open home\nopen tmp\n"));
    assert_eq!(rights.matches("0000000000000000").count(), 3, "{said}");
    assert!(!scene.gateway.dir.path().join("x").exists() && !Path::new("/tmp/x").exists());
    assert_eq!(scene.gateway.metric("jetway_sandbox{level=\"bwrap\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_nowhere() {
    let Some(scene) = scene("a_redirect_leads_nowhere", "").await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redirector = listener.local_addr().unwrap();
    let trap = scene.traps[1].address;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let head = format!("HTTP/1.1 307 Elsewhere\r\nLocation: http://{trap}/v1/chat/completions\r\n");
            let _ = client
                .write_all(format!("{head}Connection: close\r\nContent-Length: 0\r\n\r\n").as_bytes())
                .await;
        }
    });
    let mut ada = scene.session_with("ada", &format!("http://{redirector}/v1")).await;
    ada.call("session.send", json!({ "sessionId": "chat", "prompt": "hello" })).await.unwrap();
    let failed = |seen: &[serde_json::Value]| seen.iter().any(|m| is_event(m, "chat", "session.error"));
    assert!(ada.read_until(PATIENCE, failed).await, "{:?}", ada.seen);
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert_eq!(scene.traps[1].count(), 0);
    serving.abort();
}

/// What this host does not know the way to is reached by the operator's own proxy, and named to it.
#[tokio::test(flavor = "multi_thread")]
async fn the_operators_own_proxy_leads_further() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let more = format!(
        "upstream_proxy = \"http://{}\"\n[tenants.default.provider]\nbase_url = \"http://models.test/v1\"\n",
        listener.local_addr().unwrap()
    );
    let Some(scene) = scene("the_operators_own_proxy_leads_further", &more).await else { return };
    let model = scene.model.base_url();
    let model = model.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heads = asked.clone();
    let serving = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut client, mut line) = (BufStream::new(client), String::new());
            client.read_line(&mut line).await.unwrap();
            heads.lock().unwrap().push(line.trim_end().to_owned());
            while line != "\r\n" {
                line.clear();
                client.read_line(&mut line).await.unwrap();
            }
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            client.flush().await.unwrap();
            let mut server = TcpStream::connect(&model).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let mut ada = Client::hello(scene.gateway.sdk, "ada").await;
    let settings = json!({ "sessionId": "chat", "model": "scripted", "streaming": true });
    ada.call("session.create", settings).await.unwrap();
    assert_eq!(ada.turn("chat", "hello").await, "You said: hello");
    let asked = asked.lock().unwrap();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line == "CONNECT models.test:80 HTTP/1.1"),
        "{asked:?}"
    );
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_gateway_leaves_nothing() {
    let Some(mut scene) = scene("kill_9_of_the_gateway_leaves_nothing", "").await else { return };
    let mut ada = scene.session("ada").await;
    // A session of its own, and nothing in its environment by which it could be found.
    let hidden = "setsid env -i sleep 98765 < /dev/null > /dev/null 2>&1 & sleep 0.1; echo";
    scene.shell(&mut ada, "ada", hidden).await;
    let sleeper = || {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = pids.filter_map(|pid| std::fs::read(pid.path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(b"sleep\x0098765\0")).count()
    };
    let mark = format!("{}#", scene.state().display());
    wait("the shell runs", || sleeper() > 0 && !bearing(&mark).is_empty()).await;
    scene.gateway.signal(Signal::SIGKILL);
    scene.gateway.exit(PATIENCE).await;
    until("nothing is left", || sleeper() == 0 && bearing(&mark).is_empty()).await;
}
