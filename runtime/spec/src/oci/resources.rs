//! OCI's resources.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
    LinuxThrottleDevice,
};

use super::{Result, refuse};
use crate::{
    DeviceAccess, DeviceRule, DeviceRuleKind, DeviceWeight, HugepageLimit, RdmaLimit, Resources,
    Throttle, ThrottleKind,
};

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
    if let Some(rules) = wish.devices() {
        let mut all = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            all.push(device(&format!("linux.resources.devices[{index}]"), rule)?);
        }
        // Defaults last: a bundle begins with "deny all", which must not take them away.
        all.extend(Resources::default_devices());
        out.devices = Some(all);
    }
    if let Some(wish) = wish.cpu() {
        cpu(wish, &mut out);
    }
    if let Some(wish) = wish.memory() {
        memory(wish, &mut out)?;
    }
    out.pids_limit = wish.pids().as_ref().map(|pids| pids.limit());
    if let Some(wish) = wish.block_io() {
        block_io(wish, &mut out)?;
    }
    for (index, page) in wish.hugepage_limits().iter().flatten().enumerate() {
        let field = format!("linux.resources.hugepageLimits[{index}]");
        if !page_size(page.page_size()) {
            return refuse(field, format!("{:?} is no page size", page.page_size()));
        }
        out.hugepages.push(HugepageLimit {
            page_size: page.page_size().clone(),
            limit_bytes: u64::try_from(page.limit())
                .or_else(|_| refuse(field, "its limit is negative"))?,
        });
    }
    if let Some(network) = wish.network() {
        out.net_class_id = network.class_id().filter(|id| *id != 0);
        for one in network.priorities().iter().flatten() {
            let harmless = !one.name().is_empty() && !one.name().contains(char::is_whitespace);
            if !harmless {
                let reason = format!("{:?} is no interface's name", one.name());
                return refuse("linux.resources.network.priorities", reason);
            }
            out.net_priorities
                .push((one.name().clone(), one.priority()));
        }
    }
    for (name, limit) in wish.rdma().iter().flatten() {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return refuse("linux.resources.rdma", format!("{name:?} is no device"));
        }
        let limit = RdmaLimit {
            handles: limit.hca_handles(),
            objects: limit.hca_objects(),
        };
        out.rdma.insert(name.clone(), limit);
    }
    for (key, value) in wish.unified().iter().flatten() {
        if key.contains('/') {
            let reason = format!("unified resource {key:?} must be a file name (no slashes)");
            return refuse("linux.resources.unified", reason);
        }
        out.unified.insert(key.clone(), value.clone());
    }
    Ok(out)
}

/// `2MB`, `1GB`, `64KB`: it becomes a part of a file's name.
fn page_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_uppercase());
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && matches!(&text[digits.len()..], "KB" | "MB" | "GB")
}

fn cpu(wish: &LinuxCpu, out: &mut Resources) {
    out.cpu_shares = wish.shares();
    out.cpu_quota_us = wish.quota();
    out.cpu_period_us = wish.period();
    out.cpu_burst_us = wish.burst();
    out.cpu_idle = wish.idle();
    out.cpu_rt_runtime_us = wish.realtime_runtime().filter(|v| *v != 0);
    out.cpu_rt_period_us = wish.realtime_period().filter(|v| *v != 0);
    out.cpuset_cpus = wish.cpus().clone();
    out.cpuset_mems = wish.mems().clone();
}

#[allow(
    deprecated,
    reason = "the kernel's limit is deprecated, but not gone, where v1 still has it"
)]
fn memory(wish: &LinuxMemory, out: &mut Resources) -> Result<()> {
    // Unlimited is what there is without asking.
    let some = |value: Option<i64>| value.filter(|v| *v > 0);
    out.memory_limit = wish.limit().filter(|v| *v != 0);
    out.memory_swap = wish.swap().filter(|v| *v != 0);
    out.memory_reservation = wish.reservation().filter(|v| *v != 0);
    out.memory_kernel = some(wish.kernel());
    out.memory_kernel_tcp = some(wish.kernel_tcp());
    // -1 as an unsigned number: the default.
    out.memory_swappiness = wish.swappiness().filter(|v| *v != u64::MAX);
    if let Some(value @ 101..) = out.memory_swappiness {
        return refuse(
            "linux.resources.memory.swappiness",
            format!("invalid memory swappiness value: {value} (valid range is 0-100)"),
        );
    }
    out.oom_kill_disable = wish.disable_oom_killer().unwrap_or(false);
    // A hierarchy without inheritance was given up by the kernel (5.11); with it is what there is.
    if wish.use_hierarchy() == Some(false) {
        return refuse(
            "linux.resources.memory.useHierarchy",
            "false is not supported: groups are hierarchical",
        );
    }
    out.memory_check_before_update = wish.check_before_update().unwrap_or(false);
    Ok(())
}

