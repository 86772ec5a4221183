//! `kernelet status`: what runs, its versions, its health, and why it is not healthy.

use std::{collections::BTreeMap, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{Global, Output, OutputOptions},
    control_socket::{self, Request},
    health::PartHealth,
    instance::Instance,
};

/// What a running instance says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    pub version: String,
    pub kernel: String,
    pub instance: String,
    pub pid: u32,
    pub data_dir: String,
    pub server: Option<String>,
    pub kubeconfig: Option<String>,
    pub node: Option<String>,
    pub parts: BTreeMap<String, PartHealth>,
    /// What the kernel can't do, and what is done instead.
    #[serde(default)]
    pub kernel_lacks: Vec<String>,
}

impl StatusReport {
    pub fn healthy(&self) -> bool {
        self.parts.values().all(|part| *part == PartHealth::Healthy)
    }
}

/// Exit codes, as for a service: 0 healthy, 1 unhealthy, 3 not running.
pub fn run(global: &Global, options: &OutputOptions) -> anyhow::Result<ExitCode> {
    let instance = Instance::find(&global.data_dir)?;
    let connection = match &instance {
        Some(instance) => control_socket::connect(&instance.socket())?,
        None => None,
    };
    let Some(connection) = connection else {
        match options.output {
            Output::Json => println!("{}", serde_json::json!({ "running": false })),
            Output::Text => println!("kernelet does not run on {}", global.data_dir.display()),
        }
        return Ok(ExitCode::from(3));
    };
    let report: StatusReport = serde_json::from_str(&connection.ask(Request::Status)?)?;
    match options.output {
        Output::Json => {
            let mut json = serde_json::to_value(&report)?;
            json["running"] = true.into();
            json["healthy"] = report.healthy().into();
            println!("{json}");
        }
        Output::Text => print!("{}", text(&report)),
    }
    Ok(if report.healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(report: &StatusReport) -> String {
    let mut text = format!(
        "kernelet {} (process {}, instance {}) on Linux {}\n",
        report.version, report.pid, report.instance, report.kernel
    );
    let rows = [
        ("data", Some(&report.data_dir)),
        ("API server", report.server.as_ref()),
        ("kubeconfig", report.kubeconfig.as_ref()),
        ("node", report.node.as_ref()),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            text += &format!("  {name:<12} {value}\n");
        }
    }
    text += "parts\n";
    for (name, health) in &report.parts {
        let state = match health {
            PartHealth::Starting => "starting".to_owned(),
            PartHealth::Healthy => "healthy".to_owned(),
            PartHealth::Unhealthy { reason } => format!("unhealthy: {reason}"),
        };
        text += &format!("  {name:<12} {state}\n");
    }
    for lack in &report.kernel_lacks {
        text += &format!("kernel: {lack}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unhealthy_part_says_why() {
        let mut report = StatusReport {
            version: "0.1.0".into(),
            kernel: "6.1".into(),
            instance: "0a0b0c0d".into(),
            pid: 1,
            data_dir: "/data".into(),
            server: None,
            kubeconfig: None,
            node: Some("a".into()),
            parts: BTreeMap::from([("store".into(), PartHealth::Healthy)]),
            kernel_lacks: vec!["no Landlock".into()],
        };
        assert!(report.healthy());
        assert!(text(&report).ends_with("kernel: no Landlock\n"));
        report.parts.insert(
            "network".into(),
            PartHealth::Unhealthy {
                reason: "no uplink".into(),
            },
        );
        assert!(!report.healthy());
        assert!(
            text(&report).contains("network      unhealthy: no uplink"),
            "{}",
            text(&report)
        );
    }
}
