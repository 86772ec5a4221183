//! What an administrator sets for admission: a file in upstream's form, `AdmissionConfiguration` with the configuration
//! of the plugin `PodSecurity` in it, or that one alone.

use std::path::Path;

use kernelet_api::{
    Value, codec,
    podsecurity::{Policy, policy_of_defaults},
};
use serde::Deserialize;

/// What holds where a namespace's labels say nothing, and whom PodSecurity doesn't look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSecurityConfig {
    pub defaults: Policy,
    /// Whose requests, in which namespaces, of which runtime classes.
    pub usernames: Vec<String>,
    pub namespaces: Vec<String>,
    pub runtime_classes: Vec<String>,
}

impl Default for PodSecurityConfig {
    fn default() -> Self {
        PodSecurityConfig {
            defaults: Policy::NONE,
            usernames: Vec::new(),
            namespaces: Vec::new(),
            runtime_classes: Vec::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AdmissionConfigError {
    #[error("it is no YAML: {0}")]
    Yaml(String),
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    #[error("it is a {0}, not an AdmissionConfiguration or a PodSecurityConfiguration")]
    Kind(String),
    #[error("the plugin {0:?} has no configuration here; PodSecurity has")]
    Plugin(String),
    #[error("cannot read {path}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Admission {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodSecurity {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    defaults: serde_json::Map<String, Value>,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Exemptions {
    #[serde(default)]
    usernames: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    runtime_classes: Vec<String>,
}

impl PodSecurityConfig {
    /// Reads a file's text; `folder` is where it lies, which a plugin's `path` is relative to.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, AdmissionConfigError> {
        let value = yaml(text)?;
        let is = |kind: &str, groups: &[&str]| {
            value["kind"] == kind
                && groups.contains(&value["apiVersion"].as_str().unwrap_or_default())
        };
        if is(
            "PodSecurityConfiguration",
            &["pod-security.admission.config.k8s.io/v1"],
        ) {
            return Self::of(value);
        }
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        if !is("AdmissionConfiguration", &versions) {
            let what = [&value["apiVersion"], &value["kind"]];
            let what = what.map(|text| text.as_str().unwrap_or_default());
            return Err(AdmissionConfigError::Kind(what.join(" ")));
        }
        let mut config = Self::default();
        for plugin in Admission::deserialize(value)?.plugins {
            if plugin.name != "PodSecurity" {
                return Err(AdmissionConfigError::Plugin(plugin.name));
            }
            let value = match (plugin.configuration, plugin.path.as_str()) {
                (Some(value), _) => value,
                (None, "") => continue,
                (None, path) => {
                    let path = folder.join(path);
                    let text = std::fs::read_to_string(&path);
                    let text = text.map_err(|source| AdmissionConfigError::File {
                        path: path.display().to_string(),
                        source,
                    })?;
                    yaml(&text)?
                }
            };
            config = Self::of(value)?;
        }
        Ok(config)
    }

    fn of(value: Value) -> Result<Self, AdmissionConfigError> {
        let kind = (value["apiVersion"].as_str(), value["kind"].as_str());
        if kind
            != (
                Some("pod-security.admission.config.k8s.io/v1"),
                Some("PodSecurityConfiguration"),
            )
        {
            let what = format!(
                "{} {}",
                kind.0.unwrap_or_default(),
                kind.1.unwrap_or_default()
            );
            return Err(AdmissionConfigError::Kind(what));
        }
        let parsed = PodSecurity::deserialize(value)?;
        let (defaults, errors) = policy_of_defaults(&parsed.defaults);
        if !errors.is_empty() {
            let told: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
            return Err(AdmissionConfigError::Invalid(told.join(", ")));
        }
        let Exemptions {
            usernames,
            namespaces,
            runtime_classes,
        } = parsed.exemptions;
        for (field, list) in [
            ("usernames", &usernames),
            ("namespaces", &namespaces),
            ("runtimeClasses", &runtime_classes),
        ] {
            for (index, one) in list.iter().enumerate() {
                let why = match list[..index].contains(one) {
                    true => "Duplicate value",
                    false if one.is_empty() => "Invalid value: must not be empty",
                    false => continue,
                };
                let what = format!("exemptions.{field}[{index}]: {why}: {one:?}");
                return Err(AdmissionConfigError::Invalid(what));
            }
        }
        Ok(PodSecurityConfig {
            defaults,
            usernames,
            namespaces,
            runtime_classes,
        })
    }
}

fn yaml(text: &str) -> Result<Value, AdmissionConfigError> {
    codec::parse_yaml(text.as_bytes())
        .map(|(value, _)| value)
        .map_err(|error| AdmissionConfigError::Yaml(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: &str =
        "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n";

    #[test]
    fn defaults_and_exemptions_are_read_alone_or_as_a_plugins() {
        let alone = format!(
            "{INNER}defaults: {{enforce: baseline, enforce-version: v1.30, warn: restricted}}\n\
             exemptions: {{usernames: [ann], namespaces: [tools], runtimeClasses: [vm]}}\n"
        );
        let here = Path::new(".");
        let config = PodSecurityConfig::parse(&alone, here).unwrap();
        assert_eq!(config.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(config.defaults.warn.to_string(), "restricted:latest");
        assert_eq!(config.defaults.audit.to_string(), "privileged:latest");
        assert_eq!(config.usernames, ["ann"]);
        assert_eq!(config.namespaces, ["tools"]);
        assert_eq!(config.runtime_classes, ["vm"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("inner.yaml"), &alone).unwrap();
        let outer = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n";
        let by_path = format!("{outer}  path: inner.yaml\n");
        assert_eq!(
            PodSecurityConfig::parse(&by_path, dir.path()).unwrap(),
            config
        );
        let indented = alone.replace('\n', "\n    ");
        let inline = format!("{outer}  configuration:\n    {indented}");
        assert_eq!(PodSecurityConfig::parse(&inline, here).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, why) in [
            ("kind: Pod\napiVersion: v1\n".to_owned(), "it is a v1 Pod"),
            (format!("{INNER}defaults: {{enforce: high}}\n"), "defaults.enforce"),
            (format!("{INNER}defaults: {{enforces: baseline}}\n"), "defaults.enforces"),
            (format!("{INNER}exemptions: {{namespaces: [a, a]}}\n"), "exemptions.namespaces[1]"),
            (format!("{INNER}exemption: {{}}\n"), "exemption"),
            (
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{name: Other}]\n"
                    .to_owned(),
                "\"Other\"",
            ),
        ] {
            let error = PodSecurityConfig::parse(&text, Path::new(".")).unwrap_err().to_string();
            assert!(error.contains(why), "{error} does not say {why}");
        }
    }
}
