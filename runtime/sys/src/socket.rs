//! Packets with descriptors over `SOCK_SEQPACKET` sockets.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, UnixCredentials, recvmsg, sendmsg, socket, socketpair, sockopt,
    },
};

use crate::error::{Result, SysError};

/// The kernel's bound on descriptors in one packet.
pub const MAX_DESCRIPTORS: usize = 253;

/// One packet.
#[derive(Debug, Default)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    /// It was longer than the buffer, or had more descriptors: nothing can be made of it.
    pub truncated: bool,
}

fn seqpacket() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .map_err(|e| SysError::new("make a unix socket", e))
}

/// Two connected ends.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|e| SysError::new("make a socket pair", e))
}

/// Runs `use_it` with an address for a path, however long: a socket's address has 108 bytes, a data
/// folder may have more, so the path is named through its folder's descriptor.
fn with_address<T>(
    path: &Path,
    use_it: impl FnOnce(&UnixAddr) -> nix::Result<T>,
) -> nix::Result<T> {
    if path.as_os_str().len() < 100 {
        return use_it(&UnixAddr::new(path)?);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    use nix::fcntl::{OFlag, open};
    let dir = open(
        parent,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    use_it(&UnixAddr::new(&short)?)
}

/// A socket with an address. Who shall be known as its owner calls [`listen`].
pub fn bind(path: &Path) -> Result<OwnedFd> {
    let socket = seqpacket()?;
    with_address(path, |address| {
        nix::sys::socket::bind(socket.as_raw_fd(), address)
    })
    .map_err(|e| SysError::new(format!("bind {}", path.display()), e))?;
    Ok(socket)
}

/// From here on, the caller is the peer that connecting processes see.
pub fn listen(socket: BorrowedFd<'_>) -> Result<()> {
    let backlog = Backlog::new(16).expect("16 is a valid backlog");
    nix::sys::socket::listen(&socket, backlog).map_err(|e| SysError::new("listen", e))
}

pub fn accept(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = nix::sys::socket::accept4(socket.as_raw_fd(), flags)
        .map_err(|e| SysError::new("accept", e))?;
    // SAFETY: new and only ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn connect(path: &Path) -> Result<OwnedFd> {
    let socket = seqpacket()?;
    with_address(path, |address| {
        nix::sys::socket::connect(socket.as_raw_fd(), address)
    })
    .map_err(|e| SysError::new(format!("connect to {}", path.display()), e))?;
    Ok(socket)
}

/// Who is at the other end: pid, uid and gid at the time of its `connect` or `listen`.
pub fn peer(socket: BorrowedFd<'_>) -> Result<UnixCredentials> {
    nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials)
        .map_err(|e| SysError::new("ask who the peer is", e))
}

/// Sends a packet. Never blocks on a full buffer when the socket is non-blocking: EAGAIN is an error.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        &control[..0]
    } else {
        &control[..]
    };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(SysError::new("send a packet", e)),
        }
    }
}

/// The length of the packet that is next, so that a buffer of its size is enough: a process that is
/// idle most of its life shall not keep one for the largest.
fn next_length(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut byte = [0_u8; 1];
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC;
    loop {
        // SAFETY: one byte is there to be written.
        let n = unsafe { libc::recv(socket.as_raw_fd(), byte.as_mut_ptr().cast(), 1, flags) };
        if n >= 0 {
            return Ok(n as usize);
        }
        match Errno::last() {
            Errno::EINTR => {}
            e => return Err(SysError::new("receive a packet", e)),
        }
    }
}

/// Receives a packet of at most `limit` bytes; `None` is the peer's end.
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> Result<Option<Packet>> {
    let mut control = cmsg_space!([std::os::fd::RawFd; MAX_DESCRIPTORS]);
    let mut buffer = vec![0_u8; next_length(socket)?.min(limit)];
    let (n, descriptors, truncated) = loop {
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut iov,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => message,
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(SysError::new("receive a packet", e)),
        };
        let mut descriptors = Vec::new();
        if let Ok(messages) = message.cmsgs() {
            for message in messages {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    // SAFETY: the kernel has just installed these for us; nobody else knows them.
                    descriptors.extend(
                        fds.into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
            }
        }
        let truncated = message
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        break (message.bytes, descriptors, truncated);
    };
    if n == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    buffer.truncate(n);
    Ok(Some(Packet {
        bytes: buffer,
        descriptors,
        truncated,
    }))
}

pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags =
        fcntl(fd, FcntlArg::F_GETFL).map_err(|e| SysError::new("read a descriptor's flags", e))?;
    let mut flags = OFlag::from_bits_retain(flags);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))
        .map(drop)
        .map_err(|e| SysError::new("set a descriptor's flags", e))
}
