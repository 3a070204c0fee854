//! What CLI processes leave behind: shells and servers that sessions started in sessions of their own, out of
//! reach of their CLI's process group, and alive when it is dead.
//!
//! Every CLI gets a mark in its environment, which its children inherit. Whoever bears a mark of our state
//! directory whose CLI is not live is a stray. That also finds what an earlier, killed Jetway left. A child
//! that hides its mark is not found: only a sandbox holds such a one.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The variable that bears the mark, `<state_dir>#<number>`.
pub(crate) const MARK: &str = "JETWAY_PROCESS";

/// The marks of one state directory. Only who has locked that may hold this.
#[derive(Clone)]
pub(crate) struct Marks {
    /// `JETWAY_PROCESS=<state_dir>#`.
    prefix: Arc<[u8]>,
    live: Arc<Mutex<HashSet<String>>>,
}

/// A live process's mark. Dropping it makes strays of its children.
pub(crate) struct Mark {
    text: OsString,
    number: String,
    marks: Marks,
}

impl Marks {
    pub(crate) fn new(state_dir: &Path) -> Self {
        let prefix = [MARK.as_bytes(), b"=", state_dir.as_os_str().as_bytes(), b"#"].concat();
        Self { prefix: prefix.into(), live: Arc::default() }
    }

    /// A new one, unlike any that was ever used.
    pub(crate) fn mark(&self) -> Mark {
        let number = format!("{:032x}", rand::random::<u128>());
        lock(&self.live).insert(number.clone());
        let text = [&self.prefix[MARK.len() + 1..], number.as_bytes()].concat();
        Mark { text: OsString::from_vec(text), number, marks: self.clone() }
    }

    /// Kills all strays; how many there were. Reads all of /proc: not for the event loop.
    pub(crate) fn sweep(&self) -> usize {
        let Ok(all) = fs::read_dir("/proc") else { return 0 };
        let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let own = std::process::id();
        let strays = pids.filter(|pid| pid.unsigned_abs() != own && self.is_stray(*pid));
        strays.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).count()
    }

    fn is_stray(&self, pid: i32) -> bool {
        // Other users' processes cannot be read, and are none of ours.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        let mut variables = environment.split(|byte| *byte == 0);
        let number = variables.find_map(|variable| variable.strip_prefix(&*self.prefix));
        // Looked up after the process was read: a mark is made before its first bearer is.
        let number = number.and_then(|number| std::str::from_utf8(number).ok());
        number.is_some_and(|number| !lock(&self.live).contains(number))
    }
}

impl Mark {
    pub(crate) fn as_os_str(&self) -> &OsStr {
        &self.text
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        lock(&self.marks.live).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
