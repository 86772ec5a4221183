//! Wanted limits to the files of whichever version has the controller. What a version can't do is an error
//! that names the field of OCI's `linux.resources`.

mod io;
mod memory;

use std::path::{Path, PathBuf};

use kernelet_spec::{RdmaLimit, Resources};
use nix::errno::Errno;

use super::{Group, Layout, devices, missing, read, write};
use crate::{SysError, error::Result};

/// Controllers of the v2 tree that a group with these limits needs. Where v2 is all there is, the
/// accounting ones are always on: stats and eviction read them.
pub(super) fn v2_controllers(layout: &Layout, resources: &Resources) -> Vec<String> {
    let mut wanted = vec!["cpu", "cpuset", "memory", "pids", "io"];
    let unified = |controller: &str| {
        let mut keys = resources.unified.keys();
        keys.any(|key| key.split('.').next() == Some(controller))
    };
    for (controller, asked) in [
        ("hugetlb", !resources.hugepages.is_empty()),
        ("rdma", !resources.rdma.is_empty()),
        ("misc", false),
    ] {
        if asked || unified(controller) {
            wanted.push(controller);
        }
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
    pids(group, resources)?;
    memory::apply(group, resources)?;
    io::apply(group, resources)?;
    cpu(group, resources)?;
    cpuset(group, resources)?;
    hugepages(group, resources)?;
    rdma(group, resources)?;
    network(group, resources)?;
    if let Some(rules) = &resources.devices {
        match group.v1_dir("devices") {
            Some(dir) => devices::apply_v1(&dir, rules)?,
            None => match group.v2_dir() {
                Some(dir) => devices::apply_v2(&dir, rules)?,
                None => return Err(missing("devices", "which devices may be used")),
            },
        }
    }
    unified(group, resources)
}

/// Files of the v2 tree as given; last, so that they override.
fn unified(group: &Group<'_>, resources: &Resources) -> Result<()> {
    if resources.unified.is_empty() {
        return Ok(());
    }
    let invalid = |what: String, errno| Err(SysError::new(what, errno));
    // On a hybrid host the tree is there, but has no controllers to speak of.
    let Some(dir) = group.v2_dir() else {
        let what = "invalid configuration: cannot use unified on cgroup v1".to_owned();
        return invalid(what, Errno::EOPNOTSUPP);
    };
    let layout = group.layout();
    for (key, value) in &resources.unified {
        if key.contains('/') {
            let what = format!("unified resource {key:?} must be a file name (no slashes)");
            return invalid(what, Errno::EINVAL);
        }
        let Some((controller, _)) = key.split_once('.') else {
            let what = format!("unified resource {key:?} must be in the form CONTROLLER.PARAMETER");
            return invalid(what, Errno::EINVAL);
        };
        let there = controller == "cgroup" || layout.v2_controllers.iter().any(|c| c == controller);
        if !there {
            let hybrid = if layout.v1.is_empty() {
                ""
            } else {
                "invalid configuration: cannot use unified on cgroup v1: "
            };
            let what = format!(
                "{hybrid}unified resource {key:?} can't be set: controller {controller:?} not available"
            );
            return invalid(what, Errno::EOPNOTSUPP);
        }
        // A value of several lines is as many writes: io.max takes one device at a time.
        for line in value.lines() {
            write(&dir.join(key), line).map_err(|e| {
                let what = format!("unable to set unified resource {key:?}: {}", e.attempted);
                SysError::new(what, e.errno)
            })?;
        }
    }
    Ok(())
}

pub(super) enum Folder {
    V1(PathBuf),
    V2(PathBuf),
}

/// The folder that has the controller, in whichever version.
pub(super) fn folder(group: &Group<'_>, controller: &str, wanted: &str) -> Result<Folder> {
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

/// A wish that this version of the controller has no file for.
pub(super) fn unknown(field: &str, version: &str) -> SysError {
    SysError::new(
        format!("set linux.resources.{field}: cgroup {version} has no such limit here"),
        Errno::EOPNOTSUPP,
    )
}

/// Writes to a file that not every kernel has.
pub(super) fn write_if_there(path: &Path, value: &str, field: &str, version: &str) -> Result<()> {
    match write(path, value) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EOPNOTSUPP) => {
            Err(unknown(field, version))
        }
        other => other,
    }
}

