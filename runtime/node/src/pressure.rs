//! When a node is under pressure: the kubelet's hard eviction thresholds (`--eviction-hard`), and what is held against them.

use std::{collections::BTreeMap, path::Path, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kernelet_pod_plan::quantity;

use crate::facts::{Disk, meminfo};

/// What a threshold is about, by the kubelet's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Signal {
    Memory,
    NodeDisk,
    NodeInodes,
    ImageDisk,
    ImageInodes,
    Pids,
}

/// How little may be left.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    /// Bytes, inodes or tasks.
    Amount(u64),
    /// 0 to 100, of what there is in all.
    Percent(f64),
}

/// Thresholds below which a node reports pressure and takes no further pods. Without any it never does.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(BTreeMap<Signal, Least>);

/// Why a text is no list of thresholds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("invalid eviction threshold syntax {0}, expected <signal><operator><value>")]
    Syntax(String),
    #[error(
        "unsupported eviction signal {0}: there are memory.available, nodefs.available, nodefs.inodesFree, \
         imagefs.available, imagefs.inodesFree and pid.available"
    )]
    Signal(String),
    #[error("duplicate eviction threshold specified: {0}")]
    Twice(String),
    #[error("eviction threshold {0} must be a quantity, or 0% to 100%")]
    Value(String),
}

impl Signal {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::Memory,
            "nodefs.available" => Self::NodeDisk,
            "nodefs.inodesFree" => Self::NodeInodes,
            "imagefs.available" => Self::ImageDisk,
            "imagefs.inodesFree" => Self::ImageInodes,
            "pid.available" => Self::Pids,
            _ => return None,
        })
    }
}

impl Default for Thresholds {
    /// The kubelet's, but for disks and tasks: a large disk is still usable with a twentieth of it free.
    fn default() -> Self {
        Self(BTreeMap::from([
            (Signal::Memory, Least::Amount(100 << 20)),
            (Signal::NodeDisk, Least::Percent(5.0)),
            (Signal::NodeInodes, Least::Percent(5.0)),
            (Signal::ImageDisk, Least::Percent(5.0)),
            (Signal::ImageInodes, Least::Percent(5.0)),
            (Signal::Pids, Least::Percent(10.0)),
        ]))
    }
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    /// `memory.available<100Mi,nodefs.available<10%`; what isn't named has no threshold.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, value) = item
                .split_once('<')
                .ok_or_else(|| ThresholdError::Syntax(item.to_owned()))?;
            let signal = Signal::named(name.trim())
                .ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
            let least =
                Least::read(value.trim()).ok_or_else(|| ThresholdError::Value(item.to_owned()))?;
            if all.insert(signal, least).is_some() {
                return Err(ThresholdError::Twice(name.to_owned()));
            }
        }
        Ok(Self(all))
    }
}

impl Least {
    fn read(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(number) => number
                .parse()
                .ok()
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(Self::Percent),
            None => quantity::value(&Quantity(text.to_owned()))
                .and_then(|n| u64::try_from(n).ok())
                .map(Self::Amount),
        }
    }

    fn is_undercut(self, left: u64, all: u64) -> bool {
        match self {
            Self::Amount(least) => left < least,
            // Percents of what can't be counted are nothing.
            Self::Percent(percent) => (left as f64) < all as f64 * percent / 100.0,
        }
    }
}

/// A node's pressure conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// What is left and what there is in all.
type Stock = Option<(u64, u64)>;

impl Thresholds {
    /// Looks at the memory, at the disks of these two folders and at the tasks.
    pub(crate) fn look(&self, node_dir: &Path, image_dir: &Path) -> Pressure {
        let (node, image) = (Disk::of(node_dir), Disk::of(image_dir));
        let bytes = |disk: Option<Disk>| disk.map(|d| (d.available, d.total));
        // A file system without a fixed number of inodes says 0.
        let inodes = |disk: Option<Disk>| {
            disk.filter(|d| d.inodes > 0)
                .map(|d| (d.inodes_free, d.inodes))
        };
        self.held_against(|signal| match signal {
            Signal::Memory => meminfo("MemAvailable:").zip(meminfo("MemTotal:")),
            Signal::NodeDisk => bytes(node),
            Signal::NodeInodes => inodes(node),
            Signal::ImageDisk => bytes(image),
            Signal::ImageInodes => inodes(image),
            Signal::Pids => pids(),
        })
    }

    fn held_against(&self, stock: impl Fn(Signal) -> Stock) -> Pressure {
        let mut pressure = Pressure::default();
        for (signal, least) in &self.0 {
            if stock(*signal).is_some_and(|(left, all)| least.is_undercut(left, all)) {
                match signal {
                    Signal::Memory => pressure.memory = true,
                    Signal::Pids => pressure.pids = true,
                    _ => pressure.disk = true,
                }
            }
        }
        pressure
    }
}

/// Tasks that may still be started, and how many there may be.
fn pids() -> Stock {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used: u64 = load
        .split_whitespace()
        .nth(3)?
        .split_once('/')?
        .1
        .parse()
        .ok()?;
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    Some((most.saturating_sub(used), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(text: &str) -> (bool, bool, bool) {
        let found = text
            .parse::<Thresholds>()
            .unwrap()
            .held_against(|signal| match signal {
                Signal::Memory => Some((1 << 30, 4 << 30)),
                Signal::NodeDisk => Some((8, 100)),
                Signal::ImageDisk => Some((30, 100)),
                Signal::NodeInodes | Signal::ImageInodes => None,
                Signal::Pids => Some((1000, 32768)),
            });
        (found.memory, found.disk, found.pids)
    }

    #[test]
    fn each_threshold_is_held_against_its_own_stock() {
        assert_eq!(pressure(""), (false, false, false));
        assert_eq!(pressure("memory.available<1Gi"), (false, false, false));
        assert_eq!(pressure("memory.available<1025Mi"), (true, false, false));
        assert_eq!(
            pressure("nodefs.available<8%,imagefs.available<30%"),
            (false, false, false)
        );
        assert_eq!(pressure("nodefs.available<8.5%"), (false, true, false));
        assert_eq!(
            pressure("imagefs.available<31%,pid.available<1001"),
            (false, true, true)
        );
        assert_eq!(
            pressure("nodefs.inodesFree<100%,imagefs.inodesFree<9G"),
            (false, false, false)
        );
    }

    #[test]
    fn what_is_no_threshold_is_refused_by_name() {
        for (text, message) in [
            (
                "nodefs.available=10%",
                "invalid eviction threshold syntax nodefs.available=10%",
            ),
            ("rootfs.available<1%", "eviction signal rootfs.available"),
            (
                "memory.available<1Gi,memory.available<2Gi",
                "duplicate eviction threshold specified: memory.available",
            ),
            ("memory.available<-1", "memory.available<-1 must be"),
            ("nodefs.available<101%", "must be a quantity"),
            ("nodefs.available<NaN%", "must be a quantity"),
            ("pid.available<many", "must be a quantity"),
        ] {
            let error = text.parse::<Thresholds>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let none = "".parse::<Thresholds>().unwrap();
        let dir = Path::new("/");
        assert_eq!(none.look(dir, dir), Pressure::default());
        let all = "memory.available<100%,nodefs.available<100%,pid.available<100%";
        let full = all.parse::<Thresholds>().unwrap().look(dir, dir);
        assert!(full.memory && full.disk && full.pids, "{full:?}");
    }
}
