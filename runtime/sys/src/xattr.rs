//! Extended attributes, on descriptors.

use std::{
    ffi::CString,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;

use crate::error::{Result, SysError};

/// Sets an attribute, whether it is there or not.
pub fn set(fd: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<()> {
    let attempted = || format!("set the attribute {name}");
    let c_name = CString::new(name).map_err(|_| SysError::new(attempted(), Errno::EINVAL))?;
    // SAFETY: a C string and a buffer with its length, all valid over the call.
    let done = unsafe {
        libc::fsetxattr(
            fd.as_raw_fd(),
            c_name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done < 0 {
        return Err(SysError::last(attempted()));
    }
    Ok(())
}

/// An attribute's value, at most 64 KiB, which is the kernel's limit. `None`: it isn't there, or the file system has
/// no attributes.
pub fn get(fd: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let attempted = || format!("read the attribute {name}");
    let c_name = CString::new(name).map_err(|_| SysError::new(attempted(), Errno::EINVAL))?;
    // Most values are short: one call without asking for the length first.
    let mut value = vec![0u8; 256];
    loop {
        // SAFETY: a C string and a writable buffer with its length, all valid over the call.
        let read = unsafe {
            libc::fgetxattr(
                fd.as_raw_fd(),
                c_name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        match usize::try_from(read) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(_) => match Errno::last() {
                Errno::ENODATA | Errno::ENOTSUP => return Ok(None),
                Errno::ERANGE if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                errno => return Err(SysError::new(attempted(), errno)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn attributes_come_back_and_missing_ones_are_none() {
        let memfd = crate::fd::sealed_memfd(c"xattr", b"").unwrap();
        assert_eq!(get(memfd.as_fd(), "user.none").unwrap(), None);
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        assert_eq!(get(dir.as_fd(), "trusted.kernelet-none").unwrap(), None);
    }
}
