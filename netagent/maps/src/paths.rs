//! Where things are pinned, the bpf file system under it, and the cgroup2 root the hooks attach to.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use kernelet_ebpf_abi::SCHEMA;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use crate::LoadError;

const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// `/sys/fs/bpf/kernelet/<id>`: all schemas of one instance.
pub fn instance(instance_id: &str) -> PathBuf {
    Path::new(BPFFS).join("kernelet").join(instance_id)
}

/// `/sys/fs/bpf/kernelet/<id>/<schema>`.
pub fn pins(instance_id: &str) -> PathBuf {
    instance(instance_id).join(SCHEMA.to_string())
}

/// Whether `ensure_bpffs` had to mount it: then purge unmounts it when nobody else's pins are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    WasThere,
    MountedByUs,
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == FsType(BPF_FS_MAGIC))
}

pub(crate) fn ensure_bpffs() -> Result<Bpffs, LoadError> {
    if is_bpffs() {
        return Ok(Bpffs::WasThere);
    }
    let error = |source: io::Error| LoadError::MountBpffs {
        path: BPFFS.into(),
        source,
    };
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
    Ok(Bpffs::MountedByUs)
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

/// Removes the instance's pins (programs and maps live on only while something else holds them) and,
/// if it was ours and nobody else uses it, the bpf file system's mount.
pub fn purge(instance_id: &str, bpffs: Bpffs) -> Vec<String> {
    let mut errors = Vec::new();
    if !is_bpffs() {
        return errors;
    }
    let mut note = |what: &str, path: &Path, result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            errors.push(format!("{what} {}: {error}", path.display()));
        }
        _ => {}
    };
    let path = instance(instance_id);
    // Links first: they are what makes the programs run.
    if let Ok(schemas) = fs::read_dir(&path) {
        for schema in schemas.flatten() {
            let links = schema.path().join("links");
            note("remove the pins", &links, fs::remove_dir_all(&links));
        }
    }
    note("remove the pins", &path, fs::remove_dir_all(&path));
    let shared = Path::new(BPFFS).join("kernelet");
    // Other instances' pins keep it.
    let _ = fs::remove_dir(&shared);
    if bpffs == Bpffs::MountedByUs && fs::read_dir(BPFFS).is_ok_and(|mut all| all.next().is_none())
    {
        let result = nix::mount::umount(BPFFS).map_err(io::Error::from);
        note("unmount", Path::new(BPFFS), result);
    }
    errors
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
