//! Jetway's end of the line to a sandbox's first process.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, OwnedFd},
};

use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UnixDatagram},
    sync::Mutex,
};

use super::fds::{self, Message};

/// Connections into a sandbox, and the socket of the way out of it. What comes from there may be anything.
#[derive(Debug)]
pub(crate) struct Door {
    /// Not of that kind, but tokio has no type for sockets that keep messages apart and tell of an end.
    line: UnixDatagram,
    /// One asks at a time; the number of the last call.
    calls: Mutex<u32>,
}

impl Door {
    /// A door, and what the sandbox's first process is to have as standard input. Within a runtime.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = fds::line()?;
        let ours = std::os::unix::net::UnixDatagram::from(ours);
        ours.set_nonblocking(true)?;
        Ok((Self { line: UnixDatagram::from_std(ours)?, calls: Mutex::default() }, theirs))
    }

    /// The socket on which the way out is asked for: the first thing that comes.
    pub(crate) async fn exit(&self) -> io::Result<TcpListener> {
        match self.receive().await? {
            (Message::Exit, Some(socket)) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// A connection to `port` inside, without Nagle's delay. Cancel safe; without a limit in time: wrap it in one.
    pub(crate) async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self.ask(port).await?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let peer = stream.peer_addr()?;
        if (peer.ip(), peer.port()) != (IpAddr::V4(Ipv4Addr::LOCALHOST), port) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&self, port: u16) -> io::Result<TcpStream> {
        let mut calls = self.calls.lock().await;
        *calls = calls.wrapping_add(1);
        // A line takes hundreds of messages, and one is asked for at a time.
        fds::send(self.line.as_fd(), Message::Dial { call: *calls, port }, None)?;
        loop {
            match self.receive().await? {
                (Message::Dialled { call, error: 0 }, Some(socket)) if call == *calls => {
                    let stream = std::net::TcpStream::from(socket);
                    stream.set_nonblocking(true)?;
                    return TcpStream::from_std(stream);
                }
                (Message::Dialled { call, error }, None) if call == *calls => {
                    return Err(io::Error::from_raw_os_error(error));
                }
                // The answer to someone who has gone.
                (Message::Dialled { .. }, _) => {}
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Asks the CLI to end.
    pub(crate) fn end(&self) {
        // It fails only when nobody is left.
        let _ = fds::send(self.line.as_fd(), Message::End, None);
    }

    async fn receive(&self) -> io::Result<(Message, Option<OwnedFd>)> {
        self.line.async_io(Interest::READABLE, || fds::receive(self.line.as_fd())).await
    }
}
