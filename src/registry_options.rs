//! What the command line and the configuration say of registries, as the node and `kernelet image pull` take it.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use kernelet_image::{Keyring, Registries, RegistryOptions};
use kernelet_node::ImageSettings;

use crate::instance::Instance;

/// How registries are reached.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// A mirror that is asked before a registry, in this order; `*` stands for every registry
    #[arg(long, value_name = "REGISTRY=URL")]
    pub registry_mirror: Vec<String>,
    /// A registry or mirror that speaks plain HTTP
    #[arg(long, value_name = "HOST")]
    pub registry_plain_http: Vec<String>,
    /// A registry or mirror whose certificate isn't verified
    #[arg(long, value_name = "HOST")]
    pub registry_skip_verify: Vec<String>,
    /// The authority (PEM) of a registry's or mirror's certificate, beside the machine's; `*` stands for every one
    #[arg(long, value_name = "HOST=FILE")]
    pub registry_ca: Vec<String>,
    /// Credentials, as `docker login` writes them [default: /etc/kernelet/registries.json, <data-dir>/config.json,
    /// $DOCKER_CONFIG/config.json or ~/.docker/config.json, as far as they exist]
    #[arg(long, value_name = "FILE")]
    pub registry_credentials: Vec<PathBuf>,
}

/// How a node's images come and go.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// How many images are pulled at the same time
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub max_parallel_image_pulls: u16,
    /// The disk's usage, in percent, from which images that nobody uses are removed; 100 is never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// The usage down to which they are
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// The age below which an image stays in any case (`90s`, `2m`, `1h30m`)
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    pub minimum_image_ttl_duration: Duration,
}

impl RegistryArgs {
    /// The settings, checked; the authorities' files are read now.
    pub fn registries(&self) -> anyhow::Result<Registries> {
        Ok(Registries::new(&RegistryOptions {
            mirrors: self.registry_mirror.clone(),
            plain_http: self.registry_plain_http.clone(),
            skip_verify: self.registry_skip_verify.clone(),
            ca: self.registry_ca.clone(),
        })?)
    }

    /// Where credentials may stand.
    pub fn credentials(&self, instance: &Instance) -> Vec<PathBuf> {
        if !self.registry_credentials.is_empty() {
            return self.registry_credentials.clone();
        }
        let docker = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
        [
            Some(PathBuf::from("/etc/kernelet/registries.json")),
            Some(instance.data_dir.join("config.json")),
            docker.map(|dir| dir.join("config.json")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What those files say. One that was named and isn't there is an error.
    pub fn keyring(&self, instance: &Instance) -> anyhow::Result<Keyring> {
        let mut keyring = Keyring::default();
        let named = !self.registry_credentials.is_empty();
        for path in self.credentials(instance) {
            if named || path.exists() {
                keyring = keyring.and(&Keyring::read(&path)?);
            }
        }
        Ok(keyring)
    }
}

/// For the node.
pub fn settings(instance: &Instance, args: &ImageArgs) -> anyhow::Result<ImageSettings> {
    anyhow::ensure!(
        args.image_gc_low_threshold <= args.image_gc_high_threshold,
        "--image-gc-low-threshold {} is above --image-gc-high-threshold {}",
        args.image_gc_low_threshold,
        args.image_gc_high_threshold
    );
    for path in &args.registries.registry_credentials {
        // So that a wrong path is told at the start, and not by the first pull.
        Keyring::read(path).context("--registry-credentials")?;
    }
    Ok(ImageSettings {
        registries: args.registries.registries()?,
        credentials: args.registries.credentials(instance),
        parallel_pulls: usize::from(args.max_parallel_image_pulls),
        gc_high_percent: args.image_gc_high_threshold,
        gc_low_percent: args.image_gc_low_threshold,
        gc_min_age: args.minimum_image_ttl_duration,
    })
}

/// Go's form, without fractions: `1h2m3s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write 90s, 2m or 1h30m");
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[end] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(wrong()),
        };
        total = number
            .checked_mul(unit)
            .and_then(|n| n.checked_add(total))
            .ok_or_else(wrong)?;
        rest = &rest[end + 1..];
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(Duration::from_secs(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("2m", 120),
            ("2m0s", 120),
            ("1h30m", 5400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "2",
            "m",
            "2x",
            "-1s",
            "1.5s",
            "99999999999999999999h",
            "1é",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
