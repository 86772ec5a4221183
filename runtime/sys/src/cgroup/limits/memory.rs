//! Memory, swap and what v1 alone has.

use std::path::Path;

use kernelet_spec::Resources;
use nix::errno::Errno;

use super::{
    super::{read, write},
    Folder, folder, unknown, write_if_there,
};
use crate::{SysError, cgroup::Group, error::Result};

pub(super) fn apply(group: &Group<'_>, r: &Resources) -> Result<()> {
    let v1_alone = r.memory_kernel.is_some()
        || r.memory_kernel_tcp.is_some()
        || r.memory_swappiness.is_some()
        || r.oom_kill_disable;
    let limited =
        r.memory_limit.is_some() || r.memory_swap.is_some() || r.memory_reservation.is_some();
    if !limited && !v1_alone && !r.oom_group {
        return Ok(());
    }
    match folder(group, "memory", "linux.resources.memory") {
        // `memory.oom.group` alone is a wish that v1 can't meet and nobody limits by: not an error.
        Err(_) if !limited && !v1_alone => Ok(()),
        Err(e) => Err(e),
        Ok(Folder::V1(dir)) => v1(&dir, r),
        Ok(Folder::V2(dir)) => v2(&dir, r),
    }
}

fn v1(dir: &Path, r: &Resources) -> Result<()> {
    let limit = dir.join("memory.limit_in_bytes");
    let swap = dir.join("memory.memsw.limit_in_bytes");
    let set_swap = |value: i64| match write(&swap, &value.to_string()) {
        // No swap accounting in this kernel, and no more wanted than the memory limit gives anyway.
        Err(e) if e.errno == Errno::ENOENT && (value < 0 || r.memory_swap == r.memory_limit) => {
            Ok(())
        }
        other => other,
    };
    let set_limit = |value: i64| match write(&limit, &value.to_string()) {
        Err(e) if e.errno == Errno::EBUSY => {
            let number = |name: &str| read(&dir.join(name)).unwrap_or_default().trim().to_owned();
            let what = format!(
                "unable to set memory limit to {value} (current usage: {}, peak usage: {})",
                number("memory.usage_in_bytes"),
                number("memory.max_usage_in_bytes")
            );
            Err(SysError::new(what, e.errno))
        }
        other => other,
    };
    match (r.memory_limit, r.memory_swap) {
        (Some(memory), Some(total)) => {
            // The kernel holds memory <= memory+swap at every moment, so the order depends on the
            // direction: what fails first is tried second.
            match set_limit(memory) {
                Ok(()) => set_swap(total)?,
                Err(e) if e.errno == Errno::EINVAL => {
                    set_swap(total)?;
                    set_limit(memory)?;
                }
                Err(e) => return Err(e),
            }
        }
        // No limit of memory is none of memory and swap either.
        (Some(memory @ ..0), None) => {
            set_swap(-1)?;
            set_limit(memory)?;
        }
        (Some(memory), None) => match set_limit(memory) {
            Err(e) if e.errno == Errno::EINVAL && swap.exists() => {
                set_swap(-1)?;
                set_limit(memory)?;
            }
            other => other?,
        },
        (None, Some(total)) => set_swap(total)?,
        (None, None) => {}
    }
    if let Some(reservation) = r.memory_reservation {
        let value = reservation.to_string();
        write(&dir.join("memory.soft_limit_in_bytes"), &value)?;
    }
    for (file, field, value) in [
        (
            "memory.kmem.limit_in_bytes",
            "memory.kernel",
            r.memory_kernel,
        ),
        (
            "memory.kmem.tcp.limit_in_bytes",
            "memory.kernelTCP",
            r.memory_kernel_tcp,
        ),
    ] {
        if let Some(value) = value {
            write_if_there(&dir.join(file), &value.to_string(), field, "v1")?;
        }
    }
    if r.oom_kill_disable {
        let file = dir.join("memory.oom_control");
        write_if_there(&file, "1", "memory.disableOOMKiller", "v1")?;
    }
    match r.memory_swappiness {
        None => Ok(()),
        Some(value) => {
            let file = dir.join("memory.swappiness");
            write_if_there(&file, &value.to_string(), "memory.swappiness", "v1")
        }
    }
}

