//! Namespaces: entered, left, held as descriptors.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::error::{Result, SysError};

pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
pub const NEWTIME: u64 = 0x80;

/// Enters a namespace (a descriptor of it), or several of a process (its pidfd). For `NEWPID` only
/// the children to come are there.
pub fn enter(fd: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::setns(fd.as_raw_fd(), kinds as i32) } < 0 {
        return Err(SysError::last(format!(
            "enter namespace(s) {}",
            names(kinds)
        )));
    }
    Ok(())
}

/// Makes new namespaces for the calling thread.
pub fn unshare(kinds: u64) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kinds == NEWCGROUP
        && kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::CgroupNamespace)
    {
        return Ok(());
    }
    // SAFETY: integers only.
    if unsafe { libc::unshare(kinds as i32) } < 0 {
        return Err(SysError::last(format!(
            "make namespace(s) {}",
            names(kinds)
        )));
    }
    Ok(())
}

/// A namespace of the calling thread or of a process, through a procfs descriptor.
/// `who`: `self`, `thread-self` or a pid. `kind`: `net`, `ipc`, `uts`, `mnt`, `pid`, `cgroup`, `user`, `time`.
pub fn open(proc: BorrowedFd<'_>, who: &str, kind: &str) -> Result<OwnedFd> {
    crate::fd::open_at(proc, &format!("{who}/ns/{kind}"), OFlag::O_RDONLY, 0)
}

fn names(kinds: u64) -> String {
    const NAMES: [(u64, &str); 8] = [
        (NEWNS, "mnt"),
        (NEWCGROUP, "cgroup"),
        (NEWUTS, "uts"),
        (NEWIPC, "ipc"),
        (NEWUSER, "user"),
        (NEWPID, "pid"),
        (NEWNET, "net"),
        (NEWTIME, "time"),
    ];
    let set: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| kinds & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join(", ")
}

/// Brings the loopback interface of the calling thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|e| SysError::new("open a socket in the network namespace", e))?;
    // SAFETY: ifreq is plain data; all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which is valid over the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(SysError::last("bring up lo"));
    }
    Ok(())
}

/// Sets the host name of the calling process's UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name)
        .map_err(|e| SysError::new(format!("set the host name {name:?}"), e))
}

/// Sets the NIS domain name of the calling process's UTS namespace.
pub fn set_domainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length describe the same text.
    if unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } < 0 {
        return Err(SysError::last(format!("set the domain name {name:?}")));
    }
    Ok(())
}
