//! A bundle: its folder and its configuration.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{Process, Spec};

use crate::{config, flags::Given};

pub struct Bundle {
    /// Without symlinks.
    pub path: PathBuf,
    pub spec: Spec,
}

/// Goes into the bundle's folder, as runc does, so that sockets' paths are relative to it and hooks begin there.
pub fn enter(given: &Given) -> Result<Bundle> {
    if let Some(path) = given.path("bundle") {
        std::env::set_current_dir(&path).with_context(|| format!("chdir {}", path.display()))?;
    }
    let config = given.path("config").unwrap_or_else(|| "config.json".into());
    let spec = load(&config)?;
    check(spec.process().as_ref())?;
    Ok(Bundle {
        path: std::env::current_dir().context("find the bundle's folder")?,
        spec,
    })
}

pub fn load(path: &Path) -> Result<Spec> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("JSON specification file {} not found", path.display())
        }
        other => other.with_context(|| format!("open {}", path.display()))?,
    };
    config::spec(&text).with_context(|| format!("understand {}", path.display()))
}

/// What every process needs.
pub fn check(process: Option<&Process>) -> Result<()> {
    let Some(process) = process else {
        bail!("process property must not be empty");
    };
    if process.cwd().as_os_str().is_empty() {
        bail!("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        bail!("Cwd must be an absolute path");
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        bail!("args must not be empty");
    }
    Ok(())
}
