//! A gateway before walled-in runtimes, and what they are to be kept from.

use std::{
    net::{SocketAddr, TcpListener as Trap},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jetway_loadtest::model::{self, Ledger};
use serde_json::json;
use tokio::net::TcpListener;

use crate::common::{client::Client, program::Program, runtime};

/// The longest that a turn or a shell may take on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with walls, a model, and what its users' processes must not reach.
pub(crate) struct Scene {
    pub(crate) gateway: Program,
    pub(crate) model: model::Handle,
    /// Stands for Redis, and for what else listens here.
    pub(crate) traps: Vec<Caught>,
}

/// A listener that counts who comes.
pub(crate) struct Caught {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl Caught {
    pub(crate) fn lay() -> Self {
        let listener = Trap::bind("127.0.0.1:0").unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counter = count.clone();
        std::thread::spawn(move || {
            while listener.accept().is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { address, count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// Whether bubblewrap works here, as far as it is not for Jetway to make it work.
pub(crate) fn bubblewrap(test: &str) -> bool {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "true"]);
    let works = command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !works {
        eprintln!(
            "SKIPPED {test}: bwrap is not there or may not make user namespaces; `deploy/setup test` installs it"
        );
    }
    works
}

/// Whether the kernel has the rules that Jetway asks it for.
pub(crate) fn landlock(test: &str) -> bool {
    // The version is what this call returns when it is asked for nothing else.
    const VERSION: &str = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))";
    let ran = Command::new("/usr/bin/python3").args(["-c", VERSION]).output();
    let version = ran.map_or(0, |ran| String::from_utf8_lossy(&ran.stdout).trim().parse().unwrap_or(0));
    if version < 6 {
        eprintln!("SKIPPED {test}: Landlock here is of version {version}, 6 is needed (Linux 6.12)");
    }
    version >= 6
}

pub(crate) async fn scene(test: &str, more: &str) -> Option<Scene> {
    scene_of(test, "bwrap", more).await
}

pub(crate) async fn scene_of(test: &str, level: &str, more: &str) -> Option<Scene> {
    let runtime = runtime(test).filter(|_| works(test, level))?;
    Some(scene_with(&runtime, tempfile::tempdir().unwrap(), level, more).await)
}

/// The same with accounts for users, who must reach the runtime and this program.
pub(crate) async fn scene_of_uids(test: &str, level: &str, more: &str) -> Option<Scene> {
    let skipped = |why: &str| eprintln!("SKIPPED {test}: {why}");
    if !nix::unistd::geteuid().is_root() {
        skipped("not root");
        return None;
    }
    let runtime = runtime(test).filter(|_| works(test, level))?;
    let dir = tempfile::tempdir().unwrap();
    open(dir.path());
    let closed = Path::new(env!("CARGO_BIN_EXE_jetway")).ancestors().skip(1).find(|dir| is_closed(dir));
    if let Some(closed) = closed {
        skipped(&format!("{} is closed to others", closed.display()));
        return None;
    }
    // Where npm put it is often closed.
    let package = runtime.ancestors().find(|dir| dir.join("package.json").exists()).unwrap();
    let copy = dir.path().join("package");
    let copied = Command::new("cp").arg("-r").args([package, &copy]).status().unwrap();
    assert!(copied.success());
    let runtime = copy.join(runtime.strip_prefix(package).unwrap());
    Some(scene_with(&runtime, dir, level, more).await)
}

fn open(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_closed(dir: &Path) -> bool {
    std::fs::metadata(dir).unwrap().permissions().mode() & 0o001 == 0
}

fn works(test: &str, level: &str) -> bool {
    match level {
        "bwrap" => bubblewrap(test),
        "landlock" => landlock(test),
        _ => true,
    }
}

async fn scene_with(runtime: &Path, dir: tempfile::TempDir, level: &str, more: &str) -> Scene {
    let traps = vec![Caught::lay(), Caught::lay()];
    let toml = format!(
        "listen = {{ sdk = \"127.0.0.1:0\", http = \"off\", admin = \"127.0.0.1:0\" }}\n\
         redis.url = \"redis://{}\"\n\
         [pool.process]\ncommand = [{:?}]\nstate_dir = {:?}\nsandbox = \"{level}\"\nstart_timeout = \"60s\"\n{more}\n",
        traps[0].address,
        runtime.display().to_string(),
        dir.path().join("state").display().to_string(),
    );
    let model = model::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Ledger::in_memory()).unwrap();
    Scene { gateway: Program::start_in(dir, &toml), model, traps }
}

impl Scene {
    pub(crate) fn state(&self) -> PathBuf {
        self.gateway.dir.path().canonicalize().unwrap().join("state")
    }

    pub(crate) fn home(&self, user: &str) -> PathBuf {
        self.state().join("local").join(user)
    }

    pub(crate) async fn session(&self, user: &str) -> Client {
        self.session_with(user, &self.model.base_url().to_string()).await
    }

    pub(crate) async fn session_with(&self, user: &str, base_url: &str) -> Client {
        let mut client = Client::hello(self.gateway.sdk, user).await;
        let provider = json!({ "type": "openai", "baseUrl": base_url, "apiKey": "sk-x" });
        let params =
            json!({ "sessionId": "chat", "model": "scripted", "provider": provider, "streaming": true });
        client.call("session.create", params).await.unwrap();
        client
    }

    /// Runs a script in the session's shell, and returns what it says.
    pub(crate) async fn shell(&self, client: &mut Client, user: &str, script: &str) -> String {
        let workspace = self.home(user).join("workspace");
        std::fs::write(workspace.join("script"), script).unwrap();
        let run = "bash script > said.new 2>&1; mv said.new said";
        client.call("session.shell.exec", json!({ "sessionId": "chat", "command": run })).await.unwrap();
        let said = workspace.join("said");
        wait("the script to end", || said.exists()).await;
        let text = std::fs::read_to_string(&said).unwrap();
        std::fs::remove_file(said).unwrap();
        text
    }
}

pub(crate) async fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
