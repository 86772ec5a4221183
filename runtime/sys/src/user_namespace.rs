//! User namespaces: their tables of ids, by who may write them.
//!
//! Who has CAP_SETUID above the new namespace writes any table. Everybody else may map its own id alone, with
//! setgroups(2) given up first; more, of the ranges that `/etc/subuid` and `/etc/subgid` give, is written by the
//! setuid programs `newuidmap` and `newgidmap`, the only programs that are ever run here.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    process::Command,
};

use kernelet_spec::{IdMapping, IdMappings};
use nix::errno::Errno;

use crate::{
    error::{Result, SysError},
    fd, mount,
};

/// Whether this process is in a user namespace that isn't the host's first one.
pub fn inside() -> bool {
    let text = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // No file: a kernel without user namespaces. The first one maps everything to itself.
    !text.is_empty() && text.split_whitespace().ne(["0", "0", "4294967295"])
}

/// Writes both tables of the new namespace that process `pid` is in. The process must not have become
/// undumpable yet, else its files aren't its owner's.
pub fn write_mappings(pid: i32, mappings: &IdMappings) -> Result<()> {
    let proc = mount::proc_of(pid)?;
    let own_gid = nix::unistd::getegid().as_raw();
    let single = |list: &[IdMapping], id: u32| matches!(list, [IdMapping { host_id, size: 1, .. }] if *host_id == id);
    // A group table without privilege is allowed only to who can't leave groups any more, which would
    // lift what files deny to a group.
    if !nix::unistd::geteuid().is_root() && single(&mappings.gids, own_gid) {
        fd::write_at(proc.as_fd(), "setgroups", "deny")?;
    }
    write(proc.as_fd(), pid, "uid_map", "newuidmap", &mappings.uids)?;
    write(proc.as_fd(), pid, "gid_map", "newgidmap", &mappings.gids)
}

fn write(
    proc: BorrowedFd<'_>,
    pid: i32,
    file: &str,
    program: &str,
    list: &[IdMapping],
) -> Result<()> {
    match fd::write_at(proc, file, &IdMappings::text(list)) {
        Err(e) if e.errno == Errno::EPERM && !nix::unistd::geteuid().is_root() => {
            by_program(program, pid, list)
        }
        other => other,
    }
}

fn by_program(program: &str, pid: i32, list: &[IdMapping]) -> Result<()> {
    let Some(path) = find(program) else {
        let what = format!("map ids beyond one's own: {program} is not in the PATH");
        return Err(SysError::new(what, Errno::ENOENT));
    };
    let numbers = list
        .iter()
        .flat_map(|m| [m.container_id, m.host_id, m.size]);
    let output = Command::new(&path)
        .arg(pid.to_string())
        .args(numbers.map(|n| n.to_string()))
        .output()
        .map_err(|e| SysError::io(format!("run {}", path.display()), &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let what = format!(
        "{} ended with {}: {}",
        path.display(),
        output.status,
        said.trim()
    );
    Err(SysError::new(what, Errno::EPERM))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// What process `pid` has as its tables, as this process's own namespace sees them.
pub fn read_mappings(pid: i32) -> Result<IdMappings> {
    let table = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        let text =
            std::fs::read_to_string(&path).map_err(|e| SysError::io(format!("read {path}"), &e))?;
        Ok(parse(&text))
    };
    Ok(IdMappings {
        uids: table("uid_map")?,
        gids: table("gid_map")?,
    })
}

fn parse(text: &str) -> Vec<IdMapping> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(IdMapping {
            container_id: next()?,
            host_id: next()?,
            size: next()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// Becomes the namespace's root: without this, the process is still its maker, whom the table may not have.
pub fn become_root() -> Result<()> {
    // SAFETY: integers only. The raw calls: the process has one thread.
    if unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) } < 0 {
        return Err(unmapped("gid"));
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } < 0 {
        return Err(unmapped("uid"));
    }
    Ok(())
}

fn unmapped(kind: &str) -> SysError {
    SysError::last(format!(
        "become root of the user namespace: user namespaces enabled, but no mapping found for {kind} 0"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(IdMappings::text(&parse(text)), "0 1000 1\n1 100000 65536\n");
        let own = read_mappings(std::process::id() as i32).unwrap();
        assert!(!own.uids.is_empty());
    }
}
