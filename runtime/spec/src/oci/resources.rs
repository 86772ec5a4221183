//! OCI's resources.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Result, refuse, unsupported};
use crate::{DeviceAccess, DeviceRule, DeviceRuleKind, HugepageLimit, Resources};

/// Resources as a plan has them. The devices of OCI's default `/dev` are always allowed, others only by
/// rule: a bundle without rules is not one with every device.
pub fn resources(wish: Option<&LinuxResources>) -> Result<Resources> {
    let mut out = Resources {
        devices: Some(Resources::default_devices()),
        ..Resources::default()
    };
    let Some(wish) = wish else {
        return Ok(out);
    };
    unsupported("linux.resources.network", wish.network())?;
    unsupported(
        "linux.resources.rdma",
        &wish.rdma().as_ref().filter(|r| !r.is_empty()),
    )?;
    if let Some(rules) = wish.devices() {
        let mut all = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            all.push(device(&format!("linux.resources.devices[{index}]"), rule)?);
        }
        // Defaults last: a bundle begins with "deny all", which must not take them away.
        all.extend(Resources::default_devices());
        out.devices = Some(all);
    }
    if let Some(cpu) = wish.cpu() {
        unsupported(
            "linux.resources.cpu.realtimeRuntime",
            &cpu.realtime_runtime().filter(|v| *v != 0),
        )?;
        unsupported(
            "linux.resources.cpu.realtimePeriod",
            &cpu.realtime_period().filter(|v| *v != 0),
        )?;
        out.cpu_shares = cpu.shares();
        out.cpu_quota_us = cpu.quota();
        out.cpu_period_us = cpu.period();
        out.cpu_burst_us = cpu.burst();
        out.cpu_idle = cpu.idle();
        out.cpuset_cpus = cpu.cpus().clone();
        out.cpuset_mems = cpu.mems().clone();
    }
    if let Some(memory) = wish.memory() {
        unsupported("linux.resources.memory.swappiness", &memory.swappiness())?;
        unsupported(
            "linux.resources.memory.kernelTCP",
            &memory.kernel_tcp().filter(|v| *v > 0),
        )?;
        unsupported(
            "linux.resources.memory.disableOOMKiller",
            &memory.disable_oom_killer().filter(|on| *on),
        )?;
        out.memory_limit = memory.limit().filter(|v| *v != 0);
        out.memory_swap = memory.swap().filter(|v| *v != 0);
        out.memory_reservation = memory.reservation().filter(|v| *v != 0);
    }
    out.pids_limit = wish.pids().as_ref().map(|pids| pids.limit());
    if let Some(io) = wish.block_io() {
        let throttled = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        if throttled
            .iter()
            .any(|list| list.iter().flatten().next().is_some())
        {
            return refuse(
                "linux.resources.blockIO",
                "throttling a device is not supported",
            );
        }
        unsupported(
            "linux.resources.blockIO.weightDevice",
            &io.weight_device().as_ref().filter(|w| !w.is_empty()),
        )?;
        unsupported(
            "linux.resources.blockIO.leafWeight",
            &io.leaf_weight().filter(|w| *w != 0),
        )?;
        out.blkio_weight = io.weight();
    }
    for page in wish.hugepage_limits().iter().flatten() {
        out.hugepages.push(HugepageLimit {
            page_size: page.page_size().clone(),
            limit_bytes: page.limit().max(0) as u64,
        });
    }
    out.unified = wish
        .unified()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(out)
}

fn device(field: &str, rule: &LinuxDeviceCgroup) -> Result<DeviceRule> {
    // Negative numbers mean any.
    let number = |n: Option<i64>| match n {
        None | Some(..0) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .or_else(|_| refuse(field, format!("{n} is no device number"))),
    };
    let text = rule
        .access()
        .as_deref()
        .filter(|a| !a.is_empty())
        .unwrap_or("rwm");
    if text.chars().any(|c| !"rwm".contains(c)) {
        return refuse(field, format!("access {text:?} is not of r, w and m"));
    }
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ() {
            None | Some(LinuxDeviceType::A) => DeviceRuleKind::All,
            Some(LinuxDeviceType::B) => DeviceRuleKind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceRuleKind::Char,
            Some(LinuxDeviceType::P) => return refuse(field, "a FIFO is not controlled"),
        },
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access: DeviceAccess {
            read: text.contains('r'),
            write: text.contains('w'),
            mknod: text.contains('m'),
        },
    })
}
