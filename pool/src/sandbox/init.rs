//! The first process of a sandbox: this program, started again inside. It starts the CLI, hands out connections to
//! it, and buries the dead; with it everything in the sandbox ends.
//!
//! A socket stays in the network that it was made in, wherever it is used. So Jetway needs no way into the sandbox:
//! it asks here for sockets that are connected inside, and has the one on which the sandbox's way out is asked for.

use std::{
    ffi::OsString,
    io,
    net::TcpListener,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::{Command, ExitCode, Stdio},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket},
        wait::{WaitStatus, wait},
    },
    unistd::Pid,
};

use super::{
    EXIT,
    fds::{self, Message},
};

/// `sysexits.h`: something that is needed cannot be had.
const EX_UNAVAILABLE: u8 = 69;

/// What a process may use by itself; what all of a sandbox may use together is limited from outside.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// Processes and threads of the sandbox's user. Root outside is not held to it.
    pub processes: u64,
    /// Bytes of one file.
    pub file: u64,
}

/// Runs `command` in the sandbox that this process is the first of, and ends with it. Without a command it only
/// shows that the sandbox can be had. Jetway is at the other end of standard input.
pub fn init(own: Own, command: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(own, command) {
        Ok(code) => code.into(),
        Err(error) => unavailable(&error),
    }
}

/// Says why there is no sandbox, and how the program ends then.
pub(super) fn unavailable(error: &io::Error) -> ExitCode {
    eprintln!("the sandbox cannot be had: {error}");
    EX_UNAVAILABLE.into()
}

fn run(own: Own, command: impl IntoIterator<Item = OsString>) -> io::Result<u8> {
    // What runs here must not look into this process: at its line to Jetway, at the CLI's first environment.
    prctl::set_dumpable(false)?;
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let exit = TcpListener::bind(EXIT)?;
    fds::send(line.as_fd(), Message::Exit, Some(exit.as_fd()))?;
    drop(exit);
    let mut command = command.into_iter();
    let Some(program) = command.next() else { return Ok(0) };
    lower_all(own)?;
    let cli = Command::new(program).args(command).stdin(Stdio::null()).spawn()?;
    let cli = Pid::from_raw(cli.id().try_into().map_err(io::Error::other)?);
    std::thread::Builder::new().spawn(move || answer(&line, cli))?;
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == cli => return Ok(code as u8),
            // As a shell tells it.
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == cli => return Ok(128 + signal as u8),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the limits upon this process and what it starts.
pub(super) fn lower_all(own: Own) -> nix::Result<()> {
    lower(Resource::RLIMIT_FSIZE, own.file)?;
    lower(Resource::RLIMIT_NPROC, own.processes)?;
    // A dump would put what a CLI knows, secrets included, into a file.
    lower(Resource::RLIMIT_CORE, 0)
}

fn lower(resource: Resource, to: u64) -> nix::Result<()> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, to.min(most), to.min(most))
}

/// Does what Jetway asks for. Where Jetway has gone, the kernel ends this process.
fn answer(line: &OwnedFd, cli: Pid) {
    while let Ok((message, _)) = fds::receive(line.as_fd()) {
        match message {
            Message::Dial { call, port } => {
                let (error, socket) = match dial(port) {
                    Ok(socket) => (0, Some(socket)),
                    Err(error) => (error as i32, None),
                };
                let _ = fds::send(
                    line.as_fd(),
                    Message::Dialled { call, error },
                    socket.as_ref().map(|s| s.as_fd()),
                );
            }
            Message::End => {
                let _ = kill(cli, Signal::SIGTERM);
            }
            Message::Exit | Message::Dialled { .. } => {}
        }
    }
}

/// A socket that is connecting to `port` in here. Jetway waits for it: who does not answer there stops nobody.
fn dial(port: u16) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}
