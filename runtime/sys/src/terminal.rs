//! Pseudo terminals, made in a given devpts.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::error::{Result, SysError};

/// A pair of ends from a devpts' `ptmx`: the controlling one, and the terminal. The terminal is opened
/// through the controlling end, not by its path, which a container could have replaced.
pub fn open(ptmx: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, OwnedFd)> {
    const TIOCGPTPEER: libc::c_ulong = 0x5441;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let control = crate::fd::open_at(ptmx, path, flags, 0)?;
    let stat = nix::sys::stat::fstat(&control).map_err(|e| SysError::new("look at ptmx", e))?;
    // 5:2 is ptmx; anything else was put there by somebody.
    if stat.st_rdev != libc::makedev(5, 2) {
        return Err(SysError::new(
            "open ptmx: it is another file",
            nix::errno::Errno::ENODEV,
        ));
    }
    let unlock = 0_i32;
    // SAFETY: TIOCSPTLCK reads an int.
    if unsafe { libc::ioctl(control.as_raw_fd(), libc::TIOCSPTLCK, &unlock) } < 0 {
        return Err(SysError::last("unlock a terminal"));
    }
    let peer_flags = (flags | OFlag::O_CLOEXEC).bits();
    // SAFETY: TIOCGPTPEER takes open flags and makes a descriptor.
    let peer = unsafe { libc::ioctl(control.as_raw_fd(), TIOCGPTPEER, peer_flags) };
    if peer < 0 {
        return Err(SysError::last("open a terminal"));
    }
    // SAFETY: new and only ours.
    Ok((control, unsafe { OwnedFd::from_raw_fd(peer) }))
}

/// The terminal's number: its name in its devpts.
pub fn number(control: BorrowedFd<'_>) -> Result<u32> {
    let mut number = 0_u32;
    // SAFETY: TIOCGPTN writes an unsigned int.
    if unsafe { libc::ioctl(control.as_raw_fd(), libc::TIOCGPTN, &mut number) } < 0 {
        return Err(SysError::last("ask for a terminal's number"));
    }
    Ok(number)
}

/// Makes the terminal the calling session's own.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: an integer argument.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(SysError::last("take the terminal"));
    }
    Ok(())
}

pub fn resize(control: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize.
    if unsafe { libc::ioctl(control.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
        return Err(SysError::last("resize a terminal"));
    }
    Ok(())
}

/// Rows and columns.
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ fills in a winsize.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) } < 0 {
        return Err(SysError::last("ask for a terminal's size"));
    }
    Ok((size.ws_row, size.ws_col))
}
