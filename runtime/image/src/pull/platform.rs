//! Which of an index's images is for whom.

use std::{fmt, str::FromStr};

use oci_spec::image::Descriptor;

/// `os/architecture[/variant]`, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`, `v8`, …; none where the architecture has one only, or its first is meant.
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn here() -> Platform {
        Platform::of("linux", crate::document::architecture(), None)
    }

    fn of(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        // The words that tools use for one and the same.
        let (architecture, variant) = match (architecture, variant.unwrap_or("")) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", variant) => ("arm64", variant),
            ("i386", _) => ("386", ""),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            other => other,
        };
        let variant = match (architecture, variant) {
            ("arm64", "8" | "v8") | ("amd64", "v1" | "1") | (_, "") => None,
            ("arm", v) if !v.starts_with('v') => Some(format!("v{v}")),
            (_, v) => Some(v.to_owned()),
        };
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// How well an image for `other` runs where `self` is asked for: smaller is better, none is not at all. A 32-bit
    /// ARM machine also runs what was built for its elders; of 64-bit variants only the one asked for is taken.
    fn fits(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        if self.architecture != "arm" {
            return (self.variant == other.variant).then_some(0);
        }
        let number = |platform: &Platform| match &platform.variant {
            None => Some(7),
            Some(v) => v.strip_prefix('v')?.parse::<u32>().ok(),
        };
        number(self)?.checked_sub(number(other)?)
    }

    /// The descriptors that can be meant, the best first; those that name no platform come last.
    pub(super) fn choose<'a>(&self, all: &'a [Descriptor]) -> Vec<&'a Descriptor> {
        let mut ranked: Vec<_> = all
            .iter()
            .filter_map(|descriptor| {
                let rank = match descriptor.platform() {
                    None => u32::MAX,
                    Some(platform) => self.fits(&Platform::of(
                        &platform.os().to_string(),
                        &platform.architecture().to_string(),
                        platform.variant().as_deref(),
                    ))?,
                };
                Some((rank, descriptor))
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked
            .into_iter()
            .map(|(_, descriptor)| descriptor)
            .collect()
    }

    /// Whether a configuration of this operating system and architecture is for it.
    pub(crate) fn has(&self, os: &str, architecture: &str) -> bool {
        let other = Platform::of(os, architecture, None);
        other.os == self.os && other.architecture == self.architecture
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Platform, String> {
        let parts: Vec<_> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() <= 1 && parts.iter().all(plain) => {
                Ok(Platform::of(os, architecture, rest.first().copied()))
            }
            _ => Err(format!(
                "{text:?} is not a platform: write linux/amd64 or linux/arm/v7"
            )),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        platforms
            .iter()
            .map(|text| {
                let mut descriptor = serde_json::json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": format!("sha256:{}", "a".repeat(64)), "size": 1, "annotations": {"is": text}});
                if !text.is_empty() {
                    let mut parts = text.split('/');
                    descriptor["platform"] = serde_json::json!({"os": parts.next(), "architecture": parts.next()});
                    if let Some(variant) = parts.next() {
                        descriptor["platform"]["variant"] = variant.into();
                    }
                }
                serde_json::from_value(descriptor).unwrap()
            })
            .collect()
    }

    fn check(wanted: &str, platforms: &[&str], expect: &[&str]) {
        let all = index(platforms);
        let wanted: Platform = wanted.parse().unwrap();
        let chosen: Vec<_> = wanted
            .choose(&all)
            .iter()
            .map(|d| d.annotations().as_ref().unwrap()["is"].as_str())
            .collect();
        assert_eq!(chosen, expect, "{wanted} of {platforms:?}");
    }

    #[test]
    fn the_best_image_for_a_platform_is_taken() {
        let usual = [
            "linux/amd64",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "unknown/unknown",
        ];
        check("linux/amd64", &usual, &["linux/amd64"]);
        check("linux/arm64", &usual, &["linux/arm64/v8"]);
        check("linux/arm64/v8", &usual, &["linux/arm64/v8"]);
        check("linux/arm", &usual, &["linux/arm/v7", "linux/arm/v6"]);
        check("linux/arm/v6", &usual, &["linux/arm/v6"]);
        check("linux/arm/v5", &usual, &[]);
        check("linux/s390x", &usual, &[]);
        check("windows/amd64", &usual, &[]);
        // What is for newer processors only is taken when it is asked for.
        check(
            "linux/amd64",
            &["linux/amd64/v3", "linux/amd64"],
            &["linux/amd64"],
        );
        check("linux/amd64", &["linux/amd64/v3"], &[]);
        check(
            "linux/amd64/v3",
            &["linux/amd64/v3", "linux/amd64"],
            &["linux/amd64/v3"],
        );
        check("linux/x86_64", &["", "linux/amd64"], &["linux/amd64", ""]);
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "linux/a b",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
        assert_eq!(
            "linux/arm64/v8".parse::<Platform>().unwrap().to_string(),
            "linux/arm64"
        );
        assert_eq!(
            "linux/arm/7".parse::<Platform>().unwrap().to_string(),
            "linux/arm/v7"
        );
    }
}
