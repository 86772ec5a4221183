//! A namespace's policy, from its labels.

use std::fmt;

use crate::{FieldError, Value};

/// How much is forbidden; the greater, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Of the standards: the minor version of Kubernetes whose rules count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.N`
    Minor(u32),
    Latest,
}

/// `restricted:latest`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

/// What a namespace enforces, notes in the audit log, and warns of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

const LEVELS: &str = "must be one of privileged, baseline, restricted";
const VERSIONS: &str = "must be \"latest\" or \"v1.x\"";
const PREFIX: &str = "pod-security.kubernetes.io/";

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain =
            minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(Version::Minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// The policy that a configuration's `defaults` name (`enforce: baseline`, `enforce-version: v1.30`), and what is wrong
/// with them. What isn't named is privileged, of the latest version.
pub fn policy_of_defaults(defaults: &serde_json::Map<String, Value>) -> (Policy, Vec<FieldError>) {
    let mut policy = Policy::NONE;
    let mut errors = Vec::new();
    for (name, value) in defaults {
        let path = format!("defaults.{name}");
        let text = value.as_str().unwrap_or_default();
        let (mode, is_version) = match name.strip_suffix("-version") {
            Some(mode) => (mode, true),
            None => (name.as_str(), false),
        };
        let target = match mode {
            "enforce" => &mut policy.enforce,
            "audit" => &mut policy.audit,
            "warn" => &mut policy.warn,
            _ => {
                errors.push(FieldError::invalid(path, text, "unknown field"));
                continue;
            }
        };
        match (is_version, Level::parse(text), Version::parse(text)) {
            (false, Some(level), _) => target.level = level,
            (true, _, Some(version)) => target.version = version,
            (false, None, _) => errors.push(FieldError::invalid(path, text, LEVELS)),
            (true, _, None) => errors.push(FieldError::invalid(path, text, VERSIONS)),
        }
    }
    (policy, errors)
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

impl Policy {
    /// Everything is allowed: what a namespace without labels has by default.
    pub const NONE: Policy = {
        let none = LevelVersion {
            level: Level::Privileged,
            version: Version::Latest,
        };
        Policy {
            enforce: none,
            audit: none,
            warn: none,
        }
    };

    /// Everything is allowed, and nothing told.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|mode| mode.level == Level::Privileged)
    }

    /// Of a namespace, where `defaults` hold for what its labels don't say, and what is wrong with its labels. A level
    /// that can't be read enforces `restricted`, but neither audits nor warns; a version that can't be read is the
    /// latest.
    pub fn of(namespace: &Value, defaults: Policy) -> (Policy, Vec<FieldError>) {
        let mut policy = defaults;
        let mut errors = Vec::new();
        let label = |name: &str| {
            let labels = crate::meta::labels(namespace)?;
            labels.get(&format!("{PREFIX}{name}"))?.as_str()
        };
        let mut enforced = false;
        for (mode, target, otherwise) in [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ] {
            let mut refuse = |name: &str, value: &str, why: &str| {
                let path = format!("metadata.labels[{PREFIX}{name}]");
                errors.push(FieldError::invalid(path, value, why));
            };
            if let Some(level) = label(mode) {
                let known = Level::parse(level);
                enforced |= mode == "enforce" && known.is_some();
                target.level = known.unwrap_or(otherwise);
                if known.is_none() {
                    refuse(mode, level, LEVELS);
                }
            }
            let name = format!("{mode}-version");
            if let Some(version) = label(&name) {
                let known = Version::parse(version);
                target.version = known.unwrap_or(Version::Latest);
                if known.is_none() {
                    refuse(&name, version, VERSIONS);
                }
            }
        }
        // What is enforced is warned of, unless the labels say otherwise: templates are only ever warned of.
        if enforced && label("warn").is_none() && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}