fn cpu(group: &Group<'_>, r: &Resources) -> Result<()> {
    let asked = r.cpu_shares.is_some_and(|s| s != 0)
        || r.cpu_quota_us.is_some_and(|q| q != 0)
        || r.cpu_period_us.is_some_and(|p| p != 0)
        || r.cpu_burst_us.is_some()
        || r.cpu_idle.is_some()
        || r.cpu_rt_runtime_us.is_some()
        || r.cpu_rt_period_us.is_some();
    if !asked {
        return Ok(());
    }
    match folder(group, "cpu", "linux.resources.cpu")? {
        Folder::V1(dir) => cpu_v1(&dir, r),
        Folder::V2(dir) => cpu_v2(&dir, r),
    }
}

fn cpu_v1(dir: &Path, r: &Resources) -> Result<()> {
    // Real time first: a process of a real-time class can't join a group without its share.
    let period = dir.join("cpu.rt_period_us");
    let real_time = |path: &Path, value: String, field| write_if_there(path, &value, field, "v1");
    let mut later = None;
    if let Some(us) = r.cpu_rt_period_us {
        match real_time(&period, us.to_string(), "cpu.realtimePeriod") {
            // Below the runtime that is set now, and another is about to be.
            Err(e) if e.errno == Errno::EINVAL && r.cpu_rt_runtime_us.is_some() => later = Some(us),
            other => other?,
        }
    }
    if let Some(us) = r.cpu_rt_runtime_us {
        let path = dir.join("cpu.rt_runtime_us");
        real_time(&path, us.to_string(), "cpu.realtimeRuntime")?;
    }
    if let Some(us) = later {
        real_time(&period, us.to_string(), "cpu.realtimePeriod")?;
    }
    if let Some(shares) = r.cpu_shares.filter(|s| *s != 0) {
        let path = dir.join("cpu.shares");
        write(&path, &shares.to_string())?;
        // The kernel takes the nearest that it allows.
        let got: u64 = read(&path)?.trim().parse().unwrap_or(shares);
        if got != shares {
            let bound = if got < shares { "maximum" } else { "minimum" };
            let what = format!("the {bound} allowed cpu-shares is {got}");
            return Err(SysError::new(what, Errno::EINVAL));
        }
    }
    // While quota, period and burst change one after the other, each must fit the others and the parent's:
    // what is refused before the quota is tried again after it.
    let quota = r.cpu_quota_us.filter(|q| *q != 0);
    let mut later = Vec::new();
    let values = [
        ("cpu.cfs_period_us", r.cpu_period_us.filter(|p| *p != 0)),
        ("cpu.cfs_burst_us", r.cpu_burst_us),
    ];
    for (file, value) in values {
        let Some(value) = value else { continue };
        match write(&dir.join(file), &value.to_string()) {
            Err(e) if e.errno == Errno::EINVAL && quota.is_some() => later.push((file, value)),
            Err(e) if e.errno == Errno::ENOENT => return Err(unknown("cpu.burst", "v1")),
            other => other?,
        }
    }
    if let Some(quota) = quota {
        write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?;
    }
    for (file, value) in later {
        write(&dir.join(file), &value.to_string())?;
    }
    match r.cpu_idle {
        Some(idle) => write_if_there(&dir.join("cpu.idle"), &idle.to_string(), "cpu.idle", "v1"),
        None => Ok(()),
    }
}

fn cpu_v2(dir: &Path, r: &Resources) -> Result<()> {
    if r.cpu_rt_runtime_us.is_some() {
        return Err(unknown("cpu.realtimeRuntime", "v2"));
    }
    if r.cpu_rt_period_us.is_some() {
        return Err(unknown("cpu.realtimePeriod", "v2"));
    }
    if let Some(idle) = r.cpu_idle {
        write_if_there(&dir.join("cpu.idle"), &idle.to_string(), "cpu.idle", "v2")?;
    }
    // An idle group has no weight of its own.
    if let Some(shares) = r.cpu_shares.filter(|s| *s != 0 && r.cpu_idle != Some(1)) {
        let weight = shares_to_weight(shares).to_string();
        write(&dir.join("cpu.weight"), &weight)?;
    }
    let quota = r.cpu_quota_us.filter(|q| *q != 0);
    let period = r.cpu_period_us.filter(|p| *p != 0);
    let mut later = None;
    if let Some(burst) = r.cpu_burst_us {
        let path = dir.join("cpu.max.burst");
        match write_if_there(&path, &burst.to_string(), "cpu.burst", "v2") {
            Err(e) if e.errno == Errno::EINVAL && quota.is_some() => later = Some((path, burst)),
            other => other?,
        }
    }
    if quota.is_some() || period.is_some() {
        let quota = match quota {
            Some(q @ 1..) => q.to_string(),
            _ => "max".to_owned(),
        };
        let value = format!("{quota} {}", period.unwrap_or(100_000));
        write(&dir.join("cpu.max"), &value)?;
    }
    match later {
        Some((path, burst)) => write(&path, &burst.to_string()),
        None => Ok(()),
    }
}

