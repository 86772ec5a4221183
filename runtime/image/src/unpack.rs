//! A layer's archive into a folder in overlayfs' form.
//!
//! Every entry's parent is walked name by name on descriptors, below the layer's own folder and never following what
//! it hasn't resolved itself, so that `..`, absolute paths and symlinks, planted by the archive, lead nowhere else.
//! Whiteouts become 0/0 character devices, opaque folders get their attribute; attributes of overlayfs' own that an
//! archive brings are dropped, since they could show what the layer doesn't have.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use kernelet_sys::xattr;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{
            FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev,
            mkdirat, mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat},
};
use tar::EntryType;

use crate::{
    ImageError,
    archive::damaged,
    split::{SplitWriter, Tap},
    tree::{MAX_LINKS, Node, OPAQUE, Tree, is_whiteout, kind, open_folder, stat},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// Unpacks the archive of a layer above `lower` into the empty folder `target`, writing down in `split` what it needs
/// to be made again. Answers the bytes of its files.
pub(crate) fn unpack(
    archive: &mut dyn Read,
    target: &Path,
    lower: &Tree,
    split: File,
) -> Result<u64, ImageError> {
    let io = |attempt| {
        move |source| ImageError::Io {
            attempt,
            path: target.to_owned(),
            source,
        }
    };
    let root = File::open(target).map_err(io("open"))?;
    let split = SplitWriter::new(split).map_err(io("write the layer's records in"))?;
    let split = Rc::new(RefCell::new(split));
    let mut unpacker = Unpacker {
        root: root.into(),
        lower,
        split: split.clone(),
        opaque: HashSet::new(),
        folders: Vec::new(),
        parent: None,
        bytes: 0,
    };
    let tap = Tap {
        inner: archive,
        split: split.clone(),
    };
    let unpacked = unpacker.archive(tap);
    if let Some(error) = split.borrow_mut().failed.take() {
        return Err(io("write the layer's records in")(error));
    }
    unpacked?;
    let bytes = unpacker.bytes;
    drop(unpacker);
    Rc::into_inner(split)
        .expect("the archive's reader and the unpacker are gone")
        .into_inner()
        .finish()
        .map_err(io("write the layer's records in"))?;
    Ok(bytes)
}

struct Unpacker<'a> {
    root: OwnedFd,
    lower: &'a Tree,
    split: Rc<RefCell<SplitWriter>>,
    /// Folders of this layer that hide those below.
    opaque: HashSet<PathBuf>,
    /// Folders' times, set last because filling a folder changes its time.
    folders: Vec<(PathBuf, i64)>,
    /// The last entry's parent, because the next one's is mostly the same.
    parent: Option<(PathBuf, Place)>,
    bytes: u64,
}

/// A folder in the layer.
struct Place {
    /// Its path without symlinks.
    path: PathBuf,
    folder: OwnedFd,
}

impl Place {
    fn try_clone(&self) -> io::Result<Place> {
        Ok(Place {
            path: self.path.clone(),
            folder: self.folder.try_clone()?,
        })
    }
}

/// What an entry says of its file.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Why an entry can't be unpacked: it, or this machine.
enum Trouble {
    Refused(String),
    Source(io::Error),
    Here(io::Error),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Here(errno.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Here(error)
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Refused(reason.into()))
}

