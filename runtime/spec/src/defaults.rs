//! What every container of a pod gets without asking.

use std::path::PathBuf;

use crate::{MountExtra, MountFlags, MountPlan, MountSource, Propagation};

/// Hidden from containers unless `procMount: Unmasked` or privileged.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Read-only for containers, likewise.
pub const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// `/proc`, `/dev` and its parts, `/sys` and cgroups. `privileged` leaves the last two writable.
/// `pod_shm`: the pod's own `/dev/shm` (with `hostIPC` the caller binds the host's instead).
pub fn kubernetes_mounts(privileged: bool) -> Vec<MountPlan> {
    let mount = |destination: &str, source, flags| MountPlan {
        destination: PathBuf::from(destination),
        source,
        flags,
        propagation: Propagation::Private,
        extra: MountExtra::default(),
    };
    let no_suid = MountFlags {
        no_suid: true,
        ..MountFlags::default()
    };
    let sys = MountFlags {
        read_only: !privileged,
        ..MountFlags::KERNEL
    };
    vec![
        mount("/proc", MountSource::Proc, MountFlags::KERNEL),
        mount(
            "/dev",
            MountSource::Dev,
            MountFlags {
                strict_atime: true,
                ..no_suid
            },
        ),
        mount(
            "/dev/pts",
            MountSource::Devpts,
            MountFlags {
                no_exec: true,
                ..no_suid
            },
        ),
        mount("/dev/mqueue", MountSource::Mqueue, MountFlags::KERNEL),
        mount("/sys", MountSource::Sysfs, sys),
        mount("/sys/fs/cgroup", MountSource::Cgroup, sys),
        mount("/dev/shm", MountSource::PodShm, MountFlags::KERNEL),
    ]
}
