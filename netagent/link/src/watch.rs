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

use crate::{
    LinkError,
    netlink::{Reply, split},
    pod::ROUTE_PROTOCOL,
};

const GROUPS_ROUTE: [u32; 5] = [1, 5, 7, 9, 11];
const GROUP_NFTABLES: u32 = 7;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;

/// What kind of thing changed. Our own changes are told too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub addresses: bool,
    pub default_routes: bool,
    /// A route with our protocol number went.
    pub our_routes: bool,
    pub firewall: bool,
}

impl Changed {
    /// The kernel had to drop messages: anything may have changed.
    const ANYTHING: Self = Self {
        addresses: true,
        default_routes: true,
        our_routes: true,
        firewall: true,
    };

    fn note(&mut self, reply: &Reply) {
        // `struct rtmsg`: family, length of the destination's prefix, …, protocol at 5.
        let byte = |at: usize| reply.body.get(at).copied();
        match reply.kind {
            NEW_ADDRESS | DEL_ADDRESS => self.addresses = true,
            NEW_ROUTE | DEL_ROUTE if byte(1) == Some(0) => self.default_routes = true,
            DEL_ROUTE if byte(5) == Some(ROUTE_PROTOCOL) => self.our_routes = true,
            // Routes over a link that goes are not told one by one.
            DEL_LINK => self.our_routes = true,
            _ => {}
        }
    }
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
        let mut changed = Changed::default();
        tokio::select! {
            ready = self.route.readable() => {
                let mut ready = ready.map_err(error)?;
                drain(&self.route, &mut changed, Changed::note).map_err(error)?;
                ready.clear_ready();
            }
            ready = self.netfilter.readable() => {
                let mut ready = ready.map_err(error)?;
                drain(&self.netfilter, &mut changed, |changed, _| changed.firewall = true)
                    .map_err(error)?;
                ready.clear_ready();
            }
        }
        Ok(changed)
    }
}

/// Reads until nothing is left.
fn drain(
    fd: &AsyncFd<Fd>,
    changed: &mut Changed,
    mut note: impl FnMut(&mut Changed, &Reply),
) -> io::Result<()> {
    loop {
        match fd.get_ref().0.recv_from_full() {
            Ok((datagram, _)) => {
                split(&datagram)
                    .iter()
                    .for_each(|reply| note(changed, reply));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                *changed = Changed::ANYTHING;
            }
            Err(error) => return Err(error),
        }
    }
}
