//! Messages between Jetway and the first process of a sandbox, with a file descriptor where one belongs to them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    },
};

/// A message's bytes: what it is about, and two numbers.
pub(super) const LENGTH: usize = 9;

/// What either side says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// To Jetway, once, with the socket on which the sandbox's way out is asked for.
    Exit,
    /// To the sandbox: connect to this port inside.
    Dial { call: u32, port: u16 },
    /// To Jetway, with a socket that is connecting, unless there is an error number.
    Dialled { call: u32, error: i32 },
    /// To the sandbox: ask the CLI to end.
    End,
}

impl Message {
    fn encode(self) -> [u8; LENGTH] {
        let (kind, call, number) = match self {
            Self::Exit => (0, 0, 0),
            Self::Dial { call, port } => (1, call, port.into()),
            Self::Dialled { call, error } => (2, call, error),
            Self::End => (3, 0, 0),
        };
        let mut bytes = [kind; LENGTH];
        bytes[1..5].copy_from_slice(&call.to_le_bytes());
        bytes[5..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (call, number) = rest.split_first_chunk()?;
        let (call, number) = (u32::from_le_bytes(*call), i32::from_le_bytes(number.try_into().ok()?));
        Some(match kind {
            0 => Self::Exit,
            1 => Self::Dial { call, port: number.try_into().ok()? },
            2 => Self::Dialled { call, error: number },
            3 => Self::End,
            _ => return None,
        })
    }
}

/// Both ends of a line that keeps messages apart. Neither survives an `exec`, unless it becomes its standard input.
pub(super) fn line() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message. The other end may have gone: that is an error, never a signal.
pub(super) fn send(line: BorrowedFd<'_>, message: Message, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let bytes = message.encode();
    sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Takes a message; `UnexpectedEof` when the other end has gone. More descriptors than one are closed.
pub(super) fn receive(line: BorrowedFd<'_>) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut bytes = [0; LENGTH];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let length = received.bytes;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            fds.extend(raw.into_iter().map(own));
        }
    }
    match Message::decode(&bytes[..length]) {
        Some(message) => Ok((message, fds.into_iter().next())),
        None if length == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the kernel has just made this descriptor for us with the message that `receive` took, and nobody
    // else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn messages_and_sockets_arrive_as_they_were_sent() {
        let (ours, theirs) = line().unwrap();
        let all = [
            Message::Exit,
            Message::Dial { call: 7, port: 65535 },
            Message::Dialled { call: u32::MAX, error: -5 },
            Message::End,
        ];
        for message in all {
            send(ours.as_fd(), message, None).unwrap();
            assert!(matches!(receive(theirs.as_fd()).unwrap(), (same, None) if same == message));
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        send(ours.as_fd(), Message::Exit, Some(listener.as_fd())).unwrap();
        let (_, fd) = receive(theirs.as_fd()).unwrap();
        let same = std::net::TcpListener::from(fd.unwrap());
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(ours);
        assert_eq!(receive(theirs.as_fd()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn anything_else_is_no_message() {
        for bytes in [&b""[..], b"\0", &[9; LENGTH], &[1; LENGTH], &[0; LENGTH + 1]] {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
