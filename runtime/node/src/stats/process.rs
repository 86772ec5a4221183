//! The node's own process: `process_*`, as every Prometheus client tells of itself.

use std::fs;

use super::text::{Text, float};

/// Figures of `/proc/self`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Process {
    pub cpu_ns: u64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    /// Since 1970.
    pub started_ms: i64,
    pub open_files: u64,
    pub most_files: Option<u64>,
}

const TICK_NS: u64 = 10_000_000;
const PAGE: u64 = 4096;

impl Process {
    pub fn look() -> Option<Process> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let boot: i64 = read("/proc/stat")?
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
        let limits = read("/proc/self/limits")?;
        let most_files = limits.lines().find_map(|line| {
            let rest = line.strip_prefix("Max open files")?;
            rest.split_whitespace().next()?.parse().ok()
        });
        let open = fs::read_dir("/proc/self/fd").ok()?.count();
        Some(Process {
            most_files,
            // One of them is the folder that is being read.
            open_files: u64::try_from(open).ok()?.saturating_sub(1),
            ..Process::parse(&read("/proc/self/stat")?, boot)?
        })
    }

    /// Of `/proc/self/stat`; `boot` in seconds since 1970.
    fn parse(stat: &str, boot: i64) -> Option<Process> {
        // The name may hold spaces and brackets; the fields come after the last of them.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<u64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let at = |index: usize| fields.get(index).copied();
        Some(Process {
            cpu_ns: (at(11)? + at(12)?) * TICK_NS,
            virtual_bytes: at(20)?,
            resident_bytes: at(21)? * PAGE,
            started_ms: boot * 1000 + i64::try_from(at(19)? * 10).ok()?,
            open_files: 0,
            most_files: None,
        })
    }

    pub fn write(&self, text: &mut Text) {
        let name = |rest: &str| format!("process_{rest}");
        let mut gauge = |rest: &str, help: &str, value: f64| {
            text.one(&name(rest), "gauge", help, value);
        };
        gauge(
            "open_fds",
            "Number of open file descriptors.",
            float(self.open_files),
        );
        if let Some(most) = self.most_files {
            gauge(
                "max_fds",
                "Maximum number of open file descriptors.",
                float(most),
            );
        }
        gauge(
            "virtual_memory_bytes",
            "Virtual memory size in bytes.",
            float(self.virtual_bytes),
        );
        gauge(
            "resident_memory_bytes",
            "Resident memory size in bytes.",
            float(self.resident_bytes),
        );
        gauge(
            "start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            float(u64::try_from(self.started_ms).unwrap_or(0)) / 1e3,
        );
        text.one(
            &name("cpu_seconds_total"),
            "counter",
            "Total user and system CPU time spent in seconds.",
            float(self.cpu_ns) / 1e9,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 5 0 0 0 250 50 0 0 20 0 9 0 1000 8192 3 0";
        let process = Process::parse(stat, 100).unwrap();
        assert_eq!(
            (process.cpu_ns, process.resident_bytes),
            (3_000_000_000, 3 * 4096)
        );
        assert_eq!((process.virtual_bytes, process.started_ms), (8192, 110_000));
        assert!(Process::look().unwrap().open_files > 0);
    }
}
