//! What happened to each container, on disk before anybody is told.
//!
//! One file a container in the shim's folder, replaced by rename: whoever reads it sees a whole state.
//! No sync: a record must outlive the shim and the agent, not the machine; after a reboot no container
//! is left for which it would matter (the boot id in it says so).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_spec::ContainerId;
use kernelet_sys::{SysError, fd};
use nix::fcntl::OFlag;

use crate::protocol::ContainerState;

const MAGIC: &[u8] = b"kernelet-record-1\n";
/// Names of finished records end so; what is being written doesn't.
const SUFFIX: &str = ".state";

/// Where a shim writes.
#[derive(Debug)]
pub(crate) struct Records {
    dir: OwnedFd,
    boot_id: String,
}

impl Records {
    pub(crate) fn new(dir: OwnedFd, boot_id: String) -> Self {
        Records { dir, boot_id }
    }

    pub(crate) fn write(&self, state: &ContainerState) -> Result<(), SysError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.boot_id.as_bytes());
        bytes.push(b'\n');
        let bytes = postcard::to_extend(state, bytes)
            .map_err(|_| SysError::new("encode a record", nix::errno::Errno::EINVAL))?;
        let temporary = format!("{}.new", state.id);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let mut file = File::from(fd::open_at(self.dir.as_fd(), &temporary, flags, 0o600)?);
        file.write_all(&bytes)
            .map_err(|e| SysError::io("write a record", &e))?;
        let name = format!("{}{SUFFIX}", state.id);
        nix::fcntl::renameat(&self.dir, temporary.as_str(), &self.dir, name.as_str())
            .map_err(|e| SysError::new("put a record into place", e))
    }

    pub(crate) fn delete(&self, id: &ContainerId) -> Result<(), SysError> {
        let name = format!("{id}{SUFFIX}");
        match nix::unistd::unlinkat(
            &self.dir,
            name.as_str(),
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(e) => Err(SysError::new(format!("delete the record of {id}"), e)),
        }
    }
}

/// The records in a shim's folder, of this boot; what is half-written or another boot's is passed over.
pub fn read_all(dir: &Path, boot_id: &str) -> io::Result<BTreeMap<ContainerId, ContainerState>> {
    let mut all = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(all),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.ends_with(SUFFIX))
            && let Some(state) = decode(&std::fs::read(entry.path())?, boot_id)
        {
            all.insert(state.id.clone(), state);
        }
    }
    Ok(all)
}

fn decode(bytes: &[u8], boot_id: &str) -> Option<ContainerState> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|b| *b == b'\n')?;
    if &rest[..end] != boot_id.as_bytes() {
        return None;
    }
    postcard::from_bytes(&rest[end + 1..]).ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::protocol::{ExitRecord, Phase};

    #[test]
    fn a_record_is_read_back_in_its_own_boot_only() {
        let dir = std::env::temp_dir().join(format!("kernelet-record-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fd = fd::open(&dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).unwrap();
        let records = Records::new(fd, "boot-a".into());
        let id = ContainerId::new("c1").unwrap();
        let state = ContainerState {
            id: id.clone(),
            annotations: BTreeMap::new(),
            cgroup: "/x".into(),
            phase: Phase::Exited(ExitRecord {
                id: id.clone(),
                pid: 7,
                started_at: None,
                finished_at: SystemTime::now(),
                exit_code: 137,
                signal: Some(9),
                oom_killed: true,
            }),
            dropped_lines: 0,
        };
        records.write(&state).unwrap();
        std::fs::write(dir.join("half.state"), b"kernelet-record-1\nboot-a\n\x01").unwrap();
        assert_eq!(
            read_all(&dir, "boot-a").unwrap(),
            BTreeMap::from([(id.clone(), state)])
        );
        assert!(read_all(&dir, "boot-b").unwrap().is_empty());
        records.delete(&id).unwrap();
        assert!(read_all(&dir, "boot-a").unwrap().is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
