//! One look at everything that the node can measure.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use kernelet_pod_plan::{Wanted, cgroup};
use kernelet_sys::cgroup::{Detail, Stats};
use kube::ResourceExt;

use super::{
    disk::Used,
    network::{self, Interface},
    process::Process,
};
use crate::{
    context::Context,
    facts::{Disk, meminfo},
    worker::View,
};

/// How much is looked at: disks take the longest, then networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    CpuAndMemory,
    Whole,
}

/// What there was to see.
#[derive(Debug)]
pub(crate) struct Look {
    pub at: Timestamp,
    /// The whole machine.
    pub node: Use,
    pub booted: Option<Timestamp>,
    pub memory_available: u64,
    pub swap_free: u64,
    pub system: Vec<SystemUse>,
    pub pods: Vec<PodUse>,
}

/// What one group uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Use {
    /// Its path below the hierarchies' roots, without slashes around; empty for the root.
    pub group: String,
    pub stats: Stats,
    pub detail: Detail,
    /// Since an earlier look, in billionths of a CPU.
    pub nano_cores: Option<u64>,
}

/// What the pods need to run, and all of them.
#[derive(Debug)]
pub(crate) struct SystemUse {
    /// `kubelet`, `runtime` or `pods`.
    pub name: &'static str,
    pub started: Option<Timestamp>,
    pub usage: Use,
}

#[derive(Debug)]
pub(crate) struct PodUse {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub usage: Use,
    pub containers: Vec<ContainerUse>,
    /// Of the pod's own network namespace; none with `hostNetwork`.
    pub interfaces: Vec<Interface>,
    /// Volumes on the node's disk.
    pub volumes: Vec<(String, Used)>,
}

#[derive(Debug)]
pub(crate) struct ContainerUse {
    pub name: String,
    pub id: String,
    pub image: String,
    pub started: Option<Timestamp>,
    pub usage: Use,
    /// The writable layer, and what was logged.
    pub rootfs: Used,
    pub logs: Used,
}

impl PodUse {
    /// Of what the pod writes to the node's disk.
    pub fn ephemeral(&self) -> Used {
        let containers = self.containers.iter().flat_map(|c| [c.rootfs, c.logs]);
        let volumes = self.volumes.iter().map(|(_, used)| *used);
        containers
            .chain(volumes)
            .fold(Used::default(), |sum, one| Used {
                bytes: sum.bytes + one.bytes,
                inodes: sum.inodes + one.inodes,
            })
    }
}

impl Look {
    /// Looks now. Blocks: not for the async runtime's threads.
    pub fn take(ctx: &Context, views: &[View], depth: Depth) -> Look {
        let at = Timestamp::now();
        let looker = Looker { ctx, at, depth };
        let total = meminfo("MemTotal:").unwrap_or(0);
        let available = meminfo("MemAvailable:").unwrap_or(0).min(total);
        let running = views
            .iter()
            .filter(|v| v.status.phase.as_deref() == Some("Running"));
        Look {
            at,
            node: looker.node(total - available),
            booted: booted(),
            memory_available: available,
            swap_free: meminfo("SwapFree:").unwrap_or(0),
            system: looker.system(),
            pods: running.map(|view| looker.pod(view)).collect(),
        }
    }
}

struct Looker<'a> {
    ctx: &'a Context,
    at: Timestamp,
    depth: Depth,
}

