//! What a group used, and may use, in the detail that monitoring wants beyond [`super::Stats`].

use std::{collections::BTreeMap, path::Path};

use super::{Group, read, stats::field};

/// `None`: the controller isn't there, or this kernel doesn't tell it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Detail {
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    /// Enforcement periods of a CPU limit, and how many of them ended throttled.
    pub cpu_periods: Option<u64>,
    pub cpu_throttled_periods: Option<u64>,
    /// The weight in v1's scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// The CPU limit: so much time in each period; no quota without a limit.
    pub cpu_quota_us: Option<u64>,
    pub cpu_period_us: Option<u64>,
    pub memory_cache_bytes: Option<u64>,
    pub memory_mapped_bytes: Option<u64>,
    pub memory_swap_bytes: Option<u64>,
    pub memory_kernel_bytes: Option<u64>,
    pub memory_max_usage_bytes: Option<u64>,
    /// How often the limit was hit.
    pub memory_failures: Option<u64>,
    pub memory_active_file_bytes: Option<u64>,
    pub memory_inactive_file_bytes: Option<u64>,
    /// By device, `major:minor`.
    pub io: BTreeMap<String, Io>,
}

/// Reads and writes of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Io {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// `USER_HZ`, the same on every architecture that shows it.
const TICK_NS: u64 = 10_000_000;

impl Group<'_> {
    /// Reads everything that can be read; what can't is `None`.
    pub fn detail(&self) -> Detail {
        let mut detail = Detail::default();
        if let Some(dir) = self.v1_dir("cpuacct") {
            let text = text(&dir.join("cpuacct.stat"));
            let ns = |name| field(&text, name).map(|ticks| ticks * TICK_NS);
            (detail.cpu_user_ns, detail.cpu_system_ns) = (ns("user"), ns("system"));
        }
        if let Some(dir) = self.v1_dir("cpu") {
            detail.fill_periods(&text(&dir.join("cpu.stat")));
            detail.cpu_shares = number(&dir.join("cpu.shares"));
            // -1 without a limit.
            detail.cpu_quota_us = number(&dir.join("cpu.cfs_quota_us"));
            detail.cpu_period_us = number(&dir.join("cpu.cfs_period_us"));
        }
        if let Some(dir) = self.v1_dir("memory") {
            let stat = text(&dir.join("memory.stat"));
            detail.memory_cache_bytes = field(&stat, "total_cache");
            detail.memory_mapped_bytes = field(&stat, "total_mapped_file");
            detail.memory_swap_bytes = field(&stat, "total_swap");
            detail.memory_active_file_bytes = field(&stat, "total_active_file");
            detail.memory_inactive_file_bytes = field(&stat, "total_inactive_file");
            detail.memory_kernel_bytes = number(&dir.join("memory.kmem.usage_in_bytes"));
            detail.memory_max_usage_bytes = number(&dir.join("memory.max_usage_in_bytes"));
            detail.memory_failures = number(&dir.join("memory.failcnt"));
        }
        if let Some(dir) = self.v1_dir("blkio") {
            let file = |name: &str| text(&dir.join(name));
            let bytes = file("blkio.throttle.io_service_bytes_recursive");
            let counts = file("blkio.throttle.io_serviced_recursive");
            detail.io = v1_io(&bytes, &counts);
        }
        if let Some(dir) = self.v2_dir().filter(|dir| dir.is_dir()) {
            detail.fill_v2(&dir);
        }
        detail
    }
}

impl Detail {
    fn fill_periods(&mut self, text: &str) {
        self.cpu_periods = field(text, "nr_periods");
        self.cpu_throttled_periods = field(text, "nr_throttled");
    }

    /// What v1 hasn't told: on hybrid hosts a controller is in one tree or the other.
    fn fill_v2(&mut self, dir: &Path) {
        let cpu = text(&dir.join("cpu.stat"));
        let ns = |name| field(&cpu, name).map(|us| us * 1000);
        if self.cpu_user_ns.is_none() {
            (self.cpu_user_ns, self.cpu_system_ns) = (ns("user_usec"), ns("system_usec"));
        }
        if self.cpu_shares.is_none() {
            self.fill_periods(&cpu);
            self.cpu_shares = number(&dir.join("cpu.weight")).map(weight_to_shares);
            let max = text(&dir.join("cpu.max"));
            let mut words = max.split_whitespace();
            self.cpu_quota_us = words.next().and_then(|quota| quota.parse().ok());
            self.cpu_period_us = words.next().and_then(|period| period.parse().ok());
        }
        let current = dir.join("memory.current");
        if self.memory_cache_bytes.is_none() && current.exists() {
            let stat = text(&dir.join("memory.stat"));
            self.memory_cache_bytes = field(&stat, "file");
            self.memory_mapped_bytes = field(&stat, "file_mapped");
            self.memory_active_file_bytes = field(&stat, "active_file");
            self.memory_inactive_file_bytes = field(&stat, "inactive_file");
            self.memory_kernel_bytes = field(&stat, "kernel");
            self.memory_swap_bytes = number(&dir.join("memory.swap.current"));
            self.memory_max_usage_bytes = number(&dir.join("memory.peak"));
            self.memory_failures = field(&text(&dir.join("memory.events")), "max");
        }
        if self.io.is_empty() {
            self.io = v2_io(&text(&dir.join("io.stat")));
        }
    }
}

