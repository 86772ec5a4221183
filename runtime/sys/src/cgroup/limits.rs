//! Wanted limits to the files of whichever version has the controller.

use std::path::Path;

use kernelet_spec::Resources;
use nix::errno::Errno;

use super::{Group, Layout, devices, missing, read, write};
use crate::error::Result;

/// Controllers of the v2 tree that a group with these limits needs. Where v2 is all there is, the
/// accounting ones are always on: stats and eviction read them.
pub(super) fn v2_controllers(layout: &Layout, resources: &Resources) -> Vec<String> {
    let mut wanted = vec!["cpu", "cpuset", "memory", "pids", "io"];
    if !resources.hugepages.is_empty()
        || resources
            .unified
            .keys()
            .any(|key| key.starts_with("hugetlb."))
    {
        wanted.push("hugetlb");
    }
    wanted.retain(|name| layout.v2_controllers.iter().any(|c| c == name));
    wanted.into_iter().map(str::to_owned).collect()
}

pub(super) fn enable(dir: &Path, wanted: &[String]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let file = dir.join("cgroup.subtree_control");
    let enabled = read(&file)?;
    let on = |name: &String| enabled.split_whitespace().any(|c| c == name);
    let missing: Vec<String> = wanted
        .iter()
        .filter(|c| !on(c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    write(&file, &missing.join(" "))
}

/// cgroup v1's shares (2 to 262144, 1024 is one CPU) as v2's weight (1 to 10000, 100 is the default).
/// The curve through (2, 1), (1024, 100), (262144, 10000) that the OCI runtimes agreed on in 2025; the
/// straight line before it gave one CPU's share a weight of 39, below the default.
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

pub(super) fn apply(group: &Group<'_>, resources: &Resources) -> Result<()> {
    cpu(group, resources)?;
    cpuset(group, resources)?;
    memory(group, resources)?;
    pids(group, resources)?;
    hugepages(group, resources)?;
    block_io(group, resources)?;
    if let Some(rules) = &resources.devices {
        match group.v1_dir("devices") {
            Some(dir) => devices::apply_v1(&dir, rules)?,
            None => match group.v2_dir() {
                Some(dir) => devices::apply_v2(&dir, rules)?,
                None => return Err(missing("devices", "which devices may be used")),
            },
        }
    }
    if !resources.unified.is_empty() {
        let Some(dir) = group.v2_dir() else {
            return Err(missing("(cgroup v2)", "unified"));
        };
        for (key, value) in &resources.unified {
            if key.contains('/') {
                return Err(crate::SysError::new(
                    format!("set unified[{key:?}]: not a file's name"),
                    Errno::EINVAL,
                ));
            }
            write(&dir.join(key), value)?;
        }
    }
    Ok(())
}

/// The folder that has the controller: `Ok(Err(v2 folder))`, `Ok(Ok(v1 folder))`.
fn folder(group: &Group<'_>, controller: &str, wanted: &str) -> Result<Folder> {
    if let Some(dir) = group.v1_dir(controller) {
        return Ok(Folder::V1(dir));
    }
    if group
        .layout()
        .v2_controllers
        .iter()
        .any(|c| c == controller)
        && let Some(dir) = group.v2_dir()
    {
        return Ok(Folder::V2(dir));
    }
    Err(missing(controller, wanted))
}

enum Folder {
    V1(std::path::PathBuf),
    V2(std::path::PathBuf),
}

fn cpu(group: &Group<'_>, r: &Resources) -> Result<()> {
    let bandwidth =
        r.cpu_quota_us.is_some() || r.cpu_period_us.is_some() || r.cpu_burst_us.is_some();
    if r.cpu_shares.is_none() && !bandwidth && r.cpu_idle.is_none() {
        return Ok(());
    }
    match folder(group, "cpu", "the CPU limit")? {
        Folder::V1(dir) => {
            if let Some(shares) = r.cpu_shares.filter(|s| *s != 0) {
                write(&dir.join("cpu.shares"), &shares.to_string())?;
            }
            // While quota and period change one after the other, the pair must fit the parent's at
            // every moment: first no limit, then the period, then the quota.
            if let Some(period) = r.cpu_period_us.filter(|p| *p != 0) {
                let file = dir.join("cpu.cfs_period_us");
                if read(&file)?.trim() != period.to_string() {
                    if r.cpu_quota_us.is_some_and(|q| q > 0) {
                        write(&dir.join("cpu.cfs_quota_us"), "-1")?;
                    }
                    write(&file, &period.to_string())?;
                }
            }
            if let Some(quota) = r.cpu_quota_us.filter(|q| *q != 0) {
                write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            if let Some(burst) = r.cpu_burst_us {
                write(&dir.join("cpu.cfs_burst_us"), &burst.to_string())?;
            }
            if let Some(idle) = r.cpu_idle {
                write(&dir.join("cpu.idle"), &idle.to_string())?;
            }
        }
        Folder::V2(dir) => {
            if let Some(idle) = r.cpu_idle {
                write(&dir.join("cpu.idle"), &idle.to_string())?;
            }
            // An idle group has no weight of its own.
            if let Some(shares) = r.cpu_shares.filter(|s| *s != 0 && r.cpu_idle != Some(1)) {
                write(
                    &dir.join("cpu.weight"),
                    &shares_to_weight(shares).to_string(),
                )?;
            }
            if bandwidth {
                let quota = match r.cpu_quota_us {
                    Some(q) if q > 0 => q.to_string(),
                    _ => "max".to_owned(),
                };
                let value = match r.cpu_period_us.filter(|p| *p != 0) {
                    Some(period) => format!("{quota} {period}"),
                    None => quota,
                };
                write(&dir.join("cpu.max"), &value)?;
            }
            if let Some(burst) = r.cpu_burst_us {
                write(&dir.join("cpu.max.burst"), &burst.to_string())?;
            }
        }
    }
    Ok(())
}

fn cpuset(group: &Group<'_>, r: &Resources) -> Result<()> {
    let values = [
        ("cpuset.cpus", &r.cpuset_cpus),
        ("cpuset.mems", &r.cpuset_mems),
    ];
    for (file, value) in values {
        let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else {
            continue;
        };
        let (Folder::V1(dir) | Folder::V2(dir)) = folder(group, "cpuset", file)?;
        write(&dir.join(file), value)?;
    }
    Ok(())
}

fn memory(group: &Group<'_>, r: &Resources) -> Result<()> {
    if r.memory_limit.is_none()
        && r.memory_swap.is_none()
        && r.memory_reservation.is_none()
        && !r.oom_group
    {
        return Ok(());
    }
    // `memory.oom.group` alone is a wish that v1 can't meet and nobody limits by: not an error.
    let only_oom_group =
        r.memory_limit.is_none() && r.memory_swap.is_none() && r.memory_reservation.is_none();
    match folder(group, "memory", "the memory limit") {
        Err(_) if only_oom_group => Ok(()),
        Err(e) => Err(e),
        Ok(Folder::V1(dir)) => memory_v1(&dir, r),
        Ok(Folder::V2(dir)) => memory_v2(&dir, r),
    }
}

fn memory_v1(dir: &Path, r: &Resources) -> Result<()> {
    let limit = dir.join("memory.limit_in_bytes");
    let swap = dir.join("memory.memsw.limit_in_bytes");
    let set_swap = |value: i64| match write(&swap, &value.to_string()) {
        // No swap accounting in this kernel, and no more wanted than the memory limit gives anyway.
        Err(e) if e.errno == Errno::ENOENT && r.memory_swap == r.memory_limit => Ok(()),
        other => other,
    };
    match (r.memory_limit, r.memory_swap) {
        (Some(memory), Some(total)) => {
            // The kernel holds memory <= memory+swap at every moment, so the order depends on the
            // direction: what fails first is tried second.
            match write(&limit, &memory.to_string()) {
                Ok(()) => set_swap(total)?,
                Err(e) if e.errno == Errno::EINVAL => {
                    set_swap(total)?;
                    write(&limit, &memory.to_string())?;
                }
                Err(e) => return Err(e),
            }
        }
        (Some(memory), None) => match write(&limit, &memory.to_string()) {
            Err(e) if e.errno == Errno::EINVAL && swap.exists() => {
                write(&swap, "-1")?;
                write(&limit, &memory.to_string())?;
            }
            other => other?,
        },
        (None, Some(total)) => set_swap(total)?,
        (None, None) => {}
    }
    if let Some(reservation) = r.memory_reservation {
        write(
            &dir.join("memory.soft_limit_in_bytes"),
            &reservation.to_string(),
        )?;
    }
    Ok(())
}

fn memory_v2(dir: &Path, r: &Resources) -> Result<()> {
    let value = |bytes: i64| {
        if bytes < 0 {
            "max".to_owned()
        } else {
            bytes.to_string()
        }
    };
    if let Some(total) = r.memory_swap {
        // v2 limits swap apart from memory, OCI the sum.
        let swap = match (total, r.memory_limit) {
            (..0, _) => "max".to_owned(),
            (total, Some(limit)) if limit >= 0 => (total - limit).max(0).to_string(),
            (total, _) => total.to_string(),
        };
        match write(&dir.join("memory.swap.max"), &swap) {
            Err(e) if e.errno == Errno::ENOENT && swap == "0" => {}
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

fn pids(group: &Group<'_>, r: &Resources) -> Result<()> {
    let Some(limit) = r.pids_limit.filter(|l| *l != 0) else {
        return Ok(());
    };
    let value = if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    };
    let (Folder::V1(dir) | Folder::V2(dir)) = folder(group, "pids", "the pids limit")?;
    write(&dir.join("pids.max"), &value)
}

fn hugepages(group: &Group<'_>, r: &Resources) -> Result<()> {
    for page in &r.hugepages {
        let limit = page.limit_bytes.to_string();
        let size = &page.page_size;
        match folder(group, "hugetlb", "the huge page limit")? {
            Folder::V1(dir) => write(&dir.join(format!("hugetlb.{size}.limit_in_bytes")), &limit)?,
            Folder::V2(dir) => {
                write(&dir.join(format!("hugetlb.{size}.max")), &limit)?;
                // The reservation limit came with 5.7; without it only faulted pages count.
                let reserved = dir.join(format!("hugetlb.{size}.rsvd.max"));
                if reserved.exists() {
                    write(&reserved, &limit)?;
                }
            }
        }
    }
    Ok(())
}

fn block_io(group: &Group<'_>, r: &Resources) -> Result<()> {
    let Some(weight) = r.blkio_weight.filter(|w| *w != 0) else {
        return Ok(());
    };
    if let Some(dir) = group.v1_dir("blkio") {
        let files = ["blkio.weight", "blkio.bfq.weight"].map(|file| dir.join(file));
        return match files.iter().find(|file| file.exists()) {
            Some(file) => write(file, &weight.to_string()),
            None => Err(missing("blkio.weight", "the block I/O weight")),
        };
    }
    let Folder::V2(dir) = folder(group, "io", "the block I/O weight")? else {
        return Err(missing("io", "the block I/O weight"));
    };
    let bfq = dir.join("io.bfq.weight");
    if bfq.exists() {
        return write(&bfq, &weight.to_string());
    }
    // 10..1000 to 1..10000, as OCI runtimes do.
    let weight = 1 + (u64::from(weight) - 10) * 9999 / 990;
    write(&dir.join("io.weight"), &weight.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cpus_share_is_the_default_weight() {
        assert_eq!(shares_to_weight(2), 1);
        assert_eq!(shares_to_weight(1024), 100);
        assert_eq!(shares_to_weight(262_144), 10_000);
        let weights: Vec<u64> = (2..2000).map(shares_to_weight).collect();
        assert!(weights.is_sorted());
    }
}