impl Looker<'_> {
    fn group(&self, path: &str) -> Use {
        let group = self.ctx.layout.group(path);
        let stats = group.stats().unwrap_or_default();
        Use {
            group: group.path().to_owned(),
            nano_cores: self.rate(path, stats.cpu_usage_ns),
            stats,
            detail: group.detail(),
        }
    }

    fn rate(&self, name: &str, cpu_ns: Option<u64>) -> Option<u64> {
        self.ctx.rates.of(name, cpu_ns?, self.at)
    }

    /// `/proc` rather than the root's cgroup, which has no memory figures in v2.
    fn node(&self, used: u64) -> Use {
        let stats = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let count = |name: &str| {
            stats.lines().find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == name).then(|| value.trim().parse().ok())?
            })
        };
        let total = meminfo("MemTotal:").unwrap_or(0);
        let free = meminfo("MemFree:").unwrap_or(0);
        let cpu = cpu_of_machine();
        let swap = meminfo("SwapTotal:").unwrap_or(0);
        Use {
            group: String::new(),
            nano_cores: self.rate("/", cpu.map(|cpu| cpu.busy_ns)),
            stats: Stats {
                cpu_usage_ns: cpu.map(|cpu| cpu.busy_ns),
                memory_usage_bytes: Some(total.saturating_sub(free)),
                memory_working_set_bytes: Some(used),
                memory_rss_bytes: meminfo("AnonPages:"),
                page_faults: count("pgfault"),
                major_page_faults: count("pgmajfault"),
                ..Stats::default()
            },
            detail: Detail {
                cpu_user_ns: cpu.map(|cpu| cpu.user_ns),
                cpu_system_ns: cpu.map(|cpu| cpu.system_ns),
                memory_cache_bytes: meminfo("Cached:"),
                memory_mapped_bytes: meminfo("Mapped:"),
                memory_active_file_bytes: meminfo("Active(file):"),
                memory_inactive_file_bytes: meminfo("Inactive(file):"),
                memory_swap_bytes: Some(swap.saturating_sub(meminfo("SwapFree:").unwrap_or(0))),
                ..Detail::default()
            },
        }
    }

    fn system(&self) -> Vec<SystemUse> {
        let root = self.ctx.config.cgroup_root.trim_end_matches('/');
        let process = Process::look();
        let kubelet = Use {
            group: String::new(),
            nano_cores: self.rate("kubelet", process.map(|p| p.cpu_ns)),
            stats: Stats {
                cpu_usage_ns: process.map(|p| p.cpu_ns),
                memory_usage_bytes: process.map(|p| p.resident_bytes),
                memory_working_set_bytes: process.map(|p| p.resident_bytes),
                memory_rss_bytes: process.map(|p| p.resident_bytes),
                ..Stats::default()
            },
            detail: Detail::default(),
        };
        let started = process.and_then(|p| Timestamp::from_millisecond(p.started_ms).ok());
        vec![
            SystemUse {
                name: "kubelet",
                started,
                usage: kubelet,
            },
            SystemUse {
                name: "runtime",
                started,
                usage: self.group(&format!("{root}/shims")),
            },
            SystemUse {
                name: "pods",
                started,
                usage: self.group(&format!("{root}/kubepods")),
            },
        ]
    }

    fn pod(&self, view: &View) -> PodUse {
        let wanted = Wanted::new(view.pod.clone(), self.ctx.facts.clone());
        let group = cgroup::PodCgroup::of(&self.ctx.config.cgroup_root, &wanted);
        let uid = view.pod.uid().unwrap_or_default();
        let (namespace, name) = (
            view.pod.namespace().unwrap_or_default(),
            view.pod.name_any(),
        );
        let dir = self.ctx.pod_dir(&uid);
        let logs = self.ctx.pod_log_dir(&namespace, &name, &uid);
        let containers: Vec<ContainerUse> = view
            .containers
            .iter()
            .filter(|(name, _)| is_running(view, name))
            .map(|(name, (id, _))| {
                let path = group.container(id);
                ContainerUse {
                    id: id.0.clone(),
                    image: image(view, name),
                    started: started_at(view, name),
                    usage: self.group(&path),
                    rootfs: self.used(dir.join("containers").join(&id.0).join("upper")),
                    logs: self.used(logs.join(name)),
                    name: name.clone(),
                }
            })
            .collect();
        let whole = self.depth == Depth::Whole;
        let process = containers
            .iter()
            .filter(|_| whole && !wanted.host_network())
            .find_map(|c| self.process_in(&c.usage.group));
        PodUse {
            started: view.status.start_time.as_ref().map(|time| time.0),
            usage: self.group(&group.path),
            containers,
            interfaces: process.map(network::of_process).unwrap_or_default(),
            volumes: if whole { self.volumes(&dir) } else { vec![] },
            namespace,
            name,
            uid,
        }
    }

    fn used(&self, dir: PathBuf) -> Used {
        match self.depth {
            Depth::Whole => self.ctx.disks.used(&dir),
            Depth::CpuAndMemory => Used::default(),
        }
    }

    /// Of the volumes that are folders; a tmpfs is memory, and the shim's.
    fn volumes(&self, pod: &std::path::Path) -> Vec<(String, Used)> {
        let kinds = fs::read_dir(pod.join("volumes")).into_iter().flatten();
        let mut volumes: Vec<(String, Used)> = kinds
            .flatten()
            .flat_map(|kind| fs::read_dir(kind.path()).into_iter().flatten().flatten())
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name, self.used(entry.path())))
            })
            .collect();
        volumes.sort_by(|a, b| a.0.cmp(&b.0));
        volumes
    }

    /// Any process of a group: it sees the pod's network.
    fn process_in(&self, path: &str) -> Option<u32> {
        let pids = self.ctx.layout.group(path).pids().ok()?;
        pids.first().and_then(|pid| u32::try_from(*pid).ok())
    }
}

