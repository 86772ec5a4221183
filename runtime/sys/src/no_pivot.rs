//! Entering a root without `pivot_root`, which can't leave a ramdisk (`--no-pivot`): the root moves over the old one.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Result, SysError};

/// Moves the mount behind a descriptor, which is attached somewhere, over this mount namespace's root; ends in its `/`.
///
/// The old root stays below it. Complete procfs and sysfs mounts there are taken away first: while a namespace has one,
/// the kernel lets a user namespace below it mount its own without what is hidden in the container's.
pub fn move_over_root(new_root: BorrowedFd<'_>) -> Result<()> {
    let link = format!("/proc/self/fd/{}", new_root.as_raw_fd());
    let place = std::fs::read_link(link).map_err(|e| SysError::io("name the new root", &e))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| SysError::io("read the mounts", &e))?;
    for path in complete_mounts(&table, &place) {
        if umount2(&path, MntFlags::MNT_DETACH).is_ok() {
            continue;
        }
        // Locked by another user namespace: then it is covered.
        let (none, tmpfs) = (None::<&str>, Some("tmpfs"));
        mount(tmpfs, &path, tmpfs, MsFlags::empty(), none)
            .map_err(|e| SysError::new(format!("cover {}", path.display()), e))?;
    }
    nix::unistd::fchdir(new_root).map_err(|e| SysError::new("enter the new root", e))?;
    let none = None::<&str>;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)
        .map_err(|e| SysError::new("move the new root over /", e))?;
    nix::unistd::chroot(".").map_err(|e| SysError::new("change to the new root", e))?;
    nix::unistd::chdir("/").map_err(|e| SysError::new("enter /", e))
}

/// Mount points of whole procfs and sysfs instances outside of `place`, the last mounted first.
fn complete_mounts(table: &str, place: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let kind = right.split(' ').next()?;
            let whole = matches!(kind, "proc" | "sysfs") && left.get(3) == Some(&"/");
            let path = PathBuf::from(left.get(4)?.replace("\\040", " "));
            (whole && !path.starts_with(place)).then_some(path)
        })
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_mounts_outside_of_the_root_are_found() {
        let table = "\
20 1 0:5 / /proc rw - proc proc rw
21 20 0:5 /sys /b/rootfs/x rw - proc proc rw
22 1 0:6 / /sys rw,nosuid shared:7 - sysfs sysfs rw
23 1 0:7 / /b/rootfs/proc rw - proc proc rw
24 1 0:8 / /tmp rw - tmpfs tmpfs rw
";
        let found = complete_mounts(table, Path::new("/b/rootfs"));
        assert_eq!(found, [Path::new("/sys"), Path::new("/proc")]);
    }
}
