//! This process as every Prometheus client describes its own: `process_*`.

use std::fmt;

/// Figures of `/proc/self`.
#[derive(Debug, PartialEq)]
pub struct Process {
    cpu_seconds: f64,
    open_files: usize,
    most_files: Option<f64>,
    virtual_bytes: u64,
    resident_bytes: u64,
    start_seconds: f64,
}

/// The unit of times in `/proc`, on every architecture that Linux shows them on.
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

impl Process {
    /// `None` where `/proc` isn't mounted.
    pub fn look() -> Option<Process> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let boot: f64 = read("/proc/stat")?
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
        let most = read("/proc/self/limits")?.lines().find_map(|line| {
            line.strip_prefix("Max open files")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        let mut process = Process::parse(&read("/proc/self/stat")?, boot)?;
        process.most_files = most;
        // One of them is the folder that is being read.
        process.open_files = std::fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1);
        Some(process)
    }

    /// Of the text of `/proc/self/stat`; `boot` in seconds since 1970.
    fn parse(stat: &str, boot: f64) -> Option<Process> {
        // The name may hold spaces and brackets; the fields come after the last of them.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        let bytes = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Process {
            cpu_seconds: (number(11)? + number(12)?) / TICKS,
            open_files: 0,
            most_files: None,
            virtual_bytes: bytes(20)?,
            resident_bytes: bytes(21)? * PAGE,
            start_seconds: boot + number(19)? / TICKS,
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn fmt::Display| {
            writeln!(
                f,
                "# HELP process_{name} {help}\n# TYPE process_{name} {kind}\nprocess_{name} {value}"
            )
        };
        family(
            "cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            &self.cpu_seconds,
        )?;
        family(
            "open_fds",
            "gauge",
            "Number of open file descriptors.",
            &self.open_files,
        )?;
        if let Some(most) = self.most_files {
            family(
                "max_fds",
                "gauge",
                "Maximum number of open file descriptors.",
                &most,
            )?;
        }
        family(
            "virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            &self.virtual_bytes,
        )?;
        family(
            "resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            &self.resident_bytes,
        )?;
        family(
            "start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            &self.start_seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 5 0 0 0 250 50 0 0 20 0 9 0 1000 8192 3 0";
        let process = Process::parse(stat, 100.0).unwrap();
        assert_eq!(
            (
                process.cpu_seconds,
                process.virtual_bytes,
                process.resident_bytes
            ),
            (3.0, 8192, 3 * 4096)
        );
        assert!((process.start_seconds - 110.0).abs() < 1e-9);
        assert!(Process::look().unwrap().resident_bytes > 0);
    }
}
