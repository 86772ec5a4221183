//! update: other limits for a container that is there.

use std::{fs, io::Read, path::Path, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::oci_resources;
use kernelet_sys::cgroup::{Group, Layout};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use crate::{
    cli::Global,
    container::{group, must_live, named},
    flags::{Flag, Given},
    log,
};

pub const FLAGS: &[Flag] = &[
    Flag::text(
        "resources",
        "path to the file containing the resources to update or '-' to read from the standard input; all other options are then ignored",
    )
    .or("r"),
    Flag::number("blkio-weight", "Specifies per cgroup weight, range is from 10 to 1000"),
    Flag::text("cpu-period", "CPU CFS period to be used for hardcapping (in usecs). 0 to use system default"),
    Flag::text("cpu-quota", "CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period"),
    Flag::text(
        "cpu-burst",
        "CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period",
    ),
    Flag::text("cpu-share", "CPU shares (relative weight vs. other containers)"),
    Flag::text(
        "cpu-rt-period",
        "CPU realtime period to be used for hardcapping (in usecs). 0 to use system default",
    ),
    Flag::text("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period"),
    Flag::text("cpuset-cpus", "CPU(s) to use"),
    Flag::text("cpuset-mems", "Memory node(s) to use"),
    Flag::text("kernel-memory", "(obsoleted; do not use)"),
    Flag::text("kernel-memory-tcp", "(obsoleted; do not use)"),
    Flag::text("memory", "Memory limit (in bytes)"),
    Flag::text("cpu-idle", "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE"),
    Flag::text("memory-reservation", "Memory reservation or soft_limit (in bytes)"),
    Flag::text("memory-swap", "Total memory usage (memory + swap); set '-1' to enable unlimited swap"),
    Flag::number("pids-limit", "Maximum number of pids allowed in the container"),
    Flag::text("l3-cache-schema", "The string of Intel RDT/CAT L3 cache schema"),
    Flag::text("mem-bw-schema", "The string of Intel RDT/MBA memory bandwidth schema"),
];

pub fn update(global: &Global, given: &Given) -> Result<ExitCode> {
    let (id, _, saved) = named(global, given)?;
    let text = match given.text("resources")? {
        None => of_flags(given)?,
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read stdin")?;
            serde_json::from_str(&text).context("understand the resources")?
        }
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("open {path}"))?;
            serde_json::from_str(&text).context("understand the resources")?
        }
    };
    must_live(&saved)?;
    let layout = Layout::detect()?;
    let mut wish = understand(&text)?;
    let group = group(&saved, &layout)?;
    complete(&mut wish, &group);
    if let Some(unit) = &saved.place.unit {
        unit.set(&wish, layout.mode())?;
    }
    group.set(&wish)?;
    set_rdt(given, &Path::new("/sys/fs/resctrl").join(id.as_str()))?;
    Ok(ExitCode::SUCCESS)
}

fn understand(text: &Value) -> Result<kernelet_spec::Resources> {
    let mut text = text.clone();
    let memory = text.get_mut("memory").and_then(Value::as_object_mut);
    let kernel = memory.map(|memory| (memory.remove("kernel"), memory.remove("kernelTCP")));
    if matches!(kernel, Some((Some(_), _) | (_, Some(_)))) {
        log::warn("Kernel memory settings are ignored and will be removed");
    }
    let wish: LinuxResources = serde_json::from_value(text).context("understand the resources")?;
    let has_devices = wish.devices().is_some();
    let mut wish = oci_resources(Some(&wish))?;
    // Devices stay as they are unless they are spoken of.
    if !has_devices {
        wish.devices = None;
    }
    Ok(wish)
}

/// Quota and period are one file on v2: of a pair of which one is given, the other stays.
fn complete(wish: &mut kernelet_spec::Resources, group: &Group<'_>) {
    let is_v2 = group.v1_dir("cpu").is_none();
    let period = wish.cpu_period_us.is_some_and(|period| period != 0);
    let quota = wish.cpu_quota_us.is_some_and(|quota| quota != 0);
    if is_v2 && period && !quota {
        let now = group
            .detail()
            .cpu_quota_us
            .and_then(|quota| i64::try_from(quota).ok());
        wish.cpu_quota_us = Some(now.unwrap_or(-1));
    }
}

