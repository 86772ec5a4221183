//! The few `bpf(2)` commands that aya keeps to itself: opening a pin as a plain descriptor, replacing
//! a pinned link's program, and attaching to a link (tcx) without a link object.
//!
//! tcx programs are attached to pods' links by `BPF_PROG_ATTACH`: such an attachment lives exactly as
//! long as the device and needs no pin, where a BPF link would need one a pod.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_UPDATE: libc::c_int = 29;

const BPF_TCX_INGRESS: u32 = 46;
const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_F_BEFORE: u32 = 1 << 3;

/// A command's `union bpf_attr`, at its own length: the kernel takes what is missing as zero.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: every caller passes a `repr(C)` struct laid out as the command's part of `bpf_attr`,
    // whose pointers stay valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> OwnedFd {
    // SAFETY: the command just answered with a new descriptor that nobody else knows.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

/// Opens what is pinned at `path`.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf(BPF_OBJ_GET, &mut attributes).map(owned)
}

/// Lets `link` run `program` from now on; no packet and no call is missed in between.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attributes = Attributes {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(drop)
}

#[repr(C)]
struct Attach {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// Runs `program` on what enters by the link `ifindex`, before other tcx programs; `replace`: in the
/// place of that one.
pub fn tcx_attach(
    ifindex: u32,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        target_ifindex: ifindex,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TCX_INGRESS,
        attach_flags: if replace.is_some() {
            BPF_F_REPLACE
        } else {
            BPF_F_BEFORE
        },
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
        relative_fd: 0,
        expected_revision: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attributes).map(drop)
}

pub fn tcx_detach(ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        target_ifindex: ifindex,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TCX_INGRESS,
        attach_flags: 0,
        replace_bpf_fd: 0,
        relative_fd: 0,
        expected_revision: 0,
    };
    bpf(BPF_PROG_DETACH, &mut attributes).map(drop)
}

/// The ids of the programs on the link's ingress, in their order.
pub fn tcx_query(ifindex: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attributes {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut ids = [0_u32; 64];
    let mut attributes = Attributes {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    match bpf(BPF_PROG_QUERY, &mut attributes) {
        Ok(_) => Ok(ids[..(attributes.count as usize).min(ids.len())].to_vec()),
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attributes = Attributes {
        prog_id: id,
        next_id: 0,
        open_flags: 0,
    };
    bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes).map(owned)
}

/// `CLOCK_MONOTONIC`, which is what `bpf_ktime_get_ns` reads.
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("the monotonic clock can always be read");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// The cookie of the namespace in which `socket` was made (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as long as said and lives through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
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
