//! update: other limits for a container that runs.

use std::{fs, io::Read, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kernelet_spec::{Resources, oci_resources};
use kernelet_sys::cgroup::Layout;
use oci_spec::runtime::LinuxResources;

use crate::{
    cli::{self, Global},
    state::Folder,
};

#[derive(Args)]
pub struct UpdateArgs {
    id: String,
    /// A file with OCI's linux.resources; `-` is stdin.
    #[arg(long, short)]
    resources: Option<PathBuf>,
    #[arg(long)]
    cpu_share: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    #[arg(long)]
    cpu_period: Option<u64>,
    #[arg(long)]
    cpu_burst: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    #[arg(long)]
    cpuset_cpus: Option<String>,
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Bytes; -1: no limit.
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<i64>,
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    #[arg(long)]
    blkio_weight: Option<u16>,
}

pub fn update(global: &Global, args: &UpdateArgs) -> Result<()> {
    let folder = Folder::of(global, &cli::id(&args.id)?);
    let saved = folder.load()?;
    if !saved.is_alive() {
        bail!("container not running: {}", saved.id);
    }
    let mut wish = match &args.resources {
        None => Resources::default(),
        Some(path) => {
            let mut text = String::new();
            if path.as_os_str() == "-" {
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("read stdin")?;
            } else {
                text =
                    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            }
            let wish: LinuxResources =
                serde_json::from_str(&text).context("understand the resources")?;
            let has_devices = wish.devices().is_some();
            let mut wish = oci_resources(Some(&wish))?;
            // Devices stay as they are unless they are spoken of.
            if !has_devices {
                wish.devices = None;
            }
            wish
        }
    };
    macro_rules! take {
        ($($field:ident <- $arg:ident),* $(,)?) => { $( if args.$arg.is_some() { wish.$field = args.$arg.clone(); } )* };
    }
    take!(
        cpu_shares <- cpu_share, cpu_quota_us <- cpu_quota, cpu_period_us <- cpu_period, cpu_burst_us <- cpu_burst,
        cpu_idle <- cpu_idle, cpuset_cpus <- cpuset_cpus, cpuset_mems <- cpuset_mems, memory_limit <- memory,
        memory_swap <- memory_swap, memory_reservation <- memory_reservation, pids_limit <- pids_limit,
        blkio_weight <- blkio_weight,
    );
    Layout::detect()?.group(&saved.cgroup).set(&wish)?;
    Ok(())
}
