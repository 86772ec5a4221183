//! Compiled seccomp filters, kept between runs of this program.
//!
//! A file is named by a hash of what it was compiled from and holds that whole beside the filter, so that two profiles
//! with one hash never get each other's. The folder is in the state folder, which no container sees; a file that isn't
//! this user's alone to write is not read. Whatever goes wrong with a file, the filter is compiled.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Result;
use kernelet_spec::ProcessPlan;
use kernelet_sys::seccomp::{self, Filter};
use nix::libc;

use crate::cli::Global;

/// Profiles come from users: beyond so many, all go and are compiled again.
const MOST: usize = 64;
/// Larger than any file of ours.
const MOST_BYTES: u64 = 1 << 20;

/// The filter of a process's plan; `None`: unconfined.
pub fn filter_for(global: &Global, process: &ProcessPlan) -> Result<Option<Filter>> {
    let Some(profile) = seccomp::profile_of(&process.seccomp, process.capabilities.bounding) else {
        return Ok(None);
    };
    let Ok(key) = key(&profile) else {
        return Ok(Some(seccomp::compile(&profile)?));
    };
    let dir = global.root.join(".seccomp");
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let path = dir.join(format!("{:016x}", hasher.finish()));
    if let Some(filter) = read(&path, &key) {
        return Ok(Some(filter));
    }
    let filter = seccomp::compile(&profile)?;
    // Best effort: it was compiled.
    let _ = write(&dir, &path, &key, &filter);
    Ok(Some(filter))
}

/// All that the filter follows from: the profile, and the program that compiles it.
fn key(profile: &kernelet_spec::SeccompProfile) -> Result<Vec<u8>> {
    let program = fs::metadata("/proc/self/exe")?;
    let program = (
        program.dev(),
        program.ino(),
        program.size(),
        program.mtime(),
        program.mtime_nsec(),
    );
    Ok(postcard::to_stdvec(&(program, profile))?)
}

/// The length of the key (4 bytes, little endian), the key, the filter.
fn read(path: &Path, key: &[u8]) -> Option<Filter> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let stat = file.metadata().ok()?;
    let own = stat.uid() == nix::unistd::geteuid().as_raw() && stat.mode() & 0o022 == 0;
    if !stat.is_file() || !own || stat.len() > MOST_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.len()).ok()? + 1);
    file.read_to_end(&mut bytes).ok()?;
    let (length, rest) = bytes.split_first_chunk()?;
    let (found, filter) = rest.split_at_checked(u32::from_le_bytes(*length).try_into().ok()?)?;
    if found != key {
        return None;
    }
    Filter::from_bytes(filter).ok()
}

fn write(dir: &Path, path: &Path, key: &[u8], filter: &Filter) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let known: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    if known.len() >= MOST {
        known.iter().try_for_each(fs::remove_file)?;
    }
    let temporary = path.with_extension(std::process::id().to_string());
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(key.len())?.to_le_bytes());
    bytes.extend(key);
    bytes.extend(filter.to_bytes());
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&bytes))
        // In one step: who reads meanwhile has the old one, or none, or this.
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kernelet_spec::{CapSet, CapabilitySets, Seccomp, default_profile};

    use super::*;

    #[test]
    fn a_filter_is_taken_from_its_file_only_when_all_of_it_fits() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(".seccomp");
        let profile = default_profile(CapSet::container_default());
        let other = default_profile(CapSet::all());
        let (filter, wrong) = (
            seccomp::compile(&profile).unwrap(),
            seccomp::compile(&other).unwrap(),
        );
        assert_ne!(filter, wrong);
        let (key, other_key) = (key(&profile).unwrap(), key(&other).unwrap());
        let path = dir.join("0");
        assert_eq!(read(&path, &key), None);
        write(&dir, &path, &key, &filter).unwrap();
        assert_eq!(read(&path, &key).as_ref(), Some(&filter));
        // Another profile with the same hash.
        assert_eq!(read(&path, &other_key), None);
        write(&dir, &path, &other_key, &wrong).unwrap();
        assert_eq!(read(&path, &key), None);
        assert_eq!(read(&path, &other_key).as_ref(), Some(&wrong));
        // Somebody else could have written it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        assert_eq!(read(&path, &other_key), None);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read(&path, &key), None);
        fs::remove_file(&path).unwrap();
        for cut in [&b""[..], b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"] {
            fs::write(&path, cut).unwrap();
            assert_eq!(read(&path, &key), None);
            assert_eq!(read(&path, b""), None);
        }
    }

    #[test]
    fn the_folder_does_not_grow_without_end() {
        let root = tempfile::tempdir().unwrap();
        let profile = default_profile(CapSet::container_default());
        let filter = seccomp::compile(&profile).unwrap();
        for number in 0..=MOST {
            let path = root.path().join(number.to_string());
            write(root.path(), &path, b"key", &filter).unwrap();
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_second_run_reads_what_the_first_compiled() {
        let root = tempfile::tempdir().unwrap();
        let global = Global {
            root: root.path().to_owned(),
            root_given: true,
            rootless: None,
            manager: crate::cli::Manager::Cgroupfs,
        };
        let mut plan = ProcessPlan {
            args: vec!["true".into()],
            env: vec![],
            cwd: "/".into(),
            user: kernelet_spec::UserPlan::default(),
            capabilities: CapabilitySets::of_container(CapSet::container_default()),
            no_new_privileges: false,
            seccomp: Seccomp::RuntimeDefault,
            rlimits: vec![],
            oom_score_adj: None,
            attributes: kernelet_spec::ProcessAttributes::default(),
        };
        let first = filter_for(&global, &plan).unwrap();
        let files: Vec<PathBuf> = fs::read_dir(root.path().join(".seccomp"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let [file] = &files[..] else {
            panic!("{files:?}")
        };
        // What is read is what was kept: a filter that was changed there comes back changed.
        let mut bytes = fs::read(file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
        let second = filter_for(&global, &plan).unwrap();
        assert!(first.is_some() && second.is_some() && first != second);
        plan.seccomp = Seccomp::Unconfined;
        assert_eq!(filter_for(&global, &plan).unwrap(), None);
    }
}