fn cpuset(group: &Group<'_>, r: &Resources) -> Result<()> {
    let values = [
        ("cpuset.cpus", "linux.resources.cpu.cpus", &r.cpuset_cpus),
        ("cpuset.mems", "linux.resources.cpu.mems", &r.cpuset_mems),
    ];
    for (file, field, value) in values {
        let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else {
            continue;
        };
        let (Folder::V1(dir) | Folder::V2(dir)) = folder(group, "cpuset", field)?;
        write(&dir.join(file), value)?;
    }
    Ok(())
}

fn pids(group: &Group<'_>, r: &Resources) -> Result<()> {
    let value = match r.pids_limit {
        None => return Ok(()),
        Some(..0) => "max".to_owned(),
        // The first process exists in any case; systemd knows no 0 either.
        Some(limit) => limit.max(1).to_string(),
    };
    match folder(group, "pids", "linux.resources.pids.limit") {
        Ok(Folder::V1(dir) | Folder::V2(dir)) => write(&dir.join("pids.max"), &value),
        // No limit is what there is without the controller.
        Err(_) if value == "max" => Ok(()),
        Err(e) => Err(e),
    }
}

fn hugepages(group: &Group<'_>, r: &Resources) -> Result<()> {
    for page in &r.hugepages {
        let limit = page.limit_bytes.to_string();
        let size = &page.page_size;
        let (dir, end) = match folder(group, "hugetlb", "linux.resources.hugepageLimits")? {
            Folder::V1(dir) => (dir, "limit_in_bytes"),
            Folder::V2(dir) => (dir, "max"),
        };
        write(&dir.join(format!("hugetlb.{size}.{end}")), &limit)?;
        // The reservation limit came with 5.7; without it only faulted pages count.
        let reserved = dir.join(format!("hugetlb.{size}.rsvd.{end}"));
        match write(&reserved, &limit) {
            Err(e) if e.errno == Errno::ENOENT => {}
            other => other?,
        }
    }
    Ok(())
}

fn rdma(group: &Group<'_>, r: &Resources) -> Result<()> {
    for (device, limit) in &r.rdma {
        let (Folder::V1(dir) | Folder::V2(dir)) = folder(group, "rdma", "linux.resources.rdma")?;
        write(&dir.join("rdma.max"), &rdma_line(device, *limit))?;
    }
    Ok(())
}

fn rdma_line(device: &str, limit: RdmaLimit) -> String {
    let mut line = device.to_owned();
    for (name, value) in [("hca_handle", limit.handles), ("hca_object", limit.objects)] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line
}

fn network(group: &Group<'_>, r: &Resources) -> Result<()> {
    if let Some(id) = r.net_class_id {
        let dir = group.v1_dir("net_cls");
        let dir = dir.ok_or_else(|| missing("net_cls", "linux.resources.network.classID"))?;
        write(&dir.join("net_cls.classid"), &id.to_string())?;
    }
    for (interface, priority) in &r.net_priorities {
        let dir = group.v1_dir("net_prio");
        let dir = dir.ok_or_else(|| missing("net_prio", "linux.resources.network.priorities"))?;
        write(
            &dir.join("net_prio.ifpriomap"),
            &format!("{interface} {priority}"),
        )?;
    }
    Ok(())
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

    #[test]
    fn an_rdma_limit_is_a_line() {
        let limit = RdmaLimit {
            handles: Some(2),
            objects: None,
        };
        assert_eq!(rdma_line("mlx5_0", limit), "mlx5_0 hca_handle=2");
        assert_eq!(
            rdma_line(
                "x",
                RdmaLimit {
                    objects: Some(9),
                    ..limit
                }
            ),
            "x hca_handle=2 hca_object=9"
        );
    }
}
