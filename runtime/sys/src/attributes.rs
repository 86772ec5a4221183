//! Scheduling, priorities, CPU affinity, memory policy, personality, limits of the calling or another process.

use std::os::fd::{AsFd, BorrowedFd};

use kernelet_spec::{MemoryPolicy, NumberSet, Scheduler};
use nix::{errno::Errno, fcntl::OFlag};

use crate::error::{Result, SysError};

/// sched_setattr(2)'s structure, as of its first version (48 bytes).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the calling thread's scheduling.
pub fn set_scheduler(wish: &Scheduler) -> Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: wish.policy,
        flags: wish.flags,
        nice: wish.nice,
        priority: wish.priority,
        runtime: wish.runtime,
        deadline: wish.deadline,
        period: wish.period,
    };
    // SAFETY: the structure is of the size it states and outlives the call.
    let n = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0) };
    answer(n, "error setting scheduler")
}

/// Sets the calling process's I/O priority: class and level as in [`kernelet_spec::ProcessAttributes`].
pub fn set_io_priority(value: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: integers only.
    let n = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            i32::from(value),
        )
    };
    answer(n, "failed to set io priority")
}

/// Where the calling thread may run.
pub fn set_affinity(cpus: &NumberSet, what: &'static str) -> Result<()> {
    // SAFETY: the words are valid for the length given, in bytes.
    let n = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(cpus.words.as_slice()),
            cpus.words.as_ptr(),
        )
    };
    answer(n, what)
}

/// Lets the calling thread run wherever its cgroup lets it. That a kernel refuses it is no harm.
pub fn reset_affinity() {
    let all = [u64::MAX; 128];
    // SAFETY: the words are valid for the length given, in bytes.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(&all),
            all.as_ptr(),
        );
    }
}

/// Where the calling thread may run now.
pub fn affinity() -> Result<NumberSet> {
    // As many CPUs as any kernel can be built for.
    let mut words = vec![0_u64; 128];
    // SAFETY: the words are valid for writing the length given.
    let n = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            size_of_val(words.as_slice()),
            words.as_mut_ptr(),
        )
    };
    answer(n, "ask for the CPU affinity")?;
    while words.last() == Some(&0) {
        words.pop();
    }
    Ok(NumberSet { words })
}

/// Sets the calling thread's memory policy.
pub fn set_memory_policy(wish: &MemoryPolicy) -> Result<()> {
    let bits = wish.nodes.words.len() * 64;
    // The kernel reads one bit fewer than it is told.
    let (mask, bits) = match bits {
        0 => (std::ptr::null(), 0),
        bits => (wish.nodes.words.as_ptr(), bits + 1),
    };
    // SAFETY: the mask is null with no bits, or valid for them; the bit more isn't read.
    let n = unsafe { libc::syscall(libc::SYS_set_mempolicy, wish.mode, mask, bits) };
    answer(n, "set_mempolicy")
}

/// Sets the calling process's execution domain.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: an integer.
    let n = unsafe { libc::syscall(libc::SYS_personality, domain) };
    answer(n, "set the personality")
}

fn answer(n: libc::c_long, what: &'static str) -> Result<()> {
    match n {
        ..0 => Err(SysError::last(what)),
        _ => Ok(()),
    }
}

/// Whether the host enforces AppArmor.
pub fn has_apparmor() -> bool {
    std::path::Path::new("/sys/kernel/security/apparmor").exists()
        && std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|t| t.starts_with(b"Y"))
}

/// Whether SELinux is there: its file system is known and mounted where it belongs.
pub fn has_selinux() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

/// The file through which the calling process says what it becomes with its next execution, opened while its own
/// procfs is at hand. `lsm`: `apparmor`, or `None` for the one that has no folder of its own.
pub fn open_exec_attribute(
    proc: BorrowedFd<'_>,
    lsm: Option<&str>,
) -> Result<std::os::fd::OwnedFd> {
    let open = |path: &str| crate::fd::open_at(proc, path, OFlag::O_WRONLY, 0);
    match lsm {
        None => open("self/attr/exec"),
        Some(lsm) => match open(&format!("self/attr/{lsm}/exec")) {
            // Before 5.8 there was only the common one.
            Err(e) if e.errno == Errno::ENOENT => open("self/attr/exec"),
            other => other,
        },
    }
}

/// Writes a label; the kernel takes it in one piece or not at all.
pub fn write_exec_attribute(file: impl AsFd, value: &str, what: &'static str) -> Result<()> {
    nix::unistd::write(file, value.as_bytes())
        .map(drop)
        .map_err(|e| SysError::new(what, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_can_be_narrowed_and_put_back() {
        let before = affinity().unwrap();
        let first = before.words.iter().position(|word| *word != 0).unwrap();
        let mut one = vec![0; first + 1];
        one[first] = 1 << before.words[first].trailing_zeros();
        set_affinity(&NumberSet { words: one.clone() }, "narrow").unwrap();
        assert_eq!(affinity().unwrap().words, one);
        set_affinity(&before, "widen").unwrap();
        assert_eq!(affinity().unwrap(), before);
    }

    #[test]
    fn a_policy_of_nodes_reaches_the_kernel() {
        let policy = |mode, nodes: &[u64]| MemoryPolicy {
            mode,
            nodes: NumberSet {
                words: nodes.to_vec(),
            },
        };
        set_memory_policy(&policy(2, &[1])).unwrap();
        set_memory_policy(&policy(0, &[])).unwrap();
        // Local memory has no nodes; a bind needs one that exists.
        assert_eq!(
            set_memory_policy(&policy(2, &[])).unwrap_err().errno,
            Errno::EINVAL
        );
    }
}
