//! The merged view of layers, without mounting them: what overlayfs would show at a path.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use kernelet_sys::xattr;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// Symlinks on one path, as in the kernel.
pub(crate) const MAX_LINKS: usize = 40;

/// Layers, the topmost first.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    layers: Vec<OwnedFd>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Node {
    Absent,
    /// A folder, as the topmost layer has it.
    Folder(OwnedFd),
    Symlink(PathBuf),
    /// Anything else: where it lies.
    Other {
        dir: OwnedFd,
        name: OsString,
        stat: FileStat,
    },
}

/// A folder of the merged view: that of each layer that takes part, the topmost first.
type Merged = Vec<OwnedFd>;

enum Step {
    Absent,
    Folder(Merged),
    Symlink(PathBuf),
    Other { dir: OwnedFd, stat: FileStat },
}

impl Tree {
    /// The layers' folders, the topmost first.
    pub fn open<P: AsRef<Path>>(layers: impl IntoIterator<Item = P>) -> io::Result<Tree> {
        let layers = layers
            .into_iter()
            .map(|layer| Ok(File::open(layer)?.into()))
            .collect::<io::Result<_>>()?;
        Ok(Tree { layers })
    }

    /// The layers' own folders.
    pub fn folders(&self) -> &[OwnedFd] {
        &self.layers
    }

    /// What is at `path`, whose folders must be no symlinks; nor is the last part followed.
    pub fn lookup(&self, path: &Path) -> io::Result<Node> {
        let mut at: Merged = self
            .layers
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<_>>()?;
        let mut parts = path.iter().peekable();
        while let Some(name) = parts.next() {
            match step(&at, name)? {
                Step::Folder(next) => at = next,
                Step::Symlink(target) if parts.peek().is_none() => {
                    return Ok(Node::Symlink(target));
                }
                Step::Other { dir, stat } if parts.peek().is_none() => {
                    return Ok(Node::Other {
                        dir,
                        name: name.to_owned(),
                        stat,
                    });
                }
                Step::Absent | Step::Symlink(_) | Step::Other { .. } => return Ok(Node::Absent),
            }
        }
        match at.into_iter().next() {
            Some(top) => Ok(Node::Folder(top)),
            None => Ok(Node::Absent),
        }
    }

    /// Opens the regular file at `path`, following symlinks as a process with this root would. None: there is none.
    pub fn file(&self, path: &Path) -> io::Result<Option<File>> {
        let mut todo: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let root = || {
            self.layers
                .iter()
                .map(OwnedFd::try_clone)
                .collect::<io::Result<Merged>>()
        };
        let mut stack = vec![root()?];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_bytes() {
                b"/" => {
                    stack.truncate(1);
                    continue;
                }
                b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let at = stack.last().expect("the root stays");
            match step(at, &name)? {
                Step::Absent => return Ok(None),
                Step::Folder(next) => stack.push(next),
                Step::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    for part in target.iter().rev() {
                        todo.push_front(part.to_owned());
                    }
                }
                Step::Other { dir, stat } => {
                    if !todo.is_empty() || kind(&stat) != SFlag::S_IFREG {
                        return Ok(None);
                    }
                    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    return Ok(Some(
                        openat(&dir, name.as_os_str(), flags, Mode::empty())?.into(),
                    ));
                }
            }
        }
        Ok(None)
    }
}

/// One name further, by overlayfs' rules: the topmost layer that has it decides; folders merge until one is opaque.
fn step(at: &Merged, name: &OsStr) -> io::Result<Step> {
    let mut merged = Merged::new();
    for dir in at {
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        match kind(&stat) {
            SFlag::S_IFDIR => {
                let folder = open_folder(dir, name)?;
                let opaque = is_opaque(&folder)?;
                merged.push(folder);
                if opaque {
                    break;
                }
            }
            _ if !merged.is_empty() || is_whiteout(&stat) => break,
            SFlag::S_IFLNK => return Ok(Step::Symlink(readlinkat(dir, name)?.into())),
            _ => {
                let dir = dir.try_clone()?;
                return Ok(Step::Other { dir, stat });
            }
        }
    }
    Ok(if merged.is_empty() {
        Step::Absent
    } else {
        Step::Folder(merged)
    })
}

pub(crate) fn open_folder(dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn is_opaque(folder: &OwnedFd) -> io::Result<bool> {
    let value = xattr::get(folder.as_fd(), OPAQUE).map_err(|error| io::Error::from(error.errno))?;
    Ok(value.as_deref() == Some(b"y"))
}

pub(crate) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// A folder's own attributes.
pub(crate) fn stat(folder: &OwnedFd) -> nix::Result<FileStat> {
    fstat(folder)
}
