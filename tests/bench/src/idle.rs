//! What an idle control plane and node hold in memory.

use std::{thread, time::Duration};

use anyhow::Context;
use kernelet_scenarios::Machine;

use crate::{report::Report, stats};

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
    let pss = stats::pss_kib(u32::try_from(pid)?)?;
    report.row(
        "idle memory, control plane + node, 60 s after Ready (PSS)",
        format!("{:.1} MiB", pss as f64 / 1024.0),
        "≤ 64 MiB",
    );
    Ok(())
}
