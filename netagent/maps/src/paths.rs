//! Where things are pinned, the bpf file system under it, and the cgroup2 root the hooks attach to.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use kernelet_ebpf_abi::SCHEMA;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use crate::LoadError;

const BPFFS: &str = "/sys/fs/bpf";
const SHARED: &str = "/run/kernelet/bpffs";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// `/sys/fs/bpf/kernelet/<id>`: all schemas of one instance.
pub fn instance(instance_id: &str) -> PathBuf {
    Path::new(BPFFS).join("kernelet").join(instance_id)
}

/// `/sys/fs/bpf/kernelet/<id>/<schema>`.
pub fn pins(instance_id: &str) -> PathBuf {
    instance(instance_id).join(SCHEMA.to_string())
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == FsType(BPF_FS_MAGIC))
}

/// What all instances of the machine share, under a lock: whether the bpf file system's mount is ours
/// (then whoever purges last unmounts it), and the folder that all instances' pins are in.
struct Shared {
    file: Flock<File>,
}

impl Shared {
    fn lock() -> io::Result<Self> {
        fs::create_dir_all("/run/kernelet")?;
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(SHARED)?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        Ok(Self { file })
    }

    fn mounted_by_us(&self) -> bool {
        fs::read_to_string(SHARED).is_ok_and(|text| text.contains("mounted"))
    }

    fn note_mounted(&mut self) -> io::Result<()> {
        self.file.write_all(b"mounted\n")
    }
}

/// Mounts the bpf file system if it isn't there, and makes `folder` in it.
pub(crate) fn make_pins(folder: &Path) -> Result<(), LoadError> {
    let error = |source: io::Error| LoadError::MountBpffs {
        path: BPFFS.into(),
        source,
    };
    let mut shared = Shared::lock()
        .map_err(|source| LoadError::step(format!("take the lock {SHARED}"), source))?;
    if !is_bpffs() {
        if hidden() {
            return Err(LoadError::Hidden { path: BPFFS.into() });
        }
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .map_err(|errno| error(errno.into()))?;
        shared.note_mounted().map_err(error)?;
    }
    fs::create_dir_all(folder)
        .map_err(|source| LoadError::step(format!("make {}", folder.display()), source))
}

/// A fresh `/sys` was mounted over the machine's (`ip netns exec`): pid 1 sees a cgroup2 file system
/// below `/sys` and this process doesn't.
fn hidden() -> bool {
    let below_sys = |mounts: &str| {
        mounts.lines().any(|line| {
            let mut fields = line.split(' ');
            fields
                .nth(4)
                .is_some_and(|path| path.starts_with("/sys/fs/cgroup"))
        })
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    below_sys(&read("/proc/1/mountinfo")) && !below_sys(&read("/proc/self/mountinfo"))
}

/// The true root of the cgroup2 hierarchy: hooks on a subtree would miss sockets made outside of it,
/// every process of the host among them.
pub(crate) fn cgroup2_root() -> Result<File, LoadError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| LoadError::step("read /proc/self/mountinfo", source))?;
    for line in mounts.lines() {
        let Some((mount, rest)) = line.split_once(" - ") else {
            continue;
        };
        if !rest.starts_with("cgroup2 ") {
            continue;
        }
        let Some(path) = mount.split(' ').nth(4) else {
            continue;
        };
        let path = Path::new(path);
        // Only the root has no `cgroup.events`.
        if !path.join("cgroup.events").exists() && path.join("cgroup.procs").exists() {
            return File::open(path).map_err(|source| {
                LoadError::step(format!("open the cgroup2 root {}", path.display()), source)
            });
        }
    }
    Err(if hidden() {
        LoadError::Hidden {
            path: "/sys/fs/cgroup".into(),
        }
    } else {
        LoadError::NoCgroup2
    })
}

/// Removes the instance's pins (programs and maps live on only while something else holds them); with
/// the last instance's, the bpf file system's mount goes too, if it was ours and nobody else uses it.
pub fn purge(instance_id: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |what: &str, path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            errors.push(format!("{what} {}: {error}", path.display()));
        }
        _ => {}
    };
    let shared = match Shared::lock() {
        Ok(shared) => shared,
        Err(error) => return vec![format!("take the lock {SHARED}: {error}")],
    };
    let all = Path::new(BPFFS).join("kernelet");
    if is_bpffs() {
        let path = instance(instance_id);
        // Links first: they are what makes the programs run.
        if let Ok(schemas) = fs::read_dir(&path) {
            for schema in schemas.flatten() {
                let links = schema.path().join("links");
                note("remove the pins", &links, fs::remove_dir_all(&links));
            }
        }
        note("remove the pins", &path, fs::remove_dir_all(&path));
        // Other instances' pins keep it.
        let _ = fs::remove_dir(&all);
    }
    if !all.exists() {
        let empty = || fs::read_dir(BPFFS).is_ok_and(|entries| entries.flatten().all(is_kernels));
        if shared.mounted_by_us() && is_bpffs() && empty() {
            let result = nix::mount::umount(BPFFS).map_err(io::Error::from);
            note("unmount", Path::new(BPFFS), result);
        }
        note("remove", Path::new(SHARED), fs::remove_file(SHARED));
        // Only when nothing else of ours is in it.
        let _ = fs::remove_dir("/run/kernelet");
    }
    errors
}

/// The entries that the kernel itself puts into every bpf file system.
fn is_kernels(entry: fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().ends_with(".debug")
}

/// The uplinks that the instance's maps name.
pub fn uplinks(instance_id: &str) -> Vec<u32> {
    crate::tables::uplinks(&pins(instance_id))
        .ok()
        .and_then(|uplinks| uplinks.all().ok())
        .unwrap_or_default()
        .into_iter()
        .map(|(ifindex, _)| ifindex)
        .collect()
}
