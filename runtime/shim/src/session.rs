//! The connection with the agent: one at a time, the newest wins.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernelet_sys::socket;

use crate::{
    protocol::{Message, Request},
    wire::{self, Outgoing, WireError},
};

/// An agent that doesn't read for so many messages is cut off: it will come back and ask.
const QUEUE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Session {
    socket: OwnedFd,
    queue: VecDeque<(Outgoing, Vec<OwnedFd>)>,
}

/// The connection is of no use any more.
#[derive(Debug)]
pub(crate) struct Broken;

impl Session {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, kernelet_sys::SysError> {
        socket::set_nonblocking(socket.as_fd(), true)?;
        Ok(Session {
            socket,
            queue: VecDeque::new(),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn wants_to_write(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next request, if one is there.
    pub(crate) fn receive(&self) -> Result<Option<(Request, Vec<OwnedFd>)>, Broken> {
        match wire::receive::<Request>(self.fd()) {
            Ok(Some(request)) => Ok(Some(request)),
            Ok(None) => Err(Broken),
            Err(e) if e.would_block() => Ok(None),
            Err(e) => {
                eprintln!("the agent's connection: {}", chain(&e));
                Err(Broken)
            }
        }
    }

    pub(crate) fn send(
        &mut self,
        message: &Message,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Broken> {
        if self.queue.len() >= QUEUE {
            eprintln!("the agent doesn't read: its connection is cut");
            return Err(Broken);
        }
        match Outgoing::encode(message) {
            Ok(outgoing) => self.queue.push_back((outgoing, descriptors)),
            Err(e) => {
                eprintln!("encode a message: {}", chain(&e));
                return Err(Broken);
            }
        }
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        while let Some((outgoing, descriptors)) = self.queue.front() {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match outgoing.send(self.socket.as_fd(), &descriptors) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(WireError::Sys(e)) if e.errno == nix::errno::Errno::EAGAIN => return Ok(()),
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
