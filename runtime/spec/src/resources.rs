//! What a cgroup is limited to, in the terms of OCI; which cgroup version carries it out is the
//! concern of `kernelet-sys`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `None` leaves the kernel's default everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// 2 to 262144; 1024 is one CPU's share. On v2 it becomes `cpu.weight`.
    pub cpu_shares: Option<u64>,
    /// Microseconds a period; -1: no limit.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub cpu_burst_us: Option<u64>,
    pub cpu_idle: Option<i64>,
    /// Microseconds a period for real-time processes; v1 only.
    pub cpu_rt_runtime_us: Option<i64>,
    pub cpu_rt_period_us: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Bytes; -1: no limit.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, bytes; -1: no limit.
    pub memory_swap: Option<i64>,
    pub memory_reservation: Option<i64>,
    /// Of the kernel's memory, and of its TCP buffers; v1 only.
    pub memory_kernel: Option<i64>,
    pub memory_kernel_tcp: Option<i64>,
    /// 0 to 100; v1 only.
    pub memory_swappiness: Option<u64>,
    /// v1 only.
    pub oom_kill_disable: bool,
    /// A limit below what is used now is refused (v2; v1's kernel does so by itself).
    pub memory_check_before_update: bool,
    /// All of the group dies when one of its processes is chosen (v2's `memory.oom.group`).
    pub oom_group: bool,
    /// Negative: no limit. 0 counts as 1, as in other runtimes: the container's first process exists anyway.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Against the group's children; v1 only.
    pub blkio_leaf_weight: Option<u16>,
    pub blkio_device_weights: Vec<DeviceWeight>,
    pub blkio_throttles: Vec<Throttle>,
    /// v1 only.
    pub net_class_id: Option<u32>,
    /// Interface and priority; v1 only.
    pub net_priorities: Vec<(String, u32)>,
    /// By device.
    pub rdma: BTreeMap<String, RdmaLimit>,
    pub hugepages: Vec<HugepageLimit>,
    /// Applied in order, the last match wins, on top of "nothing is allowed".
    /// `None`: every device (a pod's group, a privileged container).
    pub devices: Option<Vec<DeviceRule>>,
    /// OCI's `unified`: written as given, v2 only.
    pub unified: BTreeMap<String, String>,
}

/// A block device's weight against others: 10 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    pub major: u32,
    pub minor: u32,
    pub weight: Option<u16>,
    pub leaf_weight: Option<u16>,
}

/// At most so much of one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    pub kind: ThrottleKind,
    pub major: u32,
    pub minor: u32,
    /// Bytes or operations a second; 0: no limit.
    pub rate: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThrottleKind {
    ReadBps,
    WriteBps,
    ReadIops,
    WriteIops,
}

/// `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RdmaLimit {
    pub handles: Option<u32>,
    pub objects: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`: as the kernel names its files.
    pub page_size: String,
    pub limit_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceRuleKind,
    /// `None`: any.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: DeviceAccess,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceRuleKind {
    All,
    Block,
    Char,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl DeviceAccess {
    pub const ALL: DeviceAccess = DeviceAccess {
        read: true,
        write: true,
        mknod: true,
    };
    pub const MKNOD: DeviceAccess = DeviceAccess {
        read: false,
        write: false,
        mknod: true,
    };
}

impl Resources {
    /// The devices every container may use: those of OCI's default `/dev`, pseudo terminals, and
    /// making (not opening) any node.
    pub fn default_devices() -> Vec<DeviceRule> {
        let mknod = |kind| DeviceRule {
            allow: true,
            kind,
            major: None,
            minor: None,
            access: DeviceAccess::MKNOD,
        };
        let char = |major, minor| DeviceRule {
            allow: true,
            kind: DeviceRuleKind::Char,
            major: Some(major),
            minor,
            access: DeviceAccess::ALL,
        };
        vec![
            mknod(DeviceRuleKind::Char),
            mknod(DeviceRuleKind::Block),
            char(1, Some(3)),
            char(1, Some(5)),
            char(1, Some(7)),
            char(1, Some(8)),
            char(1, Some(9)),
            char(5, Some(0)),
            char(5, Some(2)),
            char(136, None),
        ]
    }

    /// Kubernetes' `resources.limits.cpu` in milli-CPUs, as quota and period.
    pub fn cpu_limit_milli(&mut self, milli: u64) {
        // kubelet's period; its quota's lower bound is the kernel's 1 ms.
        self.cpu_period_us = Some(100_000);
        self.cpu_quota_us = Some(((milli * 100).max(1000)) as i64);
    }

    /// Kubernetes' `resources.requests.cpu` in milli-CPUs, as shares.
    pub fn cpu_request_milli(&mut self, milli: u64) {
        self.cpu_shares = Some((milli * 1024 / 1000).clamp(2, 262_144));
    }
}