impl Unpacker<'_> {
    fn archive<R: Read>(&mut self, tap: Tap<R>) -> Result<(), ImageError> {
        let cut_short = damaged("a layer");
        let mut archive = tar::Archive::new(tap);
        for entry in archive.entries().map_err(&cut_short)? {
            let mut entry = entry.map_err(&cut_short)?;
            let path = entry.path_bytes().into_owned();
            self.entry(&path, &mut entry).map_err(|trouble| {
                let path = || String::from_utf8_lossy(&path).into_owned();
                match trouble {
                    Trouble::Refused(reason) => ImageError::Entry {
                        path: path(),
                        reason,
                    },
                    Trouble::Source(source) => cut_short(source),
                    Trouble::Here(source) => ImageError::Io {
                        attempt: "unpack",
                        path: path().into(),
                        source,
                    },
                }
            })?;
        }
        // What comes after the end's mark belongs to the digest, too.
        let mut tap = archive.into_inner();
        io::copy(&mut tap, &mut io::sink()).map_err(&cut_short)?;
        for (path, mtime) in std::mem::take(&mut self.folders).into_iter().rev() {
            self.set_folder_time(&path, mtime)
                .map_err(|source| ImageError::Io {
                    attempt: "set the time of",
                    path,
                    source,
                })?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, raw: &[u8], entry: &mut tar::Entry<'_, R>) -> Result<(), Trouble> {
        let entry_type = entry.header().entry_type();
        if entry_type.is_pax_global_extensions() {
            return Ok(());
        }
        let path = inside(raw)?;
        let attributes = attributes(entry)?;
        let Some(name) = path.file_name() else {
            if !entry_type.is_dir() {
                return refuse("the root of a layer is a folder");
            }
            let root = self.root.try_clone()?;
            return self.finish_folder(&root, Path::new(""), &attributes);
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&parent, name.as_bytes(), hidden);
        }
        let real = parent.path.join(name);
        if entry_type.is_dir() {
            let folder = self.make_folder(&parent, name, true)?;
            return self.finish_folder(&folder, &real, &attributes);
        }
        self.clear(&parent, name)?;
        match entry_type {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&parent, name, &real, entry, &attributes)
            }
            EntryType::Symlink => {
                let Some(target) = entry.link_name_bytes() else {
                    return refuse("a symlink without a target");
                };
                symlinkat(OsStr::from_bytes(&target), &parent.folder, name)?;
                finish_node(&parent, name, &attributes, None)
            }
            EntryType::Link => {
                let Some(target) = entry.link_name_bytes() else {
                    return refuse("a hard link without a target");
                };
                self.hard_link(&parent, name, &inside(&target)?)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (kind, device) = match entry_type {
                    EntryType::Fifo => (SFlag::S_IFIFO, 0),
                    EntryType::Block => (SFlag::S_IFBLK, device(entry)?),
                    _ => (SFlag::S_IFCHR, device(entry)?),
                };
                let mode = Mode::from_bits_truncate(attributes.mode);
                mknodat(&parent.folder, name, kind, mode, device)?;
                finish_node(&parent, name, &attributes, Some(mode))
            }
            other => refuse(format!(
                "entries of type {:?} are not known",
                char::from(other.as_byte())
            )),
        }
    }

    /// The folder that an entry's path leads to, made where it is missing.
    fn parent(&mut self, path: &Path) -> Result<Place, Trouble> {
        if let Some((last, place)) = &self.parent
            && last == path
        {
            return Ok(place.try_clone()?);
        }
        let place = self.walk(path)?;
        self.parent = Some((path.to_owned(), place.try_clone()?));
        Ok(place)
    }

    /// Walks a folder's path as a process in the container would see it: what this layer lacks is looked for in the
    /// layers below, so that a symlink there leads on, and a folder there gives its attributes to ours.
    fn walk(&mut self, path: &Path) -> Result<Place, Trouble> {
        let mut todo: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let root = Place {
            path: PathBuf::new(),
            folder: self.root.try_clone()?,
        };
        let mut stack = vec![root];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_bytes() {
                b"/" => {
                    stack.truncate(1);
                    continue;
                }
                b"." => continue,
                // Only symlinks' targets have them; above the root there is the root.
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let at = stack.last().expect("the root stays");
            let target = match look(at, &name)? {
                Some(stat) if kind(&stat) == SFlag::S_IFLNK => {
                    Some(readlinkat(&at.folder, name.as_os_str())?.into())
                }
                Some(stat) if kind(&stat) == SFlag::S_IFDIR || is_whiteout(&stat) => None,
                Some(_) => return refuse("its parent is not a folder"),
                None => match self.below(&at.path.join(&name))? {
                    Node::Symlink(target) => Some(target),
                    _ => None,
                },
            };
            match target {
                Some(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return refuse("too many symlinks in its path");
                    }
                    for part in target.iter().rev() {
                        todo.push_front(part.to_owned());
                    }
                }
                None => {
                    let folder = self.make_folder(at, &name, false)?;
                    let path = at.path.join(&name);
                    stack.push(Place { path, folder });
                }
            }
        }
        Ok(stack.pop().expect("the root stays"))
    }

    /// What the layers below have at a path without symlinks.
    fn below(&self, path: &Path) -> Result<Node, Trouble> {
        if path
            .ancestors()
            .skip(1)
            .any(|folder| self.opaque.contains(folder))
        {
            return Ok(Node::Absent);
        }
        Ok(self.lower.lookup(path)?)
    }

    /// A folder that is there, or a new one. An entry of its own replaces whatever else is there; a parent that no
    /// entry names takes its attributes from the layers below.
    fn make_folder(&mut self, at: &Place, name: &OsStr, entry: bool) -> Result<OwnedFd, Trouble> {
        let path = at.path.join(name);
        let mut hides = false;
        match look(at, name)? {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => {
                return Ok(open_folder(&at.folder, name)?);
            }
            // Deleted and made anew in one layer: nothing of the old folder may show.
            Some(stat) if is_whiteout(&stat) => {
                unlinkat(&at.folder, name, UnlinkatFlags::NoRemoveDir)?;
                hides = true;
            }
            Some(_) if entry => unlinkat(&at.folder, name, UnlinkatFlags::NoRemoveDir)?,
            Some(_) => return refuse("its parent is not a folder"),
            None => {}
        }
        let inherited = match if entry || hides {
            Node::Absent
        } else {
            self.below(&path)?
        } {
            Node::Folder(folder) => Some(stat(&folder)?),
            _ => None,
        };
        mkdirat(&at.folder, name, Mode::from_bits_truncate(0o755))?;
        let folder = open_folder(&at.folder, name)?;
        fchmod(&folder, Mode::from_bits_truncate(0o755))?;
        if let Some(stat) = inherited {
            fchown(
                &folder,
                Some(Uid::from_raw(stat.st_uid)),
                Some(Gid::from_raw(stat.st_gid)),
            )?;
            fchmod(&folder, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
            self.folders.push((path.clone(), stat.st_mtime));
        }
        if hides {
            self.make_opaque(&folder, &path)?;
        }
        Ok(folder)
    }

    fn make_opaque(&mut self, folder: &OwnedFd, path: &Path) -> Result<(), Trouble> {
        xattr::set(folder.as_fd(), OPAQUE, b"y").map_err(|error| error.errno)?;
        self.opaque.insert(path.to_owned());
        Ok(())
    }

    fn finish_folder(
        &mut self,
        folder: &OwnedFd,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), Trouble> {
        finish_open(folder, attributes)?;
        self.folders.push((path.to_owned(), attributes.mtime));
        Ok(())
    }

    fn set_folder_time(&self, path: &Path, mtime: i64) -> io::Result<()> {
        let time = TimeSpec::new(mtime, 0);
        if path.as_os_str().is_empty() {
            return Ok(futimens(&self.root, &time, &time)?);
        }
        // It may have been replaced since, by something else or by nothing.
        let flags = UtimensatFlags::NoFollowSymlink;
        match utimensat(&self.root, path, &time, &time, flags) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes room for a new node: a later entry replaces an earlier one.
    fn clear(&mut self, at: &Place, name: &OsStr) -> Result<(), Trouble> {
        match look(at, name)? {
            None => Ok(()),
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => {
                self.parent = None;
                // Through the descriptor, so that it is this folder whatever its path is.
                let path = PathBuf::from(format!("/proc/self/fd/{}", at.folder.as_raw_fd()));
                Ok(std::fs::remove_dir_all(path.join(name))?)
            }
            Some(_) => Ok(unlinkat(&at.folder, name, UnlinkatFlags::NoRemoveDir)?),
        }
    }

    fn whiteout(&mut self, at: &Place, mark: &[u8], hidden: &[u8]) -> Result<(), Trouble> {
        if mark == OPAQUE_MARK {
            let folder = at.folder.try_clone()?;
            return self.make_opaque(&folder, &at.path);
        }
        // aufs' own bookkeeping.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return refuse("a whiteout of nothing");
        }
        let name = OsStr::from_bytes(hidden);
        match look(at, name)? {
            // The layer has a new one already, which hides the old one unless both are folders.
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => {
                let folder = open_folder(&at.folder, name)?;
                self.make_opaque(&folder, &at.path.join(name))
            }
            Some(_) => Ok(()),
            None => Ok(mknodat(&at.folder, name, SFlag::S_IFCHR, Mode::empty(), 0)?),
        }
    }

    fn file<R: Read>(
        &mut self,
        at: &Place,
        name: &OsStr,
        real: &Path,
        entry: &mut tar::Entry<'_, R>,
        attributes: &Attributes,
    ) -> Result<(), Trouble> {
        let size = entry.size();
        let mut file = create(at, name)?;
        // A sparse entry's content isn't what the archive holds, so it stays among the records.
        let by_reference = entry.header().entry_type() != EntryType::GNUSparse;
        if by_reference {
            self.split.borrow_mut().content(real, size)?;
        }
        let copied = copy_content(entry, &mut file, by_reference)?;
        self.split.borrow_mut().content_ended();
        if copied != size {
            return Err(Trouble::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        self.bytes += size;
        let file = file.into();
        finish_open(&file, attributes)?;
        let time = TimeSpec::new(attributes.mtime, 0);
        Ok(futimens(&file, &time, &time)?)
    }

    fn hard_link(&mut self, at: &Place, name: &OsStr, target: &Path) -> Result<(), Trouble> {
        let Some(target_name) = target.file_name() else {
            return refuse("a hard link to the layer's root");
        };
        let from = self.walk(target.parent().unwrap_or(Path::new("")))?;
        match look(&from, target_name)? {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => refuse("a hard link to a folder"),
            Some(stat) if is_whiteout(&stat) => refuse("a hard link to something deleted"),
            Some(_) => {
                linkat(
                    &from.folder,
                    target_name,
                    &at.folder,
                    name,
                    AtFlags::empty(),
                )?;
                Ok(())
            }
            None => self.copy_up(&from.path.join(target_name), at, name),
        }
    }

    /// A hard link to a file of a layer below becomes a copy of it, as writing to it would make one.
    fn copy_up(&mut self, path: &Path, at: &Place, name: &OsStr) -> Result<(), Trouble> {
        match self.below(path)? {
            Node::Other {
                dir,
                name: from,
                stat,
            } if kind(&stat) == SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut source = File::from(openat(&dir, from.as_os_str(), flags, Mode::empty())?);
                let mut file = create(at, name)?;
                self.bytes += io::copy(&mut source, &mut file)?;
                let capability = xattr::get(source.as_fd(), "security.capability")
                    .map_err(|error| error.errno)?;
                let attributes = Attributes {
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                    mode: stat.st_mode & 0o7777,
                    mtime: stat.st_mtime,
                    xattrs: capability
                        .map(|value| ("security.capability".to_owned(), value))
                        .into_iter()
                        .collect(),
                };
                let file = file.into();
                finish_open(&file, &attributes)?;
                let time = TimeSpec::new(stat.st_mtime, 0);
                Ok(futimens(&file, &time, &time)?)
            }
            _ => refuse(format!(
                "a hard link to {}, which isn't there",
                path.display()
            )),
        }
    }
}

/// An entry's path below the layer's folder; `..` is refused, because no archive needs it.
fn inside(raw: &[u8]) -> Result<PathBuf, Trouble> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return refuse("a path with .."),
            Component::Prefix(_) => unreachable!("Unix has no prefixes"),
        }
    }
    if raw.contains(&0) {
        return refuse("a path with a zero byte");
    }
    Ok(path)
}

