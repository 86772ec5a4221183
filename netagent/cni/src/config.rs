//! The network configuration and the environment, decoded and checked once.

use std::{net::IpAddr, path::PathBuf};

use kernelet_net_plan::Cidr;
use serde::Deserialize;

use crate::error::{CniError, Code};

pub const NEWEST: &str = "1.1.0";
pub const SUPPORTED: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.2.0"];

/// The configuration of one network. Keys that aren't the specification's are ours.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub cni_version: String,
    pub name: String,
    /// Where containers' addresses come from, one range a family.
    #[serde(default)]
    pub ranges: Vec<Cidr>,
    /// The source of what the node sends to containers; default: the kernel's choice.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// Whether what leaves for the outside carries the node's address.
    #[serde(default)]
    pub ip_masq: bool,
    /// Ranges beside `ranges` that are reached without that.
    #[serde(default)]
    pub inside: Vec<Cidr>,
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Where addresses in use are kept; must not outlive a reboot.
    #[serde(default = "default_state")]
    pub state_dir: PathBuf,
    #[serde(default)]
    pub prev_result: Option<crate::result::AddResult>,
    /// GC: what is still in use.
    #[serde(
        default,
        rename = "cni.dev/valid-attachments",
        alias = "cni.dev/attachments"
    )]
    pub valid_attachments: Option<Vec<Attachment>>,
}

fn default_state() -> PathBuf {
    "/run/kernelet/cni".into()
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

impl Config {
    pub fn parse(input: &str) -> Result<Self, CniError> {
        let config: Self = serde_json::from_str(input).map_err(|error| CniError {
            code: Code::Decode,
            message: "decode the network configuration".into(),
            details: error.to_string(),
        })?;
        if !SUPPORTED.contains(&config.cni_version.as_str()) {
            return Err(CniError {
                code: Code::IncompatibleVersion,
                message: format!("CNI version {:?} is not supported", config.cni_version),
                details: format!("supported: {}", SUPPORTED.join(", ")),
            });
        }
        // The name becomes a file's and a table's.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins = config
            .name
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_alphanumeric());
        if !begins || !config.name.chars().all(plain) {
            return Err(CniError::new(
                Code::InvalidConfiguration,
                format!("{:?} is no network name", config.name),
            ));
        }
        Ok(config)
    }

    /// Names everything global that belongs to this network.
    pub fn instance_id(&self) -> String {
        format!("cni-{}", self.name)
    }

    pub fn is_at_least_1_1(&self) -> bool {
        self.cni_version == "1.1.0"
    }
}

/// What one attachment is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub container_id: String,
    pub ifname: String,
    pub netns: Option<PathBuf>,
    /// `namespace/name` when a kubelet's runtime says so, else the container's id.
    pub label: String,
}

impl Target {
    pub fn parse(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let needed = |name: &str| {
            set(name).ok_or_else(|| {
                CniError::new(Code::InvalidEnvironment, format!("{name} is not set"))
            })
        };
        let container_id = needed("CNI_CONTAINERID")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !container_id.chars().all(plain) {
            return Err(CniError::new(
                Code::InvalidEnvironment,
                format!("CNI_CONTAINERID {container_id:?} is no container id"),
            ));
        }
        let ifname = needed("CNI_IFNAME")?;
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if ifname.len() > 15 || matches!(ifname.as_str(), "." | "..") || ifname.contains(bad) {
            return Err(CniError::new(
                Code::InvalidEnvironment,
                format!("CNI_IFNAME {ifname:?} is no interface name"),
            ));
        }
        let arguments = set("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| {
            arguments.split(';').find_map(|pair| {
                pair.split_once('=')
                    .filter(|(key, _)| *key == name)
                    .map(|(_, value)| value)
            })
        };
        let label = match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => container_id.clone(),
        };
        Ok(Self {
            container_id,
            ifname,
            netns: set("CNI_NETNS").map(Into::into),
            label,
        })
    }

    /// One attachment's name among all of the network's.
    pub fn uid(&self) -> String {
        uid(&self.container_id, &self.ifname)
    }
}

pub fn uid(container_id: &str, ifname: &str) -> String {
    format!("{container_id}/{ifname}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<Config, Code> {
        Config::parse(&format!(r#"{{"cniVersion":"1.1.0","name":"pods"{extra}}}"#))
            .map_err(|error| error.code)
    }

    #[test]
    fn a_configuration_is_checked_once() {
        assert!(parse("").is_ok());
        assert_eq!(
            Config::parse("{").map_err(|e| e.code).err(),
            Some(Code::Decode)
        );
        let check = |json: &str, code: Code| {
            assert_eq!(
                Config::parse(json).map_err(|e| e.code).err(),
                Some(code),
                "{json}"
            );
        };
        check(
            r#"{"cniVersion":"9.0.0","name":"x"}"#,
            Code::IncompatibleVersion,
        );
        check(
            r#"{"cniVersion":"1.1.0","name":"../x"}"#,
            Code::InvalidConfiguration,
        );
        check(
            r#"{"cniVersion":"1.1.0","name":""}"#,
            Code::InvalidConfiguration,
        );
        check(
            r#"{"cniVersion":"1.1.0","name":"x","ranges":["10.0.0.0"]}"#,
            Code::Decode,
        );
        let config = parse(
            r#","ranges":["10.9.0.0/24"],"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#,
        )
        .expect("a configuration");
        assert_eq!(config.ranges.len(), 1);
        assert_eq!(
            config.valid_attachments.expect("the list")[0].container_id,
            "a"
        );
    }

    #[test]
    fn the_environment_names_the_attachment() {
        let check = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> = pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect();
            Target::parse(&move |name| {
                pairs
                    .iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.clone())
            })
            .map_err(|error| error.code)
        };
        let base = [("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0")];
        assert_eq!(check(&base).expect("a target").label, "abc");
        let args = (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod",
        );
        assert_eq!(
            check(&[base[0], base[1], args]).expect("a target").label,
            "ns/pod"
        );
        assert_eq!(check(&base[..1]).err(), Some(Code::InvalidEnvironment));
        for bad in ["a/b", "..", "0123456789abcdef", "a b", "a:b"] {
            assert_eq!(
                check(&[base[0], ("CNI_IFNAME", bad)]).err(),
                Some(Code::InvalidEnvironment),
                "{bad}"
            );
        }
        assert_eq!(
            check(&[("CNI_CONTAINERID", "a;b"), base[1]]).err(),
            Some(Code::InvalidEnvironment)
        );
    }
}
