//! Messages to packets and back; used by both sides.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernelet_sys::{SysError, fd, socket};
use nix::errno::Errno;
use serde::{Serialize, de::DeserializeOwned};

use crate::protocol::VERSION;

const MAGIC: u16 = 0x6b6c;
const FLAG_MEMFD: u32 = 1;
const HEADER: usize = 8;
/// What goes inline; a socket's buffer takes it without negotiation.
const INLINE: usize = 48 << 10;
/// Plans with large environments have some MiB at most; more is a mistake.
const LIMIT: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Sys(#[from] SysError),
    #[error("the packet is no message of ours: {0}")]
    Malformed(&'static str),
    #[error("the peer speaks version {0} of the protocol, this side {VERSION}")]
    Version(u16),
    #[error("encode or decode a message")]
    Postcard(#[from] postcard::Error),
}

impl WireError {
    /// The socket is non-blocking and its buffer full.
    pub fn would_block(&self) -> bool {
        matches!(self, WireError::Sys(e) if e.errno == Errno::EAGAIN)
    }
}

/// A message ready to be sent.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    memfd: Option<OwnedFd>,
}

impl Outgoing {
    pub fn encode<T: Serialize>(message: &T) -> Result<Self, WireError> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        let mut bytes = postcard::to_extend(message, bytes)?;
        if bytes.len() <= INLINE {
            return Ok(Outgoing { bytes, memfd: None });
        }
        let memfd = fd::sealed_memfd(c"kernelet-message", &bytes[HEADER..])?;
        bytes.truncate(HEADER);
        bytes[4..8].copy_from_slice(&FLAG_MEMFD.to_le_bytes());
        Ok(Outgoing {
            bytes,
            memfd: Some(memfd),
        })
    }

    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        let mut all = descriptors.to_vec();
        all.extend(self.memfd.as_ref().map(AsFd::as_fd));
        Ok(socket::send(socket, &self.bytes, &all)?)
    }
}

/// Receives a message; `None` is the peer's end.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Option<(T, Vec<OwnedFd>)>, WireError> {
    let Some(packet) = socket::receive(socket, INLINE + HEADER)? else {
        return Ok(None);
    };
    if packet.truncated {
        return Err(WireError::Malformed("it is too long"));
    }
    let (bytes, mut descriptors) = (packet.bytes, packet.descriptors);
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(WireError::Malformed("it is too short"));
    };
    if u16::from_le_bytes([header[0], header[1]]) != MAGIC {
        return Err(WireError::Malformed("its magic number is another"));
    }
    let version = u16::from_le_bytes([header[2], header[3]]);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let flags = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if flags & FLAG_MEMFD == 0 {
        return Ok(Some((postcard::from_bytes(body)?, descriptors)));
    }
    let memfd = descriptors
        .pop()
        .ok_or(WireError::Malformed("its memory file is missing"))?;
    let mut file = File::from(memfd);
    let mut body = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.take(LIMIT).read_to_end(&mut body))
        .map_err(|e| SysError::io("read a message's memory file", &e))?;
    Ok(Some((postcard::from_bytes(&body)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_arrive_with_their_descriptors() {
        for size in [10, 3 << 20] {
            let (a, b) = socket::pair().unwrap();
            let message = "x".repeat(size);
            let null = fd::dev_null().unwrap();
            Outgoing::encode(&message)
                .unwrap()
                .send(a.as_fd(), &[null.as_fd()])
                .unwrap();
            let (got, descriptors) = receive::<String>(b.as_fd()).unwrap().unwrap();
            assert_eq!(got, message);
            assert_eq!(descriptors.len(), 1);
            drop(a);
            assert!(receive::<String>(b.as_fd()).unwrap().is_none());
        }
    }

    #[test]
    fn garbage_is_refused() {
        let (a, b) = socket::pair().unwrap();
        let mut other_version = Outgoing::encode(&1_u8).unwrap().bytes;
        other_version[2] = 99;
        for bytes in [&b"x"[..], b"12345678", &other_version] {
            socket::send(a.as_fd(), bytes, &[]).unwrap();
            assert!(receive::<u8>(b.as_fd()).is_err(), "{bytes:?}");
        }
    }
}
