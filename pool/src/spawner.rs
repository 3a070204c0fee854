//! Starting processes so that none outlives Jetway, however Jetway ends.
//!
//! The kernel kills a child when *the thread* that started it ends, if the child asked for that. So all
//! children are started by one thread, which lives as long as the pool.

use std::{fs::File, io, sync::mpsc};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

type Job = (Command, oneshot::Sender<io::Result<Group>>);

/// The thread. It ends with the last handle, and the processes with it.
#[derive(Clone)]
pub(crate) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    /// Children are reaped on the runtime that this is called on.
    pub(crate) fn new() -> io::Result<Self> {
        let (tx, jobs) = mpsc::channel::<Job>();
        let runtime = Handle::current();
        std::thread::Builder::new().name("jetway-spawner".into()).spawn(move || {
            let _guard = runtime.enter();
            for (mut command, reply) in jobs {
                // Nobody waits any more: dropping the group kills it.
                let _ = reply.send(command.spawn().and_then(Group::new));
            }
        })?;
        Ok(Self(tx))
    }

    /// Starts `command` as the leader of a process group of its own, to be killed with Jetway, in the control groups
    /// whose `cgroup.procs` are `entrances`.
    pub(crate) async fn spawn(&self, mut command: Command, entrances: Vec<File>) -> io::Result<Group> {
        command.process_group(0).kill_on_drop(true);
        in_child::set(&mut command, entrances);
        let (tx, rx) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.0.send((command, tx)).map_err(|_| gone())?;
        rx.await.map_err(|_| gone())?
    }
}

/// A child and its process group. Dropping it kills the group; the runtime reaps the child.
pub(crate) struct Group {
    pub(crate) child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> io::Result<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let leader = pid.map(Pid::from_raw).ok_or_else(|| io::Error::other("child without a process id"))?;
        Ok(Self { child, leader: Some(leader) })
    }

    /// Signals the whole group, as long as the child has not been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // It fails only when nobody is left.
            let _ = killpg(leader, signal);
        }
    }

    /// Waits for the child's end, then kills what is left of its group. Cancel safe.
    pub(crate) async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        let status = self.child.wait().await?;
        // The group's number cannot be reused while a member lives. If none does, this hits nobody: the
        // leader was reaped an instant ago, and numbers are reused only after all others had their turn.
        self.signal(Signal::SIGKILL);
        self.leader = None;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The only `unsafe` of this crate.
mod in_child {
    #![allow(unsafe_code)]

    use std::{fs::File, io};

    use nix::{
        sys::{prctl, signal::Signal},
        unistd::{getpid, getppid, write},
    };
    use tokio::process::Command;

    /// How much less a CLI's claim to the processors is than the gateway's, which all users wait for. What there is of
    /// them is the CLIs' all the same, as long as the gateway does nothing.
    const NICER: i32 = 5;

    /// Makes the kernel kill the child of `command` when the thread that starts it ends, and has it give way and join
    /// control groups before it can start anything.
    pub(super) fn set(command: &mut Command, entrances: Vec<File>) {
        let parent = getpid();
        let in_child = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A host that does not let it has them as equals.
            let _ = rustix::process::nice(NICER);
            for entrance in &entrances {
                write(entrance, b"0")?;
            }
            // The parent may have died before the first line: then no signal will come.
            if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only async-signal-safe functions may be called, and no memory
        // allocated: the closure makes system calls (`prctl`, `nice`, `write`, `getppid`), compares two integers, and
        // its errors are plain codes without heap.
        unsafe { command.pre_exec(in_child) };
    }
}
