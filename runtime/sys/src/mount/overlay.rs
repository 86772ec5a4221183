//! Overlays: a container's root of an image's layers.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use kernelet_spec::{CapSet, MountFlags};
use nix::{fcntl::OFlag, sys::stat::Mode, unistd};

use super::{attach, copy_tree, fs_open, make_private, set_id_map, text, tmpfs};
use crate::{
    capability,
    error::{Result, SysError},
    fd, feature, namespace as ns,
};

/// An overlay of folders; the top layer first.
pub fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, flags: MountFlags) -> Result<OwnedFd> {
    if feature::overlay_lowerdir_append() {
        let fs = fs_open("overlay")?;
        fs.set("source", "overlay")?;
        for layer in lower {
            fs.set("lowerdir+", text(layer)?)?;
        }
        fs.set("upperdir", text(upper)?)?;
        fs.set("workdir", text(work)?)?;
        return fs.mount(flags);
    }
    overlay_by_numbers(lower, upper, work, flags)
}

/// Before `lowerdir+`, one string of at most 256 bytes named all layers. So each folder is opened, and
/// named by its descriptor's number, relative to `/proc/self/fd`: some 60 layers fit. A thread of its
/// own has its own working directory for that.
fn overlay_by_numbers(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    flags: MountFlags,
) -> Result<OwnedFd> {
    let open = |path: &Path| fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
    let lower: Vec<OwnedFd> = lower.iter().map(|path| open(path)).collect::<Result<_>>()?;
    let upper = open(upper)?;
    let work = open(work)?;
    let names: Vec<String> = lower.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let mount = || {
        ns::unshare(libc::CLONE_FS as u64)?;
        unistd::chdir("/proc/thread-self/fd")
            .map_err(|e| SysError::new("enter /proc/thread-self/fd", e))?;
        let fs = fs_open("overlay")?;
        fs.set("source", "overlay")?;
        fs.set("lowerdir", &names.join(":"))?;
        fs.set("upperdir", &upper.as_raw_fd().to_string())?;
        fs.set("workdir", &work.as_raw_fd().to_string())?;
        fs.mount(flags)
    };
    std::thread::scope(|scope| scope.spawn(mount).join())
        .expect("the closure has nothing that panics")
}

/// An overlay whose layers and upper folder show the ids that a user namespace gives those of their files: there, the
/// owner of what is root's on disk is `root` (user and group on the host). `upper` and `work` are in one folder.
/// Kernel 5.19.
///
/// Layers are named by paths, and a mapped one must stand in the caller's mount namespace before kernel 6.15: so a
/// thread has one of its own for that, which ends with it. The overlay has copies of what it needs.
pub fn overlay_of_mapped(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    ids: BorrowedFd<'_>,
    root: (u32, u32),
) -> Result<OwnedFd> {
    let folder = |path: &Path| fd::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
    let own = upper.parent().unwrap_or(Path::new("/"));
    let make = || {
        ns::unshare(ns::NEWNS)?;
        let slash = fd::open(Path::new("/"), OFlag::O_PATH, 0)?;
        // Before anything is attached: else it would show on the host.
        make_private(slash.as_fd())?;
        let mut sources = Vec::with_capacity(lower.len() + 1);
        for path in lower.iter().map(PathBuf::as_path).chain([own]) {
            let copy = copy_tree(folder(path)?.as_fd(), false)?;
            set_id_map(copy.as_fd(), ids, false)?;
            sources.push(copy);
        }
        // Over the container's own folder, of which there is a copy by now: short names, in nobody's way.
        let places = tmpfs(Some(64 << 10), 0o700, (0, 0), MountFlags::default())?;
        attach(places.as_fd(), folder(own)?.as_fd())?;
        unistd::chdir(own).map_err(|e| SysError::new("enter the layers' folder", e))?;
        for (number, source) in sources.iter().enumerate() {
            let name = number.to_string();
            unistd::mkdir(name.as_str(), Mode::S_IRWXU)
                .map_err(|e| SysError::new("make a layer's place", e))?;
            attach(source.as_fd(), folder(Path::new(&name))?.as_fd())?;
        }
        // The overlay makes files of its own as who mounts it, and on a mapped mount only who is in the map makes any.
        // Giving up root's file id gives up rights over files, which stay needed.
        unistd::setfsgid(root.1.into());
        unistd::setfsuid(root.0.into());
        let rights = capability::permitted()?;
        capability::set(rights, rights, CapSet(0))?;
        let fs = fs_open("overlay")?;
        fs.set("source", "overlay")?;
        let names: Vec<String> = (0..lower.len()).map(|number| number.to_string()).collect();
        match feature::overlay_lowerdir_append() {
            true => names
                .iter()
                .try_for_each(|name| fs.set("lowerdir+", name))?,
            false => fs.set("lowerdir", &names.join(":"))?,
        }
        let name = |path: &Path| -> Result<String> {
            let last = path.file_name().unwrap_or_default();
            Ok(format!("{}/{}", lower.len(), text(Path::new(last))?))
        };
        fs.set("upperdir", &name(upper)?)?;
        fs.set("workdir", &name(work)?)?;
        fs.mount(MountFlags::default())
    };
    // unshare(CLONE_NEWNS) gives the thread a working directory of its own, too.
    std::thread::scope(|scope| scope.spawn(make).join())
        .expect("the closure has nothing that panics")
}
