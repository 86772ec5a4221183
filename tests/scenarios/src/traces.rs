//! What a machine holds that kernelet could have left behind: compared before and after.

use std::{collections::BTreeSet, fs, path::Path};

/// Everything of the kernel and the file system that must be as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    pub cgroups: BTreeSet<String>,
    pub mounts: BTreeSet<String>,
    pub pins: BTreeSet<String>,
    pub links: BTreeSet<String>,
    pub processes: BTreeSet<String>,
    pub folders: BTreeSet<String>,
    pub namespaces: usize,
}

impl Traces {
    /// Looks at the host; links, routes and nftables of a scenario's machine vanish with its namespace, so `links`
    /// are the host's own.
    pub fn now() -> Self {
        let mut cgroups = BTreeSet::new();
        for hierarchy in children(Path::new("/sys/fs/cgroup")) {
            walk(&hierarchy, &mut cgroups);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut pins = BTreeSet::new();
        walk(Path::new("/sys/fs/bpf"), &mut pins);
        let names = ["kernelet", "shim"];
        let processes: BTreeSet<String> = children(Path::new("/proc"))
            .iter()
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
            })
            .filter_map(|path| Some((path.clone(), fs::read_to_string(path.join("comm")).ok()?)))
            .filter(|(_, comm)| {
                names.iter().any(|name| comm.contains(name)) && !comm.contains("scenar")
            })
            .map(|(path, comm)| format!("{} {}", path.display(), comm.trim()))
            .collect();
        let mut folders = BTreeSet::new();
        for dir in ["/run/kernelet", "/var/log/kernelet"] {
            folders.extend(
                children(Path::new(dir))
                    .iter()
                    .map(|path| path.display().to_string()),
            );
        }
        Self {
            cgroups,
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(4))
                .map(str::to_owned)
                .collect(),
            pins,
            links: children(Path::new("/sys/class/net"))
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            processes,
            folders,
            namespaces: namespaces(),
        }
    }

    /// What is there now that wasn't at `before`, as lines.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let mut new = Vec::new();
        for (what, now, then) in [
            ("cgroup", &self.cgroups, &before.cgroups),
            ("mount", &self.mounts, &before.mounts),
            ("pin", &self.pins, &before.pins),
            ("link", &self.links, &before.links),
            ("process", &self.processes, &before.processes),
            ("folder", &self.folders, &before.folders),
        ] {
            new.extend(now.difference(then).map(|item| format!("{what} {item}")));
        }
        if self.namespaces > before.namespaces {
            new.push(format!(
                "{} network namespaces more",
                self.namespaces - before.namespaces
            ));
        }
        new
    }
}

/// How many network namespaces processes are in.
fn namespaces() -> usize {
    children(Path::new("/proc"))
        .iter()
        .filter_map(|path| fs::read_link(path.join("ns/net")).ok())
        .collect::<BTreeSet<_>>()
        .len()
}

fn children(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Every folder below `dir`, and for a bpffs every pin.
fn walk(dir: &Path, found: &mut BTreeSet<String>) {
    let is_bpf = dir.starts_with("/sys/fs/bpf");
    for path in children(dir) {
        let Ok(kind) = fs::symlink_metadata(&path) else {
            continue;
        };
        if kind.is_dir() {
            found.insert(path.display().to_string());
            walk(&path, found);
        } else if is_bpf {
            found.insert(path.display().to_string());
        }
    }
}
