//! One mount of the plan at its place. Runs in the child, in its own mount namespace, before the pivot.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{
    ContainerPlan, MountFlags, MountPlan, MountSource, NamespaceOf, Propagation, SourceLink,
};
use kernelet_sys::{
    SysError,
    mount::{self, Locks},
    root::{self, Symlinks},
};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{
    CgroupView, CreateError, ErrorKind, cgroup_mounts, copy_up, dev, error::During,
    sources::is_symlink,
};

/// What every mount of a container is made against.
pub(crate) struct Mounter<'a> {
    pub root: BorrowedFd<'a>,
    pub plan: &'a ContainerPlan,
    pub cgroups: &'a CgroupView,
}

/// Of the mounts into a container with a user namespace of its own, what the host has set stays.
pub(crate) fn locks(plan: &ContainerPlan) -> Locks {
    match plan.namespaces.user {
        NamespaceOf::Host => Locks::None,
        _ => Locks::Kept,
    }
}

impl Mounter<'_> {
    fn label(&self) -> Option<&str> {
        self.plan.root.mount_label.as_deref()
    }

    /// `source`: what was opened for it where the host is visible.
    pub(crate) fn add(
        &self,
        mount: &MountPlan,
        source: Option<OwnedFd>,
    ) -> Result<(), CreateError> {
        let mounted = match &mount.source {
            MountSource::Cgroup => return cgroup_mounts::add(self, mount),
            MountSource::Remount { bind, options } => return self.remount(mount, *bind, options),
            MountSource::Root { path, recursive } => {
                self.own_place(mount, path, *recursive, source)?
            }
            MountSource::Host { .. } | MountSource::Volume { .. } | MountSource::PodShm => source
                .ok_or_else(
                || CreateError::new(ErrorKind::Invalid, "its source was not handed over"),
            )?,
            own => match source {
                Some(made) => made,
                None => self.open_own(mount, own)?,
            },
        };
        if mount.extra.source_link == SourceLink::Copied && is_symlink(mounted.as_fd())? {
            return self.symlink(mount, mounted);
        }
        let place = self.place(mount, root::is_folder(mounted.as_fd())?)?;
        if mount.extra.copy_up {
            copy_up::copy(place.as_fd(), mounted.as_fd())
                .during(|| "copy what is there (tmpcopyup)".into())?;
            if mount.flags.read_only {
                mount::set_read_only(mounted.as_fd())?;
            }
        }
        Ok(mount::attach(mounted.as_fd(), place.as_fd())?)
    }

    /// procfs and sysfs at a symlink of the image would be somewhere else than everybody believes.
    pub(crate) fn place(&self, mount: &MountPlan, folder: bool) -> Result<OwnedFd, CreateError> {
        let kernels = match &mount.source {
            MountSource::Proc => Some("proc"),
            MountSource::Sysfs => Some("sysfs"),
            MountSource::Filesystem { fs_type, .. } if fs_type == "proc" || fs_type == "sysfs" => {
                Some(fs_type.as_str())
            }
            _ => None,
        };
        let destination = &mount.destination;
        if let Some(name) = kernels {
            return match root::folder(self.root, destination, Symlinks::Refused) {
                Err(e) if matches!(e.errno, Errno::ELOOP | Errno::ENOTDIR) => {
                    let what = format!("filesystem {name:?} must be mounted on ordinary directory");
                    Err(SysError::new(what, e.errno).into())
                }
                other => Ok(other?),
            };
        }
        let symlinks = Symlinks::Inside;
        Ok(match folder {
            _ if mount.extra.destination_no_follow => {
                match root::place_itself(self.root, destination, symlinks) {
                    // A folder doesn't fit over the file that was made for it.
                    Ok(place) if folder && !root::is_folder(place.as_fd())? => {
                        return Err(SysError::new("mount a folder there", Errno::ENOTDIR).into());
                    }
                    other => other?,
                }
            }
            true => root::folder(self.root, destination, symlinks)?,
            false => root::file_place(self.root, destination, symlinks)?,
        })
    }

    /// A bind of what the container has by now. A symlink in it leads nowhere but inside.
    fn own_place(
        &self,
        mount: &MountPlan,
        path: &Path,
        recursive: bool,
        ids: Option<OwnedFd>,
    ) -> Result<OwnedFd, CreateError> {
        let source = root::open_in(self.root, path, OFlag::O_PATH, 0, Symlinks::Inside)?;
        let copy = mount::copy_tree(source.as_fd(), recursive)?;
        if let (Some(map), Some(ids)) = (&mount.extra.id_map, ids) {
            mount::set_id_map(copy.as_fd(), ids.as_fd(), map.recursive)?;
        }
        let (propagation, locks) = (mount.propagation, locks(self.plan));
        mount::set_attributes_with(copy.as_fd(), mount.flags, propagation, locks)?;
        Ok(copy)
    }

    /// The container gets a symlink with the same text (`copy-symlink`). One that is there with it stays.
    fn symlink(&self, mount: &MountPlan, source: OwnedFd) -> Result<(), CreateError> {
        let text = nix::fcntl::readlinkat(&source, c"")
            .map_err(|e| SysError::new("read the source's symlink", e))?;
        let (Some(parent), Some(name)) =
            (mount.destination.parent(), mount.destination.file_name())
        else {
            return Err(CreateError::new(ErrorKind::Invalid, "it has no name"));
        };
        let dir = root::folder(self.root, parent, Symlinks::Inside)?;
        match nix::unistd::symlinkat(text.as_os_str(), &dir, name) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) if nix::fcntl::readlinkat(&dir, name).as_ref() == Ok(&text) => {
                Ok(())
            }
            Err(e) => Err(SysError::new("make the symlink", e).into()),
        }
    }

    /// Other attributes for what is mounted there already.
    fn remount(
        &self,
        mount: &MountPlan,
        bind: bool,
        options: &[(String, Option<String>)],
    ) -> Result<(), CreateError> {
        let symlinks = Symlinks::Inside;
        let place = root::open_in(self.root, &mount.destination, OFlag::O_PATH, 0, symlinks)?;
        if !bind {
            mount::fs_pick(place.as_fd())?.reconfigure(mount.flags, options)?;
        }
        let flags = MountFlags {
            replace: true,
            ..mount.flags
        };
        let (propagation, locks) = (mount.propagation, locks(self.plan));
        Ok(mount::set_attributes_with(
            place.as_fd(),
            flags,
            propagation,
            locks,
        )?)
    }

    /// File systems of the kernel's, made for this container alone.
    fn open_own(&self, mount: &MountPlan, source: &MountSource) -> Result<OwnedFd, CreateError> {
        let mut flags = mount.flags;
        // What is copied or made in it comes first.
        if mount.extra.copy_up || mount.destination == Path::new("/dev") {
            flags.read_only = false;
        }
        let made = self.make(mount, source, flags)?;
        let more = !flags.recursive_set.is_empty() || !flags.recursive_clear.is_empty();
        if more || flags.recursive_read_only || mount.propagation != Propagation::Private {
            mount::set_attributes(made.as_fd(), flags, mount.propagation)?;
        }
        Ok(made)
    }

    fn make(
        &self,
        mount: &MountPlan,
        source: &MountSource,
        flags: MountFlags,
    ) -> Result<OwnedFd, CreateError> {
        let simple = |name: &str| -> Result<OwnedFd, CreateError> {
            let fs = mount::fs_open(name)?;
            fs.set("source", name)?;
            Ok(fs.mount(flags)?)
        };
        let labelled = |fs: &mount::FsContext| -> Result<(), CreateError> {
            match self.label() {
                None => Ok(()),
                Some(label) => fs
                    .set("context", label)
                    .during(|| "linux.mountLabel".to_owned()),
            }
        };
        match source {
            MountSource::Proc => simple("proc"),
            MountSource::Sysfs => simple("sysfs"),
            MountSource::Mqueue => simple("mqueue"),
            MountSource::Devpts => {
                let fs = mount::fs_open("devpts")?;
                fs.set("source", "devpts")?;
                fs.set("ptmxmode", "0666")?;
                fs.set("mode", "0620")?;
                fs.set("gid", "5")?;
                labelled(&fs)?;
                Ok(fs.mount(flags)?)
            }
            MountSource::Dev => dev::filled(flags, self.label(), self.plan.terminal),
            MountSource::Tmpfs {
                size_bytes,
                mode,
                uid,
                gid,
            } => Ok(mount::tmpfs(*size_bytes, *mode, (*uid, *gid), flags)?),
            MountSource::Filesystem {
                fs_type,
                source,
                options,
            } => {
                let fs = mount::fs_open(fs_type)?;
                fs.set("source", source)?;
                if fs_type == "tmpfs" && !options.iter().any(|(key, _)| key == "mode") {
                    self.mode_of_place(mount, &fs)?;
                }
                // A device that can't be written to can't be mounted for writing either.
                if flags.read_only && source.starts_with('/') {
                    fs.flag("ro")?;
                }
                fs.options(options)?;
                if !matches!(fs_type.as_str(), "proc" | "sysfs" | "mqueue") {
                    labelled(&fs)?;
                }
                Ok(fs.mount(flags)?)
            }
            MountSource::Host { .. }
            | MountSource::Volume { .. }
            | MountSource::PodShm
            | MountSource::Root { .. }
            | MountSource::Remount { .. }
            | MountSource::Cgroup => Err(CreateError::new(
                ErrorKind::Invalid,
                "is not a file system of the kernel's",
            )),
        }
    }

    /// A tmpfs without a mode takes that of the folder it covers, as other runtimes have it.
    fn mode_of_place(&self, mount: &MountPlan, fs: &mount::FsContext) -> Result<(), CreateError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let path = &mount.destination;
        let Ok(place) = root::open_in(self.root, path, flags, 0, Symlinks::Inside) else {
            return Ok(());
        };
        let stat = nix::sys::stat::fstat(&place)
            .map_err(|e| SysError::new("look at the mount's place", e))?;
        Ok(fs.set("mode", &format!("{:04o}", stat.st_mode & 0o7777))?)
    }
}