/// The file system that holds pods and images.
pub(crate) fn disk(ctx: &Context) -> Option<Disk> {
    Disk::of(&ctx.config.data_dir)
}

fn status<'v>(
    view: &'v View,
    container: &str,
) -> Option<&'v k8s_openapi::api::core::v1::ContainerStatus> {
    view.status
        .container_statuses
        .iter()
        .chain(&view.status.init_container_statuses)
        .chain(&view.status.ephemeral_container_statuses)
        .flatten()
        .find(|status| status.name == container)
}

pub(crate) fn is_running(view: &View, container: &str) -> bool {
    let state = status(view, container).and_then(|s| s.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn started_at(view: &View, container: &str) -> Option<Timestamp> {
    let state = status(view, container)?.state.as_ref()?;
    Some(state.running.as_ref()?.started_at.as_ref()?.0)
}

fn image(view: &View, container: &str) -> String {
    status(view, container)
        .map(|status| status.image.clone())
        .unwrap_or_default()
}

/// CPU time of the whole machine since its boot.
#[derive(Clone, Copy)]
struct CpuTime {
    busy_ns: u64,
    user_ns: u64,
    system_ns: u64,
}

fn cpu_of_machine() -> Option<CpuTime> {
    cpu_time(&fs::read_to_string("/proc/stat").ok()?)
}

fn cpu_time(stat: &str) -> Option<CpuTime> {
    const TICK_NS: u64 = 10_000_000;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest times are in user already.
    let sum = |of: &[usize]| -> u64 { of.iter().filter_map(|i| ticks.get(*i)).sum() };
    Some(CpuTime {
        busy_ns: sum(&[0, 1, 2, 5, 6, 7]) * TICK_NS,
        user_ns: sum(&[0, 1]) * TICK_NS,
        system_ns: sum(&[2, 5, 6]) * TICK_NS,
    })
}

fn booted() -> Option<Timestamp> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let seconds = text
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_what_it_did_not_idle() {
        let time = cpu_time("cpu  100 10 50 9000 30 5 5 2 40 0\ncpu0 1 2 3\n").unwrap();
        let ms = |ns: u64| ns / 1_000_000;
        assert_eq!(
            (ms(time.busy_ns), ms(time.user_ns), ms(time.system_ns)),
            (1720, 1100, 600)
        );
        assert!(cpu_time("nonsense").is_none());
    }
}
