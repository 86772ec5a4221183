//! Block I/O: weights, and what a device may do at most.

use std::path::Path;

use kernelet_spec::{Resources, Throttle, ThrottleKind};
use nix::errno::Errno;

use super::{
    super::{missing, read, write},
    Folder, folder, unknown, write_if_there,
};
use crate::{cgroup::Group, error::Result};

pub(super) fn apply(group: &Group<'_>, r: &Resources) -> Result<()> {
    let asked = r.blkio_weight.is_some()
        || r.blkio_leaf_weight.is_some()
        || !r.blkio_device_weights.is_empty()
        || !r.blkio_throttles.is_empty();
    if !asked {
        return Ok(());
    }
    if let Some(dir) = group.v1_dir("blkio") {
        return v1(&dir, r);
    }
    match folder(group, "io", "linux.resources.blockIO")? {
        Folder::V2(dir) => v2(&dir, r),
        Folder::V1(_) => Err(missing("io", "linux.resources.blockIO")),
    }
}

fn v1(dir: &Path, r: &Resources) -> Result<()> {
    // CFQ's files are gone since 5.0; BFQ's come with its scheduler.
    let bfq = dir.join("blkio.bfq.weight").exists();
    let name = |end: &str| match bfq {
        true => format!("blkio.bfq.{end}"),
        false => format!("blkio.{end}"),
    };
    if let Some(weight) = r.blkio_weight {
        let file = dir.join(name("weight"));
        write_if_there(&file, &weight.to_string(), "blockIO.weight", "v1")?;
    }
    if let Some(weight) = r.blkio_leaf_weight {
        let file = dir.join("blkio.leaf_weight");
        write_if_there(&file, &weight.to_string(), "blockIO.leafWeight", "v1")?;
    }
    for device in &r.blkio_device_weights {
        let (major, minor) = (device.major, device.minor);
        if let Some(weight) = device.weight {
            let (file, line) = (
                dir.join(name("weight_device")),
                format!("{major}:{minor} {weight}"),
            );
            write_if_there(&file, &line, "blockIO.weightDevice", "v1")?;
        }
        if let Some(weight) = device.leaf_weight {
            let (file, line) = (
                dir.join("blkio.leaf_weight_device"),
                format!("{major}:{minor} {weight}"),
            );
            write_if_there(&file, &line, "blockIO.weightDevice.leafWeight", "v1")?;
        }
    }
    for one in &r.blkio_throttles {
        let file = match one.kind {
            ThrottleKind::ReadBps => "blkio.throttle.read_bps_device",
            ThrottleKind::WriteBps => "blkio.throttle.write_bps_device",
            ThrottleKind::ReadIops => "blkio.throttle.read_iops_device",
            ThrottleKind::WriteIops => "blkio.throttle.write_iops_device",
        };
        let line = format!("{}:{} {}", one.major, one.minor, one.rate);
        write(&dir.join(file), &line)?;
    }
    Ok(())
}

fn v2(dir: &Path, r: &Resources) -> Result<()> {
    if r.blkio_leaf_weight.is_some() {
        return Err(unknown("blockIO.leafWeight", "v2"));
    }
    let bfq = dir.join("io.bfq.weight");
    let bfq = bfq.exists().then_some(bfq);
    if let Some(weight) = r.blkio_weight {
        match &bfq {
            Some(file) => write(file, &weight.to_string())?,
            None => {
                let value = io_weight(weight).to_string();
                write_if_there(&dir.join("io.weight"), &value, "blockIO.weight", "v2")?;
            }
        }
    }
    for device in &r.blkio_device_weights {
        if device.leaf_weight.is_some() {
            return Err(unknown("blockIO.weightDevice.leafWeight", "v2"));
        }
        let Some(weight) = device.weight else {
            continue;
        };
        let (major, minor) = (device.major, device.minor);
        let done = match &bfq {
            // Older kernels' BFQ shows a single number, and takes no other.
            Some(file) if read(file)?.trim().parse::<u64>().is_ok() => {
                return Err(unknown("blockIO.weightDevice", "v2"));
            }
            Some(file) => write(file, &format!("{major}:{minor} {weight}")),
            None => {
                let line = format!("{major}:{minor} {}", io_weight(weight));
                let file = dir.join("io.weight");
                write_if_there(&file, &line, "blockIO.weightDevice", "v2")
            }
        };
        done?;
    }
    for one in &r.blkio_throttles {
        match write(&dir.join("io.max"), &max_line(one)) {
            Err(e) if e.errno == Errno::ENOENT => return Err(unknown("blockIO.throttle", "v2")),
            other => other?,
        }
    }
    Ok(())
}

/// 10..1000 to 1..10000, as OCI runtimes do.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.max(10)) - 10) * 9999 / 990
}

fn max_line(one: &Throttle) -> String {
    let key = match one.kind {
        ThrottleKind::ReadBps => "rbps",
        ThrottleKind::WriteBps => "wbps",
        ThrottleKind::ReadIops => "riops",
        ThrottleKind::WriteIops => "wiops",
    };
    let rate = match one.rate {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    format!("{}:{} {key}={rate}", one.major, one.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_throttles_are_converted() {
        assert_eq!(
            (io_weight(10), io_weight(500), io_weight(1000)),
            (1, 4950, 10_000)
        );
        let one = |kind, rate| {
            max_line(&Throttle {
                kind,
                major: 8,
                minor: 1,
                rate,
            })
        };
        assert_eq!(one(ThrottleKind::ReadBps, 5), "8:1 rbps=5");
        assert_eq!(one(ThrottleKind::WriteIops, 0), "8:1 wiops=max");
    }
}
