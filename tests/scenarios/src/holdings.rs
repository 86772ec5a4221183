//! What one instance holds for its pods, seen from outside of it: compared with what it held before they came.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::Machine;

impl Machine {
    /// Everything that a pod can leave behind, as lines: cgroups, processes, mounts, folders, links, routes, pins.
    /// Only of this instance, whatever else goes on on the host.
    pub fn holdings(&self) -> BTreeSet<String> {
        let id = self.instance_id();
        let mut held = BTreeSet::new();
        let mut dirs = Vec::new();
        walk(Path::new("/sys/fs/cgroup"), &mut |path| {
            dirs.push(path.display().to_string())
        });
        held.extend(
            dirs.into_iter()
                .filter(|path| path.contains(&id))
                .map(|path| format!("cgroup {path}")),
        );
        for process in self.pod_processes(&id) {
            held.insert(format!("process {process}"));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        held.extend(
            mounts
                .lines()
                .filter(|line| {
                    line.contains(&id) || line.contains(&*self.data_dir().to_string_lossy())
                })
                .map(|line| format!("mount {line}")),
        );
        for dir in [
            self.data_dir().join("pods"),
            self.run_dir().join("pods"),
            self.log_dir().join("pods"),
        ] {
            held.extend(children(&dir).map(|path| format!("folder {}", path.display())));
        }
        let network = self.sh("ip -o link | cut -d: -f2; ip route; ip rule").ok();
        held.extend(
            network
                .lines()
                .map(|line| format!("network {}", line.trim())),
        );
        walk(&Path::new("/sys/fs/bpf/kernelet").join(&id), &mut |path| {
            held.insert(format!("pin {}", path.display()));
        });
        held
    }

    /// How many namespaces the program holds open.
    pub fn namespaces_held(&self) -> usize {
        let Some(pid) = self.pid() else { return 0 };
        children(Path::new(&format!("/proc/{pid}/fd")))
            .filter_map(|fd| fs::read_link(fd).ok())
            .filter(|target| {
                let target = target.to_string_lossy();
                ["net:[", "mnt:[", "pid:[", "ipc:[", "uts:["]
                    .iter()
                    .any(|kind| target.starts_with(kind))
            })
            .count()
    }

    /// `<pid> <name>` of every process in a cgroup whose path has `text`, an instance's id or a pod's uid.
    pub fn pod_processes(&self, text: &str) -> Vec<String> {
        children(Path::new("/proc"))
            .filter_map(|dir| {
                let pid: i32 = dir.file_name()?.to_str()?.parse().ok()?;
                let cgroup = fs::read_to_string(dir.join("cgroup")).ok()?;
                let comm = fs::read_to_string(dir.join("comm")).ok()?;
                // The dead of a killed program wait in its cgroup for whoever reaps them.
                let stat = fs::read_to_string(dir.join("stat")).ok()?;
                let dead = stat.rsplit(')').next()?.trim_start().starts_with('Z');
                (cgroup.contains(text) && !dead).then(|| format!("{pid} {}", comm.trim()))
            })
            .collect()
    }

    /// The program's process, as its lock names it; `None` when nobody holds the lock: a killed program's first
    /// thread is dead a little before its last one lets go.
    pub fn pid(&self) -> Option<i32> {
        let path = self.run_dir().join("lock");
        let file = fs::File::open(&path).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => None,
            Err(_) => fs::read_to_string(path).ok()?.trim().parse().ok(),
        }
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// Every folder below `dir`, and every pin.
fn walk(dir: &Path, found: &mut impl FnMut(&Path)) {
    let pins = dir.starts_with("/sys/fs/bpf");
    for path in children(dir) {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_dir());
        if is_dir || pins {
            found(&path);
        }
        if is_dir {
            walk(&path, found);
        }
    }
}
