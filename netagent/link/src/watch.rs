//! Hearing that somebody changed links, routes, addresses or nftables.
//!
//! Only *that* something changed is told: the listener compares what it wants with what is there. A
//! lost message (the kernel's queue ran over) is therefore just another change.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_sys::{
    Socket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use crate::{LinkError, netlink::split};

const GROUPS_ROUTE: [u32; 5] = [1, 5, 7, 9, 11];
const GROUP_NFTABLES: u32 = 7;
const DEL_ROUTE: u16 = 25;
const DEL_LINK: u16 = 17;

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// An address, a link or a route came, or a link went.
    pub network: bool,
    /// A route or link was removed: perhaps one of ours.
    pub removed: bool,
    pub firewall: bool,
}

struct Fd(Socket);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's own, which outlives the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// Listens in the namespace of the thread that opened it.
pub struct NetworkWatch {
    route: AsyncFd<Fd>,
    netfilter: AsyncFd<Fd>,
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<AsyncFd<Fd>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    // SAFETY: `as_raw_fd` always gives the socket's own descriptor, which stays open for as long as the
    // `AsyncFd` owns it.
    unsafe { AsyncFd::register(Fd(socket)) }.map_err(io::Error::other)
}

impl NetworkWatch {
    pub fn open() -> Result<Self, LinkError> {
        let error = |source| LinkError::new("listen to the kernel's network changes", source);
        Ok(Self {
            route: listen(NETLINK_ROUTE, &GROUPS_ROUTE).map_err(error)?,
            netfilter: listen(NETLINK_NETFILTER, &[GROUP_NFTABLES]).map_err(error)?,
        })
    }

    /// The next changes, as many as have come. Dropping the future loses none.
    pub async fn changed(&self) -> Result<Changed, LinkError> {
        let error = |source| LinkError::new("wait for the kernel's network changes", source);
        tokio::select! {
            ready = self.route.readable() => {
                let mut ready = ready.map_err(error)?;
                let mut changed = Changed { network: true, ..Changed::default() };
                let lost = drain(&self.route, |kind| {
                    changed.removed |= matches!(kind, DEL_ROUTE | DEL_LINK);
                })
                .map_err(error)?;
                // What was lost may have been a removal.
                changed.removed |= lost;
                ready.clear_ready();
                Ok(changed)
            }
            ready = self.netfilter.readable() => {
                let mut ready = ready.map_err(error)?;
                drain(&self.netfilter, |_| {}).map_err(error)?;
                ready.clear_ready();
                Ok(Changed { firewall: true, ..Changed::default() })
            }
        }
    }
}

/// Reads until nothing is left; whether the kernel had to drop messages.
fn drain(fd: &AsyncFd<Fd>, mut each: impl FnMut(u16)) -> io::Result<bool> {
    let mut lost = false;
    loop {
        match fd.get_ref().0.recv_from_full() {
            Ok((datagram, _)) => split(&datagram).iter().for_each(|reply| each(reply.kind)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
            Err(error) => return Err(error),
        }
    }
}