/// Empty where the file isn't there.
fn text(path: &Path) -> String {
    read(path).unwrap_or_default()
}

fn number(path: &Path) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// The inverse of [`super::shares_to_weight`].
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "weights are at most 10000, shares at most 262144"
)]
fn weight_to_shares(weight: u64) -> u64 {
    match weight {
        0 => 0,
        1 => 2,
        10_000.. => 262_144,
        _ => {
            let exponent = (weight as f64).log10() + 7.0 / 34.0;
            let l = ((125.0_f64 * 125.0 + 4.0 * 612.0 * exponent).sqrt() - 125.0) / 2.0;
            l.exp2().round() as u64
        }
    }
}

/// `8:0 Read 4096`, a line a device and direction; `Total` is left out.
fn v1_io(bytes: &str, counts: &str) -> BTreeMap<String, Io> {
    let mut io: BTreeMap<String, Io> = BTreeMap::new();
    let rows = |text: &str, take: &mut dyn FnMut(String, &str, u64)| {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(device), Some(way), Some(Ok(number))) =
                (words.next(), words.next(), words.next().map(str::parse))
            {
                take(device.to_owned(), way, number);
            }
        }
    };
    rows(bytes, &mut |device, way, number| match way {
        "Read" => io.entry(device).or_default().read_bytes = number,
        "Write" => io.entry(device).or_default().write_bytes = number,
        _ => {}
    });
    rows(counts, &mut |device, way, number| match way {
        "Read" => io.entry(device).or_default().reads = number,
        "Write" => io.entry(device).or_default().writes = number,
        _ => {}
    });
    io
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`.
fn v2_io(text: &str) -> BTreeMap<String, Io> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let device = words.next()?.to_owned();
            let mut io = Io::default();
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let Ok(value) = value.parse() else { continue };
                match key {
                    "rbytes" => io.read_bytes = value,
                    "wbytes" => io.write_bytes = value,
                    "rios" => io.reads = value,
                    "wios" => io.writes = value,
                    _ => {}
                }
            }
            Some((device, io))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_of_devices() {
        let expect = BTreeMap::from([(
            "8:0".to_owned(),
            Io {
                read_bytes: 4096,
                write_bytes: 8192,
                reads: 1,
                writes: 2,
            },
        )]);
        let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Total 12288\nTotal 12288\n";
        let counts = "8:0 Read 1\n8:0 Write 2\nTotal 3\n";
        assert_eq!(v1_io(bytes, counts), expect);
        assert_eq!(
            v2_io("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"),
            expect
        );
    }

    #[test]
    fn weights_are_told_as_shares() {
        let told = |weight| weight_to_shares(weight);
        assert_eq!((told(1), told(100), told(10_000)), (2, 1024, 262_144));
    }

    #[test]
    fn a_v2_group_is_read_whole() {
        let dir = std::env::temp_dir().join(format!("kernelet-detail-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, text) in [
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 1\n",
            ),
            ("cpu.weight", "1\n"),
            ("cpu.max", "50000 100000\n"),
            ("memory.current", "1\n"),
            (
                "memory.stat",
                "file 5\nfile_mapped 6\nactive_file 7\ninactive_file 8\nkernel 9\n",
            ),
            ("memory.events", "low 0\nmax 3\n"),
            ("memory.swap.current", "11\n"),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let mut detail = Detail::default();
        detail.fill_v2(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        let expect = Detail {
            cpu_user_ns: Some(10_000),
            cpu_system_ns: Some(20_000),
            cpu_periods: Some(4),
            cpu_throttled_periods: Some(1),
            cpu_shares: Some(2),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_cache_bytes: Some(5),
            memory_mapped_bytes: Some(6),
            memory_swap_bytes: Some(11),
            memory_kernel_bytes: Some(9),
            memory_max_usage_bytes: None,
            memory_failures: Some(3),
            memory_active_file_bytes: Some(7),
            memory_inactive_file_bytes: Some(8),
            io: BTreeMap::new(),
        };
        assert_eq!(detail, expect);
    }
}
