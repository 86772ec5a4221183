//! Volume content that changes all at once: the kubelet's `..data` symlink.
//!
//! ```text
//! volume/key          -> ..data/key
//! volume/..data       -> ..2026_11_21_09_01_26.123456789      swapped by rename
//! volume/..2026_…/key    the bytes
//! ```
//! A reader that opened `..data` before the swap goes on reading the old files; they are removed after it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use kernelet_pod_plan::project::Payload;

/// Whose the files are. `None`: root's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub uid: Option<u32>,
    /// `fsGroup`: the group that may read, whatever the mode says.
    pub gid: Option<u32>,
}

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the volume at `root` hold exactly `payload`; true when anything changed. `root` may be a
/// `/proc/self/fd/<n>` path of a volume that only the shim's mount namespace shows.
pub(crate) fn write(
    root: &Path,
    payload: &Payload,
    owner: Ownership,
    now: Timestamp,
) -> io::Result<bool> {
    let old = fs::read_link(root.join(DATA)).ok();
    if old
        .as_ref()
        .is_some_and(|old| holds(&root.join(old), payload, owner))
    {
        return Ok(false);
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.%f").to_string();
    let fresh = root.join(&stamp);
    let made = fill(&fresh, payload, owner);
    if let Err(error) = made {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    let tmp = root.join(DATA_NEW);
    let _ = fs::remove_file(&tmp);
    symlink(&stamp, &tmp)?;
    own_link(&tmp, owner)?;
    fs::rename(&tmp, root.join(DATA))?;
    // What users see: one link per first path component; made after the swap, so that none dangles.
    let visible: BTreeSet<&str> = payload
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &visible {
        let link = root.join(name);
        let target = PathBuf::from(DATA).join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            let _ = fs::remove_file(&link);
            symlink(&target, &link)?;
            own_link(&link, owner)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let ours = text == DATA || text == stamp || visible.contains(text);
        if ours {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)?
        } else {
            fs::remove_file(&path)?
        }
    }
    Ok(true)
}

fn fill(dir: &Path, payload: &Payload, owner: Ownership) -> io::Result<()> {
    make_dir(dir, owner)?;
    for (path, content) in payload {
        let full = dir.join(path);
        if let Some(parent) = Path::new(path).parent() {
            let mut below = dir.to_path_buf();
            for part in parent {
                below.push(part);
                if !below.is_dir() {
                    make_dir(&below, owner)?;
                }
            }
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&full)?;
        file.write_all(&content.bytes)?;
        if owner != Ownership::default() {
            chown(&full, owner.uid, owner.gid)?;
        }
        // After chown, which clears some bits, and past the umask.
        file.set_permissions(fs::Permissions::from_mode(mode_of(content.mode, owner)))?;
    }
    Ok(())
}

/// The group gets what the kubelet gives it on a read-only volume.
fn mode_of(mode: u32, owner: Ownership) -> u32 {
    let mode = mode & 0o777;
    if owner.gid.is_some() {
        mode | 0o440
    } else {
        mode
    }
}

fn make_dir(dir: &Path, owner: Ownership) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    if owner.gid.is_some() {
        chown(dir, None, owner.gid)?;
    }
    Ok(())
}

fn own_link(link: &Path, owner: Ownership) -> io::Result<()> {
    if owner == Ownership::default() {
        Ok(())
    } else {
        lchown(link, owner.uid, owner.gid)
    }
}

fn holds(dir: &Path, payload: &Payload, owner: Ownership) -> bool {
    let mut seen = BTreeSet::new();
    let mut dirs = vec![(dir.to_path_buf(), String::new())];
    while let Some((dir, prefix)) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            return false;
        };
        for entry in entries {
            let Ok(entry) = entry else { return false };
            let Ok(name) = entry.file_name().into_string() else {
                return false;
            };
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push((entry.path(), path)),
                Ok(meta) => {
                    let Some(content) = payload.get(&path) else {
                        return false;
                    };
                    let same_mode =
                        meta.permissions().mode() & 0o777 == mode_of(content.mode, owner);
                    if !same_mode || fs::read(entry.path()).ok().as_deref() != Some(&content.bytes)
                    {
                        return false;
                    }
                    seen.insert(path);
                }
                Err(_) => return false,
            }
        }
    }
    seen.len() == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelet_pod_plan::project::FileContent;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| FileContent {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), content(text)))
            .collect()
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + secs).expect("in range")
    }

    #[test]
    fn an_update_swaps_everything_and_leaves_nothing_old() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        let none = Ownership::default();
        assert!(write(root, &payload(&[("a", "1"), ("x/y", "2")]), none, at(0)).expect("first"));
        assert_eq!(fs::read_to_string(root.join("x/y")).expect("readable"), "2");
        assert_eq!(
            fs::metadata(root.join("a"))
                .expect("there")
                .permissions()
                .mode()
                & 0o777,
            0o640
        );
        assert!(
            !write(root, &payload(&[("a", "1"), ("x/y", "2")]), none, at(1)).expect("same"),
            "nothing changed"
        );
        let open_before = fs::File::open(root.join("a")).expect("opens");
        assert!(write(root, &payload(&[("a", "3"), ("b", "4")]), none, at(2)).expect("second"));
        assert_eq!(
            io::read_to_string(open_before).expect("still readable"),
            "1"
        );
        let mut names: Vec<String> = fs::read_dir(root)
            .expect("lists")
            .map(|e| e.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(
            (names[1].as_str(), &names[2..]),
            ("..data", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(fs::read_to_string(root.join("a")).expect("readable"), "3");
        assert!(!root.join("x").exists());
    }

    #[test]
    fn an_empty_payload_is_an_empty_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        write(
            dir.path(),
            &payload(&[("a", "1")]),
            Ownership::default(),
            at(0),
        )
        .expect("first");
        write(dir.path(), &Payload::new(), Ownership::default(), at(1)).expect("emptied");
        assert!(!dir.path().join("a").exists());
    }
}
