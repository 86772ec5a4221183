//! Network namespaces: entered only on a thread made for that and thrown away.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sched::{CloneFlags, setns};

use crate::LinkError;

/// Runs `work` inside the network namespace `netns` (and nowhere else: the thread ends with it).
/// `/proc/sys/net` is that namespace's too, meanwhile.
pub fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, LinkError> + Send,
) -> Result<T, LinkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| LinkError::new("enter the pod's network namespace", errno))?;
                work()
            })
            .map_err(|source| LinkError::new("start a thread for a network namespace", source))?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The namespace of the calling thread.
pub fn own_netns() -> Result<std::os::fd::OwnedFd, LinkError> {
    std::fs::File::open("/proc/thread-self/ns/net")
        .map(Into::into)
        .map_err(|source| LinkError::new("open this thread's network namespace", source))
}

/// The cookie of the calling thread's namespace, by which the eBPF programs know it.
pub fn own_cookie() -> Result<u64, LinkError> {
    let cookie = || -> io::Result<u64> {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Datagram,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        netns_cookie(socket.as_fd())
    };
    cookie().map_err(|source| LinkError::new("read the network namespace's cookie", source))
}

fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as long as said and lives through the call.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}
