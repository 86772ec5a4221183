//! This machine as the Node object describes it.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::{api::core::v1::NodeSystemInfo, apimachinery::pkg::api::resource::Quantity};
use kernelet_pod_plan::NodeFacts;

use crate::NodeConfig;

/// What doesn't change while the machine runs.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub info: NodeSystemInfo,
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|t| t.trim().to_owned())
        .unwrap_or_default()
}

impl Machine {
    pub fn look() -> Self {
        let os_release = read("/etc/os-release");
        let os_image = os_release
            .lines()
            .find_map(|l| l.strip_prefix("PRETTY_NAME="))
            .map_or_else(
                || "Linux".to_owned(),
                |name| name.trim_matches('"').to_owned(),
            );
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid");
        let version = format!("v1.35.0+kernelet.{}", env!("CARGO_PKG_VERSION"));
        let info = NodeSystemInfo {
            architecture: go_architecture().to_owned(),
            boot_id: kernelet_sys::process::boot_id().unwrap_or_default(),
            container_runtime_version: format!("kernelet://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: version,
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            operating_system: "linux".to_owned(),
            os_image,
            ..NodeSystemInfo::default()
        };
        let cpus = std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self {
            cpus,
            memory_bytes: memory_total(),
            info,
        }
    }

    pub fn node_facts(&self, config: &NodeConfig) -> NodeFacts {
        NodeFacts {
            host_ips: config.node_ips.clone(),
            cgroup_root: config.cgroup_root.clone(),
            memory_bytes: self.memory_bytes,
            cpus: self.cpus,
            oom_score_floor: oom_score_floor(),
            pod_pids: Some(POD_PIDS),
        }
    }

    /// `status.capacity`; nothing is kept back from pods, so it is the allocatable too.
    pub fn capacity(&self, data_dir: &Path, max_pods: u32) -> BTreeMap<String, Quantity> {
        let mut capacity = BTreeMap::from([
            ("cpu".to_owned(), Quantity(self.cpus.to_string())),
            (
                "memory".to_owned(),
                Quantity(format!("{}Ki", self.memory_bytes / 1024)),
            ),
            ("pods".to_owned(), Quantity(max_pods.to_string())),
        ]);
        if let Some(disk) = Disk::of(data_dir) {
            capacity.insert(
                "ephemeral-storage".to_owned(),
                Quantity(format!("{}Ki", disk.total / 1024)),
            );
        }
        for entry in fs::read_dir("/sys/kernel/mm/hugepages")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let Some(kib) = name.to_str().and_then(|n| {
                n.strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse::<u64>()
                    .ok()
            }) else {
                continue;
            };
            let count: u64 = fs::read_to_string(entry.path().join("nr_hugepages"))
                .ok()
                .and_then(|t| t.trim().parse().ok())
                .unwrap_or(0);
            let size = if kib % (1 << 20) == 0 {
                format!("{}Gi", kib >> 20)
            } else {
                format!("{}Mi", kib >> 10)
            };
            let total = if count == 0 {
                "0".to_owned()
            } else {
                format!("{}Mi", count * kib / 1024)
            };
            capacity.insert(format!("hugepages-{size}"), Quantity(total));
        }
        capacity
    }
}

/// A pod that forks without end takes its own tasks and nobody else's.
pub(crate) const POD_PIDS: u64 = 16_384;

/// As Go names it.
pub(crate) fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn memory_total() -> u64 {
    meminfo("MemTotal:").unwrap_or(0)
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Without CAP_SYS_RESOURCE the kernel lets a process only raise the score it inherited.
fn oom_score_floor() -> i32 {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if effective & SYS_RESOURCE != 0 {
        -1000
    } else {
        read("/proc/self/oom_score_adj").parse().unwrap_or(0)
    }
}

/// A file system's space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub total: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Disk {
    pub fn of(path: &Path) -> Option<Self> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = stat.fragment_size();
        Some(Self {
            total: stat.blocks() * unit,
            available: stat.blocks_available() * unit,
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_every_machine_has() {
        let machine = Machine::look();
        assert!(machine.cpus >= 1 && machine.memory_bytes > 64 << 20);
        let capacity = machine.capacity(Path::new("/"), 500);
        assert_eq!(capacity["pods"].0, "500");
        assert!(capacity.contains_key("ephemeral-storage"));
        assert!(!machine.info.kernel_version.is_empty() && !machine.info.boot_id.is_empty());
    }
}