fn block_io(wish: &LinuxBlockIo, out: &mut Resources) -> Result<()> {
    const FIELD: &str = "linux.resources.blockIO";
    let number =
        |n: i64| u32::try_from(n).or_else(|_| refuse(FIELD, format!("{n} is no device number")));
    let weight = |weight: Option<u16>| match weight {
        None | Some(0) => Ok(None),
        Some(10..=1000) => Ok(weight),
        Some(other) => refuse(FIELD, format!("weight {other} is not in 10..=1000")),
    };
    out.blkio_weight = weight(wish.weight())?;
    out.blkio_leaf_weight = weight(wish.leaf_weight())?;
    for device in wish.weight_device().iter().flatten() {
        out.blkio_device_weights.push(DeviceWeight {
            major: number(device.major())?,
            minor: number(device.minor())?,
            weight: weight(device.weight())?,
            leaf_weight: weight(device.leaf_weight())?,
        });
    }
    let lists: [(ThrottleKind, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (ThrottleKind::ReadBps, wish.throttle_read_bps_device()),
        (ThrottleKind::WriteBps, wish.throttle_write_bps_device()),
        (ThrottleKind::ReadIops, wish.throttle_read_iops_device()),
        (ThrottleKind::WriteIops, wish.throttle_write_iops_device()),
    ];
    for (kind, list) in lists {
        for device in list.iter().flatten() {
            out.blkio_throttles.push(Throttle {
                kind,
                major: number(device.major())?,
                minor: number(device.minor())?,
                rate: device.rate(),
            });
        }
    }
    Ok(())
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
    // Some of runc's callers write `rwa`, and runc passes over the `a`.
    if text.chars().any(|c| !"rwma".contains(c)) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(wish: Value) -> std::result::Result<Resources, String> {
        let wish: LinuxResources = serde_json::from_value(wish).map_err(|e| e.to_string())?;
        resources(Some(&wish)).map_err(|e| e.to_string())
    }

    #[test]
    fn every_field_is_carried() {
        let r = check(json!({
            "memory": {"limit": 100, "reservation": 50, "swap": -1, "kernel": 7, "kernelTCP": 8, "swappiness": 60,
                "disableOOMKiller": true, "useHierarchy": true, "checkBeforeUpdate": true},
            "cpu": {"shares": 2, "quota": -1, "burst": 3, "period": 4, "realtimeRuntime": 5, "realtimePeriod": 6, "cpus": "0", "mems": "0", "idle": 1},
            "pids": {"limit": 0},
            "blockIO": {"weight": 10, "leafWeight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}], "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 2}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
            "network": {"classID": 9, "priorities": [{"name": "eth0", "priority": 5}]},
            "rdma": {"mlx5_0": {"hcaHandles": 3}},
            "unified": {"memory.high": "1"}
        })).unwrap();
        assert_eq!(
            (
                r.memory_limit,
                r.memory_swap,
                r.memory_kernel,
                r.memory_kernel_tcp
            ),
            (Some(100), Some(-1), Some(7), Some(8))
        );
        assert_eq!(
            (
                r.memory_swappiness,
                r.oom_kill_disable,
                r.memory_check_before_update
            ),
            (Some(60), true, true)
        );
        assert_eq!(
            (r.cpu_rt_runtime_us, r.cpu_rt_period_us, r.cpu_idle),
            (Some(5), Some(6), Some(1))
        );
        assert_eq!(r.pids_limit, Some(0));
        assert_eq!(
            (r.blkio_weight, r.blkio_leaf_weight),
            (Some(10), Some(1000))
        );
        assert_eq!(r.blkio_device_weights[0].weight, Some(500));
        let kinds: Vec<ThrottleKind> = r.blkio_throttles.iter().map(|t| t.kind).collect();
        assert_eq!(kinds, [ThrottleKind::ReadBps, ThrottleKind::WriteIops]);
        assert_eq!((r.net_class_id, r.net_priorities[0].1), (Some(9), 5));
        assert_eq!(
            r.rdma["mlx5_0"],
            RdmaLimit {
                handles: Some(3),
                objects: None
            }
        );
        assert_eq!(r.hugepages[0].limit_bytes, 4);
        assert_eq!(r.unified["memory.high"], "1");
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (wish, message) in [
            (
                json!({"memory": {"swappiness": 101}}),
                "invalid memory swappiness value: 101 (valid range is 0-100)",
            ),
            (
                json!({"memory": {"useHierarchy": false}}),
                "linux.resources.memory.useHierarchy",
            ),
            (json!({"blockIO": {"weight": 5}}), "weight 5 is not in"),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
                "-1 is no device number",
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}),
                "is no page size",
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}),
                "its limit is negative",
            ),
            (
                json!({"network": {"priorities": [{"name": "a b", "priority": 1}]}}),
                "no interface's name",
            ),
            (
                json!({"unified": {"a/b": "1"}}),
                "must be a file name (no slashes)",
            ),
            (
                json!({"devices": [{"allow": true, "access": "x"}]}),
                "is not of r, w and m",
            ),
            (
                json!({"devices": [{"allow": true, "type": "p"}]}),
                "a FIFO is not controlled",
            ),
        ] {
            let error = check(wish).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