fn look(at: &Place, name: &OsStr) -> Result<Option<FileStat>, Trouble> {
    match fstatat(&at.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A new file, readable by nobody until it has its owner.
fn create(at: &Place, name: &OsStr) -> Result<File, Trouble> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(&at.folder, name, flags, Mode::from_bits_truncate(0o600))?.into())
}

/// Copies to the end. Of what isn't `dense`, zeros stay holes: a small archive must not fill the disk with them.
fn copy_content(from: &mut impl Read, to: &mut File, dense: bool) -> Result<u64, Trouble> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                if !dense {
                    to.set_len(copied)?;
                }
                return Ok(copied);
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Trouble::Source(error)),
        };
        if !dense && buffer[..read].iter().all(|byte| *byte == 0) {
            to.seek_relative(i64::try_from(read).expect("a buffer's length"))?;
        } else {
            to.write_all(&buffer[..read])?;
        }
        copied += read as u64;
    }
}

/// Owner, then attributes and mode: changing the owner takes setuid and capabilities away.
fn finish_open(fd: &OwnedFd, attributes: &Attributes) -> Result<(), Trouble> {
    fchown(
        fd,
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )?;
    fchmod(fd, Mode::from_bits_truncate(attributes.mode))?;
    for (name, value) in &attributes.xattrs {
        match xattr::set(fd.as_fd(), name, value).map_err(|error| error.errno) {
            Ok(()) => {}
            // Users' attributes are hints, and not every file system takes them.
            Err(Errno::ENOTSUP | Errno::EPERM) if name.starts_with("user.") => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The same for what can't be opened: symlinks and devices, whose attributes nobody uses.
fn finish_node(
    at: &Place,
    name: &OsStr,
    attributes: &Attributes,
    mode: Option<Mode>,
) -> Result<(), Trouble> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    fchownat(
        &at.folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if let Some(mode) = mode {
        // A device or FIFO that was just made here; there is no symlink to follow.
        fchmodat(
            &at.folder,
            name,
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
    }
    let time = TimeSpec::new(attributes.mtime, 0);
    Ok(utimensat(
        &at.folder,
        name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Attributes, Trouble> {
    let header = entry.header();
    let mut uid = header.uid().map_err(Trouble::Source)?;
    let mut gid = header.gid().map_err(Trouble::Source)?;
    let mode = header.mode().map_err(Trouble::Source)? & 0o7777;
    let mut mtime = header.mtime().map_err(Trouble::Source)? as i64;
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions().map_err(Trouble::Source)? {
        for extension in extensions {
            let extension = extension.map_err(Trouble::Source)?;
            let number = || {
                extension
                    .value()
                    .ok()
                    .and_then(|value| value.parse::<u64>().ok())
            };
            match extension.key_bytes() {
                b"uid" => uid = number().unwrap_or(u64::MAX),
                b"gid" => gid = number().unwrap_or(u64::MAX),
                b"mtime" => {
                    let whole = extension
                        .value()
                        .ok()
                        .and_then(|value| value.split('.').next());
                    mtime = whole.and_then(|whole| whole.parse().ok()).unwrap_or(mtime);
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                        && let Ok(name) = std::str::from_utf8(name)
                        // trusted.* would be overlayfs' own, and the rest of security.* this machine's policy.
                        && (name.starts_with("user.") || name == "security.capability")
                    {
                        xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                    }
                }
            }
        }
    }
    // A larger number would wrap to some other user, root at worst.
    let id = |id: u64| match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => refuse(format!("the user or group id {id} is out of range")),
    };
    Ok(Attributes {
        uid: id(uid)?,
        gid: id(gid)?,
        mode,
        mtime,
        xattrs,
    })
}

fn device<R: Read>(entry: &tar::Entry<'_, R>) -> Result<u64, Trouble> {
    let header = entry.header();
    let number = |part: io::Result<Option<u32>>| match part {
        Ok(Some(number)) => Ok(u64::from(number)),
        _ => refuse("a device without a number"),
    };
    Ok(makedev(
        number(header.device_major())?,
        number(header.device_minor())?,
    ))
}
