//! Ids for pods with a user namespace of their own: each pod has 65,536 that are nobody else's.
//!
//! Which pod has which range stands on disk before anything is made with it, a file a range, so that it outlives the
//! agent: running containers have these ids.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use kernelet_spec::{IdMapping, IdMappings};

/// Ids of one pod, 0 up to this in its containers.
const LENGTH: u32 = 1 << 16;
/// The host's own ids are below the first range; the last id of all is no id.
const RANGES: std::ops::Range<u32> = 1..(u32::MAX / LENGTH);
/// Where the host's administrator has given ranges to users.
const GIVEN_TO_USERS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

pub(crate) struct IdRanges {
    dir: PathBuf,
    /// By the range's number: the pod's uid.
    taken: Mutex<BTreeMap<u32, String>>,
}

impl IdRanges {
    /// Reads what pods have from `dir` (made by the first need). A pod without a folder below `pods` is gone, and has
    /// given back what it had.
    pub(crate) fn open(dir: PathBuf, pods: &Path) -> io::Result<Self> {
        let mut taken = BTreeMap::new();
        for entry in list(&dir)? {
            let path = entry?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let uid = fs::read_to_string(&path)?;
            match number {
                // An empty file: killed while it was written, and so before anybody had the range.
                Some(number) if !uid.is_empty() && pods.join(&uid).is_dir() => {
                    taken.insert(number, uid);
                }
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(Self {
            dir,
            taken: Mutex::new(taken),
        })
    }

    /// The pod's ids: the same again for the same pod.
    pub(crate) fn take(&self, uid: &str) -> io::Result<IdMappings> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, _)) = taken.iter().find(|(_, of)| *of == uid) {
            return Ok(mappings(*number));
        }
        let users = GIVEN_TO_USERS.map(|path| fs::read_to_string(path).unwrap_or_default());
        let given: Vec<(u64, u64)> = users.iter().flat_map(|text| ranges(text)).collect();
        let number = RANGES
            .filter(|number| !taken.contains_key(number))
            .find(|number| !given.iter().any(|range| overlaps(*number, *range)))
            .ok_or_else(|| io::Error::other("every range of ids is taken"))?;
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join(number.to_string()), uid)?;
        taken.insert(number, uid.to_owned());
        Ok(mappings(number))
    }

    pub(crate) fn give_back(&self, uid: &str) -> io::Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = taken.iter().find(|(_, of)| *of == uid).map(|(n, _)| *n) else {
            return Ok(());
        };
        fs::remove_file(self.dir.join(number.to_string()))?;
        taken.remove(&number);
        Ok(())
    }
}

fn list(dir: &Path) -> io::Result<Vec<io::Result<fs::DirEntry>>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn mappings(number: u32) -> IdMappings {
    let all = vec![IdMapping {
        container_id: 0,
        host_id: number * LENGTH,
        size: LENGTH,
    }];
    IdMappings {
        uids: all.clone(),
        gids: all,
    }
}

/// First id and count of each line, `user:100000:65536`.
fn ranges(text: &str) -> impl Iterator<Item = (u64, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse());
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    })
}

fn overlaps(number: u32, (first, count): (u64, u64)) -> bool {
    let own = u64::from(number) * u64::from(LENGTH);
    own < first.saturating_add(count) && first < own + u64::from(LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_id(ranges: &IdRanges, uid: &str) -> u32 {
        ranges.take(uid).unwrap().uids[0].host_id
    }

    #[test]
    fn a_pod_has_its_range_until_it_gives_it_back() {
        let root = tempfile::tempdir().unwrap();
        let (dir, pods) = (root.path().join("userns"), root.path().join("pods"));
        fs::create_dir_all(pods.join("a")).unwrap();
        let ranges = IdRanges::open(dir.clone(), &pods).unwrap();
        let (a, b) = (host_id(&ranges, "a"), host_id(&ranges, "b"));
        assert!(a >= LENGTH && b >= a + LENGTH, "{a} {b}");
        assert_eq!(host_id(&ranges, "a"), a);
        // A new agent: `b` has no folder, and was never made.
        fs::write(dir.join("9000"), "").unwrap();
        let ranges = IdRanges::open(dir.clone(), &pods).unwrap();
        assert_eq!(host_id(&ranges, "a"), a);
        assert_eq!(host_id(&ranges, "c"), b);
        ranges.give_back("a").unwrap();
        ranges.give_back("a").unwrap();
        assert_eq!(host_id(&ranges, "d"), a);
        assert!(!dir.join("9000").exists());
    }

    #[test]
    fn what_users_have_is_left_to_them() {
        let given: Vec<_> = ranges("me:100000:65536\n# no\nyou:bad:1\nit:300000:1\n").collect();
        assert_eq!(given, [(100_000, 65_536), (300_000, 1)]);
        let free: Vec<u32> = (1..6)
            .filter(|number| !given.iter().any(|range| overlaps(*number, *range)))
            .collect();
        assert_eq!(free, [3, 5]);
    }
}
