//! Our end of a pipe, a socket or a terminal.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::errno::Errno;
use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that can be waited for. A terminal's controlling end is read and written through one.
#[derive(Debug)]
pub struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    /// Makes the descriptor non-blocking; needs a runtime.
    #[expect(
        deprecated,
        reason = "an OwnedFd stays what it is; the successor is unsafe for the sake of other types"
    )]
    pub fn new(fd: OwnedFd) -> io::Result<Pipe> {
        kernelet_sys::socket::set_nonblocking(fd.as_fd(), true).map_err(|e| e.errno)?;
        AsyncFd::with_interest(fd, Interest::READABLE | Interest::WRITABLE).map(Pipe)
    }

    pub fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// 0 at the end. Safe to cancel: nothing is lost.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.read_now(buffer)? {
                Some(n) => return Ok(n),
                None => ready.clear_ready(),
            }
        }
    }

    /// What is there at this moment, whatever was heard of readiness; `None` when nothing is.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(self.0.get_ref(), buffer) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                // A terminal's way to say that nobody has its other end.
                Err(Errno::EIO) => return Ok(Some(0)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Cancelled, a part may have been written.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            match nix::unistd::write(self.0.get_ref(), data) {
                Ok(n) => data = &data[n..],
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
