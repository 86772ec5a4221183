//! The one table of what the API has and kernelet does not do yet. Checked after defaulting; a field that is set is
//! answered with 422 and its path, never ignored.

use crate::{FieldError, Value, field::Path};

/// A field that is refused: the kind, its path (`[]` steps into a list's elements), and what to tell the user.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `Pod` stands for the pods of templates too.
    pub kind: &'static str,
    pub path: &'static str,
    pub refused: Refused,
    pub text: &'static str,
}

/// When a field is refused.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// Whenever it is set to something that is not empty.
    Set,
    /// When it has this value.
    Value(&'static str),
    /// When it is a text that begins so.
    Prefix(&'static str),
}

const fn row(kind: &'static str, path: &'static str, text: &'static str) -> Row {
    Row {
        kind,
        path,
        refused: Refused::Set,
        text,
    }
}

const fn value(
    kind: &'static str,
    path: &'static str,
    value: &'static str,
    text: &'static str,
) -> Row {
    Row {
        kind,
        path,
        refused: Refused::Value(value),
        text,
    }
}

const APPARMOR: &str = "AppArmor is not implemented";
const SELINUX: &str = "SELinux is not implemented";
const VOLUME: &str = "this kind of volume is not implemented";

/// Every field that is refused; the README prints it.
pub const TABLE: &[Row] = &[
    row(
        "Pod",
        "spec.volumes[].persistentVolumeClaim",
        "persistent volumes are not implemented",
    ),
    row(
        "Pod",
        "spec.volumes[].ephemeral",
        "persistent volumes are not implemented",
    ),
    row("Pod", "spec.volumes[].csi", VOLUME),
    row("Pod", "spec.volumes[].nfs", VOLUME),
    row("Pod", "spec.volumes[].iscsi", VOLUME),
    row("Pod", "spec.volumes[].fc", VOLUME),
    row("Pod", "spec.volumes[].flexVolume", VOLUME),
    row("Pod", "spec.volumes[].flocker", VOLUME),
    row("Pod", "spec.volumes[].gitRepo", VOLUME),
    row("Pod", "spec.volumes[].glusterfs", VOLUME),
    row("Pod", "spec.volumes[].rbd", VOLUME),
    row("Pod", "spec.volumes[].cephfs", VOLUME),
    row("Pod", "spec.volumes[].cinder", VOLUME),
    row("Pod", "spec.volumes[].awsElasticBlockStore", VOLUME),
    row("Pod", "spec.volumes[].azureDisk", VOLUME),
    row("Pod", "spec.volumes[].azureFile", VOLUME),
    row("Pod", "spec.volumes[].gcePersistentDisk", VOLUME),
    row("Pod", "spec.volumes[].photonPersistentDisk", VOLUME),
    row("Pod", "spec.volumes[].portworxVolume", VOLUME),
    row("Pod", "spec.volumes[].quobyte", VOLUME),
    row("Pod", "spec.volumes[].scaleIO", VOLUME),
    row("Pod", "spec.volumes[].storageos", VOLUME),
    row("Pod", "spec.volumes[].vsphereVolume", VOLUME),
    row(
        "Pod",
        "spec.volumes[].image",
        "image volumes are not implemented",
    ),
    row(
        "Pod",
        "spec.volumes[].projected.sources[].clusterTrustBundle",
        "cluster trust bundles are not implemented",
    ),
    row(
        "Pod",
        "spec.volumes[].projected.sources[].podCertificate",
        "pod certificates are not implemented",
    ),
    row(
        "Pod",
        "spec.resourceClaims",
        "dynamic resource allocation is not implemented",
    ),
    row(
        "Pod",
        "spec.containers[].resources.claims",
        "dynamic resource allocation is not implemented",
    ),
    row(
        "Pod",
        "spec.initContainers[].resources.claims",
        "dynamic resource allocation is not implemented",
    ),
    row(
        "Pod",
        "spec.resources",
        "resources of a whole pod are not implemented; set them on its containers",
    ),
    row(
        "Pod",
        "spec.workloadRef",
        "gang scheduling is not implemented",
    ),
    row(
        "Pod",
        "spec.runtimeClassName",
        "runtime classes are not implemented",
    ),
    row(
        "Pod",
        "spec.overhead",
        "runtime classes are not implemented",
    ),
    value("Pod", "spec.os.name", "windows", "only Linux runs here"),
    row(
        "Pod",
        "spec.containers[].volumeDevices",
        "block devices are not implemented",
    ),
    row(
        "Pod",
        "spec.initContainers[].volumeDevices",
        "block devices are not implemented",
    ),
    row(
        "Pod",
        "spec.ephemeralContainers[].volumeDevices",
        "block devices are not implemented",
    ),
    row(
        "Pod",
        "spec.containers[].env[].valueFrom.fileKeyRef",
        "environment files are not implemented",
    ),
    row(
        "Pod",
        "spec.initContainers[].env[].valueFrom.fileKeyRef",
        "environment files are not implemented",
    ),
    row(
        "Pod",
        "spec.ephemeralContainers[].env[].valueFrom.fileKeyRef",
        "environment files are not implemented",
    ),
    row(
        "Pod",
        "spec.securityContext.windowsOptions",
        "only Linux runs here",
    ),
    row(
        "Pod",
        "spec.containers[].securityContext.windowsOptions",
        "only Linux runs here",
    ),
    row(
        "Pod",
        "spec.initContainers[].securityContext.windowsOptions",
        "only Linux runs here",
    ),
    row(
        "Pod",
        "spec.ephemeralContainers[].securityContext.windowsOptions",
        "only Linux runs here",
    ),
    Row {
        kind: "Pod",
        path: "spec.volumes[].emptyDir.medium",
        refused: Refused::Prefix("HugePages"),
        text: "huge pages as a volume are not implemented",
    },
    value(
        "Pod",
        "spec.securityContext.appArmorProfile.type",
        "Localhost",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.securityContext.appArmorProfile.type",
        "RuntimeDefault",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.containers[].securityContext.appArmorProfile.type",
        "Localhost",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.containers[].securityContext.appArmorProfile.type",
        "RuntimeDefault",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.initContainers[].securityContext.appArmorProfile.type",
        "Localhost",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.ephemeralContainers[].securityContext.appArmorProfile.type",
        "Localhost",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.initContainers[].securityContext.appArmorProfile.type",
        "RuntimeDefault",
        APPARMOR,
    ),
    value(
        "Pod",
        "spec.ephemeralContainers[].securityContext.appArmorProfile.type",
        "RuntimeDefault",
        APPARMOR,
    ),
    row("Pod", "spec.securityContext.seLinuxOptions", SELINUX),
    row("Pod", "spec.securityContext.seLinuxChangePolicy", SELINUX),
    row(
        "Pod",
        "spec.containers[].securityContext.seLinuxOptions",
        SELINUX,
    ),
    row(
        "Pod",
        "spec.initContainers[].securityContext.seLinuxOptions",
        SELINUX,
    ),
    row(
        "Pod",
        "spec.ephemeralContainers[].securityContext.seLinuxOptions",
        SELINUX,
    ),
    value(
        "Service",
        "spec.type",
        "LoadBalancer",
        "load balancers are not implemented",
    ),
    row(
        "Service",
        "spec.externalIPs",
        "external addresses are not implemented",
    ),
    row(
        "Service",
        "spec.trafficDistribution",
        "topology-aware routing is not implemented",
    ),
    value(
        "Service",
        "spec.ports[].protocol",
        "SCTP",
        "SCTP is not routed",
    ),
    row(
        "Node",
        "spec.configSource",
        "dynamic configuration was removed from Kubernetes",
    ),
];

/// The table as the README prints it: a line for each reason, with the fields that it refuses.
pub fn markdown() -> String {
    let mut reasons: Vec<(&str, &str, Vec<String>)> = vec![];
    for row in TABLE {
        let field = match row.refused {
            Refused::Set => format!("`{}`", row.path),
            Refused::Value(value) => format!("`{}: {value}`", row.path),
            Refused::Prefix(prefix) => format!("`{}: {prefix}…`", row.path),
        };
        match reasons
            .iter_mut()
            .find(|(kind, text, _)| *kind == row.kind && *text == row.text)
        {
            Some((_, _, fields)) => fields.push(field),
            None => reasons.push((row.kind, row.text, vec![field])),
        }
    }
    let lines = reasons
        .into_iter()
        .map(|(kind, text, fields)| format!("| {kind} | {text} | {} |\n", fields.join(", ")));
    format!(
        "| kind | what | fields |\n|---|---|---|\n{}",
        lines.collect::<String>()
    )
}

/// The refused fields that `object` sets, in the order of the table.
pub fn check(kind: &str, object: &Value) -> Vec<FieldError> {
    let (kind, root, path) = match kind {
        "DaemonSet" | "Deployment" | "ReplicaSet" | "ReplicationController" => {
            let Some(template) = object.pointer("/spec/template") else {
                return vec![];
            };
            ("Pod", template, Path::new("spec").child("template"))
        }
        kind => (kind, object, Path::root()),
    };
    let mut errors = vec![];
    for row in TABLE.iter().filter(|row| row.kind == kind) {
        walk(root, row.path, &path, &mut |value, path| {
            let refused = match row.refused {
                Refused::Set => !is_empty(value),
                Refused::Value(text) => value.as_str() == Some(text),
                Refused::Prefix(text) => value.as_str().is_some_and(|v| v.starts_with(text)),
            };
            if refused {
                errors.push(FieldError::forbidden(path, row.text));
            }
        });
    }
    errors
}

/// Calls `found` for every value at the path.
fn walk(value: &Value, path: &str, at: &Path, found: &mut impl FnMut(&Value, &Path)) {
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, list) = match head.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (head, false),
    };
    let Some(value) = value.get(name) else { return };
    let at = at.child(name);
    let mut step = |value: &Value, at: &Path| {
        if rest.is_empty() {
            found(value, at)
        } else {
            walk(value, rest, at, found)
        }
    };
    if list {
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            step(item, &at.index(i));
        }
    } else {
        step(value, &at);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gvk, Schema};
    use serde_json::json;

    #[test]
    fn a_refused_field_is_named_with_its_path_also_inside_templates() {
        let spec =
            json!({"volumes": [{"name": "a"}, {"name": "b", "nfs": {"path": "/", "server": "s"}}]});
        let texts = |kind, object: Value| {
            check(kind, &object)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts("Pod", json!({"spec": spec})),
            ["spec.volumes[1].nfs: Forbidden: this kind of volume is not implemented"]
        );
        assert_eq!(
            texts("Deployment", json!({"spec": {"template": {"spec": spec}}})),
            [
                "spec.template.spec.volumes[1].nfs: Forbidden: this kind of volume is not implemented"
            ]
        );
        assert_eq!(
            texts(
                "Service",
                json!({"spec": {"type": "LoadBalancer", "externalIPs": []}})
            ),
            ["spec.type: Forbidden: load balancers are not implemented"]
        );
    }

    #[test]
    fn every_row_names_a_field_that_exists() {
        let schema = Schema::builtin();
        for row in TABLE {
            let ty = schema.by_gvk(&Gvk::new("", "v1", row.kind)).unwrap();
            let path = row.path.replace("[]", "");
            assert!(
                schema.at_path(ty, &path).is_some(),
                "{} {}",
                row.kind,
                row.path
            );
        }
    }
}
