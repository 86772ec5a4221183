//! The line between parent and child: `R` (ready, perhaps with a terminal), an error, or its end by
//! exec; and back `S` (go).

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use kernelet_sys::{SysError, process, socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{CreateError, ErrorKind};

/// How long a stage may take, which only enters and makes namespaces.
const STAGE_WITHIN: Duration = Duration::from_secs(25);

/// The child's end.
pub(crate) struct ChildEnd(pub OwnedFd);

impl ChildEnd {
    pub(crate) fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> Result<(), SysError> {
        let descriptors: Vec<BorrowedFd<'_>> = terminal.into_iter().collect();
        socket::send(self.0.as_fd(), b"R", &descriptors)
    }

    /// Everything is mounted, and the root not entered yet: the parent may do what has its place here, until it says go.
    pub(crate) fn before_pivot(&self) -> Result<(), SysError> {
        socket::send(self.0.as_fd(), b"H", &[])?;
        self.wait_for_go()
    }

    /// A stage has made the child.
    pub(crate) fn child(&self, child: &process::Process) -> Result<(), SysError> {
        let mut bytes = vec![b'P'];
        bytes.extend(child.pid.to_ne_bytes());
        socket::send(self.0.as_fd(), &bytes, &[child.pidfd.as_fd()])
    }

    /// The filter is there, and its notification descriptor has this number. Written plainly: that is the
    /// one call a filter can't leave to another process. Ends when the parent has handed it on.
    pub(crate) fn listening(&self, number: i32) -> Result<(), SysError> {
        let mut bytes = vec![b'N'];
        bytes.extend(number.to_ne_bytes());
        nix::unistd::write(&self.0, &bytes)
            .map_err(|e| SysError::new("tell of the seccomp descriptor", e))?;
        self.wait_for_go()
    }

    /// Blocks until the parent says go. Its end without a word means: don't.
    pub(crate) fn wait_for_go(&self) -> Result<(), SysError> {
        let mut byte = [0_u8; 1];
        loop {
            match nix::unistd::read(&self.0, &mut byte) {
                Ok(1) => return Ok(()),
                Ok(_) => return Err(SysError::new("wait for the start", Errno::EPIPE)),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(SysError::new("wait for the start", e)),
            }
        }
    }

    /// Written plainly: a filter may already forbid more.
    pub(crate) fn fail(&self, error: &CreateError) {
        let _ = nix::unistd::write(&self.0, &error.to_bytes());
    }

    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// What came from the child.
pub(crate) enum Heard {
    Ready(Option<OwnedFd>),
    /// It has its mounts, and waits to be let into its root.
    BeforePivot,
    /// From a stage: the child that it has made for the listener.
    Child(process::Process),
    /// Its filter leaves calls to another process, which shall get the descriptor with this number of its.
    Listening(i32),
    /// The line closed: it has executed its program, or died.
    Closed,
}

/// Waits for the child that a stage makes.
pub(crate) fn hear_of_child(line: BorrowedFd<'_>) -> Result<process::Process, CreateError> {
    match hear(line, STAGE_WITHIN)? {
        Heard::Child(child) => Ok(child),
        other => Err(crate::birth::unexpected(&other)),
    }
}

/// Waits for the child's next word, at most so long.
pub(crate) fn hear(line: BorrowedFd<'_>, within: Duration) -> Result<Heard, CreateError> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(line, PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                let what = format!(
                    "the new process did not come up within {} s",
                    within.as_secs()
                );
                return Err(CreateError::new(ErrorKind::Kernel, what));
            }
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(SysError::new("wait for the new process", e).into()),
        }
    }
    let packet = match socket::receive(line, 16 << 10) {
        Ok(Some(packet)) => packet,
        Ok(None) => return Ok(Heard::Closed),
        // What a dead child leaves of a socket pair.
        Err(e) if e.errno == Errno::ECONNRESET => return Ok(Heard::Closed),
        Err(e) => return Err(e.into()),
    };
    if packet.bytes == b"R" {
        return Ok(Heard::Ready(packet.descriptors.into_iter().next()));
    }
    if packet.bytes == b"H" {
        return Ok(Heard::BeforePivot);
    }
    if let [b'N', a, b, c, d] = packet.bytes[..] {
        return Ok(Heard::Listening(i32::from_ne_bytes([a, b, c, d])));
    }
    if let [b'P', a, b, c, d] = packet.bytes[..]
        && let Some(pidfd) = packet.descriptors.into_iter().next()
    {
        let pid = i32::from_ne_bytes([a, b, c, d]);
        return Ok(Heard::Child(process::Process { pid, pidfd }));
    }
    Err(CreateError::from_bytes(&packet.bytes).unwrap_or_else(|| {
        CreateError::new(ErrorKind::Kernel, "the new process said something unknown")
    }))
}

/// How a child that is of no use any more ends: killed and reaped.
pub(crate) fn discard(child: &process::Process) {
    let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(child.pidfd.as_fd());
}