/// OCI's `linux.resources` of what the flags say.
fn of_flags(given: &Given) -> Result<Value> {
    let mut cpu = serde_json::Map::new();
    let mut memory = serde_json::Map::new();
    let mut all = serde_json::Map::new();
    for (flag, field) in [
        ("cpu-period", "period"),
        ("cpu-quota", "quota"),
        ("cpu-burst", "burst"),
        ("cpu-share", "shares"),
        ("cpu-rt-period", "realtimePeriod"),
        ("cpu-rt-runtime", "realtimeRuntime"),
        ("cpu-idle", "idle"),
    ] {
        if let Some(text) = given.text(flag)? {
            let number: i64 = text
                .parse()
                .map_err(|e| anyhow!("invalid value for {flag}: {text:?}: {e}"))?;
            if number < 0 && !matches!(field, "quota" | "realtimeRuntime" | "idle") {
                bail!("invalid value for {flag}: {text:?} is negative");
            }
            cpu.insert(field.into(), number.into());
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = given.text(flag)? {
            cpu.insert(field.into(), text.into());
        }
    }
    for (flag, field) in [
        ("memory", "limit"),
        ("memory-swap", "swap"),
        ("memory-reservation", "reservation"),
        ("kernel-memory", "kernel"),
        ("kernel-memory-tcp", "kernelTCP"),
    ] {
        if let Some(text) = given.text(flag)? {
            let number =
                bytes(text).with_context(|| format!("invalid value for {flag}: {text:?}"))?;
            memory.insert(field.into(), number.into());
        }
    }
    if let Some(weight) = given.number("blkio-weight").filter(|weight| *weight != 0) {
        all.insert("blockIO".into(), json!({"weight": weight}));
    }
    if let Some(limit) = given.number("pids-limit") {
        all.insert("pids".into(), json!({"limit": limit}));
    }
    if !cpu.is_empty() {
        all.insert("cpu".into(), cpu.into());
    }
    if !memory.is_empty() {
        all.insert("memory".into(), memory.into());
    }
    Ok(all.into())
}

/// `512M`, `1.5g`, `2GiB`, `1024`; -1: no limit.
fn bytes(text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let exponent = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.len() < 2 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => bail!("invalid suffix: {unit:?}"),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| anyhow!("invalid size: {text:?}"))?;
    let bytes = number * 1024_f64.powi(exponent);
    if !(0.0..=i64::MAX as f64).contains(&bytes) {
        bail!("invalid size: {text:?}");
    }
    Ok(bytes as i64)
}

/// Cache and bandwidth schemas of Intel's resource control, for a container that has a group there.
fn set_rdt(given: &Given, group: &Path) -> Result<()> {
    let (l3, bandwidth) = (given.text("l3-cache-schema")?, given.text("mem-bw-schema")?);
    let enabled = |name: &str| Path::new("/sys/fs/resctrl/info").join(name).is_dir();
    if l3.is_some() && !enabled("L3") && !enabled("L3CODE") {
        bail!("Intel RDT/CAT: l3 cache schema is not enabled");
    }
    if bandwidth.is_some() && !enabled("MB") {
        bail!("Intel RDT/MBA: memory bandwidth schema is not enabled");
    }
    if l3.is_none() && bandwidth.is_none() {
        return Ok(());
    }
    if !group.is_dir() {
        bail!("updating a non-existent Intel RDT configuration is not supported");
    }
    for schema in [l3, bandwidth].into_iter().flatten() {
        let file = group.join("schemata");
        fs::write(&file, format!("{schema}\n"))
            .with_context(|| format!("write {schema:?} to {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Order, parse};

    #[test]
    fn sizes_have_units() {
        for (text, expect) in [
            ("1024", 1024),
            ("512M", 512 << 20),
            ("512mb", 512 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("7b", 7),
            ("-1", -1),
        ] {
            assert_eq!(bytes(text).unwrap(), expect, "{text}");
        }
        for text in ["", "-2", "x", "1x", "1ib"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_become_ocis_resources() {
        let words = "--cpu-share 100 --cpu-quota -1 --cpuset-cpus 0-1 --memory 1m --memory-swap -1 --pids-limit 5 \
                     --blkio-weight 300 --cpu-idle 1";
        let words: Vec<_> = words.split_whitespace().map(Into::into).collect();
        let given = parse(&[FLAGS], &words, Order::Any).unwrap();
        let expect = json!({
            "cpu": {"shares": 100, "quota": -1, "cpus": "0-1", "idle": 1},
            "memory": {"limit": 1 << 20, "swap": -1},
            "pids": {"limit": 5},
            "blockIO": {"weight": 300},
        });
        assert_eq!(of_flags(&given).unwrap(), expect);
        for bad in [
            ["--cpu-share", "x"],
            ["--cpu-period", "-5"],
            ["--memory", "lots"],
        ] {
            let words: Vec<_> = bad.iter().map(Into::into).collect();
            let given = parse(&[FLAGS], &words, Order::Any).unwrap();
            let error = of_flags(&given).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("invalid value for {}", &bad[0][2..])),
                "{error}"
            );
        }
    }
}
