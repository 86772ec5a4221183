//! What an idle control plane and node hold in memory.

use std::{fs, thread, time::Duration};

use anyhow::Context;
use kernelet_scenarios::Machine;

use crate::report::Report;

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    machine.up();
    for path in ["/openapi/v2", "/openapi/v3"] {
        machine.kubectl(&["get", "--raw", path]).ok();
    }
    let _ = machine.kubectl(&["explain", "deployment.spec"]);
    thread::sleep(Duration::from_secs(60));
    let pid = machine.status()["pid"]
        .as_i64()
        .context("the program's pid")?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss: u64 = rollup
        .lines()
        .find_map(|line| {
            line.strip_prefix("Pss:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .context("the proportional set size")?;
    report.row(
        "idle memory, control plane + node, 60 s after Ready (PSS)",
        format!("{:.1} MiB", pss as f64 / 1024.0),
        "≤ 64 MiB",
    );
    Ok(())
}