fn v2(dir: &Path, r: &Resources) -> Result<()> {
    for (asked, field) in [
        (r.memory_kernel.is_some(), "memory.kernel"),
        (r.memory_kernel_tcp.is_some(), "memory.kernelTCP"),
        (r.memory_swappiness.is_some(), "memory.swappiness"),
        (r.oom_kill_disable, "memory.disableOOMKiller"),
    ] {
        if asked {
            return Err(unknown(field, "v2"));
        }
    }
    let value = |bytes: i64| match bytes {
        ..0 => "max".to_owned(),
        bytes => bytes.to_string(),
    };
    if r.memory_check_before_update {
        check_usage(dir, r)?;
    }
    if let Some(swap) = swap_alone(r.memory_swap, r.memory_limit)? {
        match write(&dir.join("memory.swap.max"), &value(swap)) {
            // Without swap there is none to be forbidden, and no limit to be lifted.
            Err(e) if e.errno == Errno::ENOENT && swap <= 0 => {}
            other => other?,
        }
    }
    if let Some(limit) = r.memory_limit {
        write(&dir.join("memory.max"), &value(limit))?;
    }
    if let Some(reservation) = r.memory_reservation {
        write(&dir.join("memory.low"), &value(reservation))?;
    }
    if r.oom_group {
        write(&dir.join("memory.oom.group"), "1")?;
    }
    Ok(())
}

/// OCI's sum of memory and swap as v2's swap alone; -1: no limit.
fn swap_alone(total: Option<i64>, memory: Option<i64>) -> Result<Option<i64>> {
    let invalid = |what: &'static str| Err(SysError::new(what, Errno::EINVAL));
    match (total, memory) {
        // No limit of memory is none of swap either, as v1 has it.
        (None, Some(..0)) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(..0), _) => Ok(Some(-1)),
        (Some(total), Some(..0)) => Ok(Some(total)),
        (Some(_), None) => invalid("unable to set swap limit without memory limit"),
        (Some(total), Some(memory)) if total < memory => {
            invalid("memory+swap limit should be >= memory limit")
        }
        (Some(total), Some(memory)) => Ok(Some(total - memory)),
    }
}

/// A limit below what is used would have the kernel kill until it holds.
fn check_usage(dir: &Path, r: &Resources) -> Result<()> {
    let Ok(text) = read(&dir.join("memory.current")) else {
        return Ok(());
    };
    let usage: i64 = text.trim().parse().unwrap_or(0);
    for (name, limit) in [("memory+swap", r.memory_swap), ("memory", r.memory_limit)] {
        if let Some(limit @ 1..) = limit
            && limit <= usage
        {
            let what = format!("rejecting {name} limit {limit} <= usage {usage}");
            return Err(SysError::new(what, Errno::EBUSY));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_what_is_beyond_memory() {
        let of = |total, memory| swap_alone(total, memory).map_err(|e| e.attempted.into_owned());
        assert_eq!(of(Some(300), Some(100)), Ok(Some(200)));
        assert_eq!(of(Some(100), Some(100)), Ok(Some(0)));
        assert_eq!(of(Some(-1), Some(100)), Ok(Some(-1)));
        assert_eq!(of(None, Some(-1)), Ok(Some(-1)));
        assert_eq!(of(Some(100), Some(-1)), Ok(Some(100)));
        assert_eq!(of(None, Some(100)), Ok(None));
        assert!(of(Some(50), Some(100)).is_err_and(|e| e.contains("should be >= memory limit")));
        assert!(of(Some(50), None).is_err_and(|e| e.contains("without memory limit")));
    }
}
