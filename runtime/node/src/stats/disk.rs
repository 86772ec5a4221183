//! What folders take on disk. Counting walks the whole folder, so that a figure is kept for a while.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Upstream's default interval of its volume statistics is one minute; a busy page mustn't walk more often than that.
const KEEP: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

/// The figures that are still good.
#[derive(Debug, Default)]
pub(crate) struct Disks(Mutex<HashMap<PathBuf, (Instant, Used)>>);

impl Disks {
    /// What stands below `dir`, links counted where they stand. Blocks: not for the async runtime's threads.
    pub fn used(&self, dir: &Path) -> Used {
        let now = Instant::now();
        let known = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|_, (at, _)| now.duration_since(*at) < KEEP);
            kept.get(dir).map(|(_, used)| *used)
        };
        known.unwrap_or_else(|| {
            let used = walk(dir);
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(dir.to_owned(), (now, used));
            used
        })
    }
}

fn walk(dir: &Path) -> Used {
    let mut used = Used::default();
    let mut dirs = vec![dir.to_path_buf()];
    let Ok(root) = dir.symlink_metadata() else {
        return used;
    };
    let device = root.dev();
    used.bytes += root.blocks() * 512;
    used.inodes += 1;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            // What is mounted there is counted where it belongs.
            if meta.dev() != device {
                continue;
            }
            used.bytes += meta.blocks() * 512;
            used.inodes += 1;
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_counted_and_the_figure_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), vec![1; 64 << 10]).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("c")).unwrap();
        let disks = Disks::default();
        let used = disks.used(dir.path());
        assert_eq!(used.inodes, 4);
        assert!((64 << 10..256 << 10).contains(&used.bytes), "{used:?}");
        std::fs::write(dir.path().join("d"), "more").unwrap();
        assert_eq!(disks.used(dir.path()), used);
        assert_eq!(walk(&dir.path().join("nowhere")), Used::default());
    }
}
