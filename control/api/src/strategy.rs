//! What happens to an object between decoding and storing: which parts a request may write, and the generation.

mod daemonset;
pub(crate) use daemonset::TEMPLATE_GENERATION;

use crate::{Resource, Value, meta, resources::Storage};
use serde_json::{Map, json};

/// How a kind treats `status` and `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Strategy {
    /// `status` is written only through its subresource.
    pub status: bool,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// The kind may be deleted with a grace period by default (pods).
    pub graceful: bool,
    /// `PUT` to a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update without resourceVersion is allowed.
    pub unconditional_update: bool,
    /// A deletion that doesn't say what becomes of dependents leaves them alone (ReplicationControllers).
    pub orphans_dependents: bool,
}

impl Resource {
    /// Strips what a client may not set on create (status, server-set metadata) and sets the first generation.
    /// The server then sets uid, creationTimestamp, name and namespace, and for a CertificateSigningRequest
    /// `spec.username`, `uid`, `groups` and `extra`.
    pub fn prepare_for_create(&self, object: &mut Value) {
        let strategy = self.hooks.strategy;
        let metadata = meta::metadata_mut(object);
        for field in [
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ] {
            metadata.remove(field);
        }
        if strategy.generation {
            meta::set_generation(object, 1);
        }
        // A node registers itself together with its status.
        if strategy.status && self.kind != "Node" {
            set_status(object, None);
        }
        match (self.group.as_str(), self.kind.as_str()) {
            ("", "Pod") => {
                object["status"] =
                    json!({"phase": "Pending", "qosClass": crate::validate::qos_class(object)});
                if is_gated(object) {
                    object["status"]["conditions"] = json!([{
                        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                        "message": "Scheduling is blocked due to non-empty scheduling gates",
                    }]);
                }
            }
            ("", "Namespace") => {
                object["status"] = json!({"phase": "Active"});
                let spec = meta::child_mut(object, "spec");
                let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
                if let Some(list) = finalizers.as_array_mut()
                    && !list.iter().any(|f| f == "kubernetes")
                {
                    list.push("kubernetes".into());
                }
            }
            ("", "Service") => object["status"] = json!({"loadBalancer": {}}),
            ("certificates.k8s.io", "CertificateSigningRequest") => {
                let spec = meta::child_mut(object, "spec");
                for field in ["username", "uid", "groups", "extra"] {
                    spec.remove(field);
                }
            }
            ("policy", "PodDisruptionBudget") => {
                object["status"] = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0});
            }
            ("apps", "ReplicaSet") | ("", "ReplicationController") => {
                object["status"] = json!({"replicas": 0});
            }
            ("apps", "DaemonSet") => daemonset::prepare_for_create(object),
            _ => {}
        }
    }

    /// Keeps of `old` what this request may not change (status on the main resource; everything but status, and
    /// owners, on `status`) and bumps the generation. Metadata that the server owns is carried over where the request
    /// leaves it out.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value, subresource: Option<&str>) {
        keep_server_metadata(new, old);
        let kind = (self.group.as_str(), self.kind.as_str());
        match subresource {
            None => {
                if self.hooks.strategy.status {
                    set_status(new, old.get("status"));
                }
                self.prepare_main_update(kind, new, old);
            }
            Some("status") => {
                keep_all_but(new, old, &["metadata", "status"]);
                match kind {
                    ("", "Pod") => {
                        copy_metadata(new, old, "ownerReferences");
                        let qos = old.pointer("/status/qosClass").cloned();
                        let status = meta::child_mut(new, "status");
                        if let Some(qos) = qos {
                            status.entry("qosClass").or_insert(qos);
                        }
                    }
                    ("apps", "Deployment") => copy_metadata(new, old, "labels"),
                    ("certificates.k8s.io", _) => keep_conditions(new, old, Keep::Approval),
                    _ => {}
                }
            }
            Some("approval") => {
                keep_all_but(new, old, &["metadata", "status"]);
                let certificate = old.pointer("/status/certificate").cloned();
                let status = meta::child_mut(new, "status");
                match certificate {
                    Some(certificate) => drop(status.insert("certificate".to_owned(), certificate)),
                    None => drop(status.remove("certificate")),
                }
                keep_conditions(new, old, Keep::Others);
            }
            Some("ephemeralcontainers") => {
                let containers = new.pointer("/spec/ephemeralContainers").cloned();
                keep_all_but(new, old, &["metadata"]);
                for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    copy_metadata(new, old, field);
                }
                let spec = meta::child_mut(new, "spec");
                match containers {
                    Some(containers) => {
                        drop(spec.insert("ephemeralContainers".to_owned(), containers))
                    }
                    None => drop(spec.remove("ephemeralContainers")),
                }
            }
            Some("resize") => {
                crate::validate::pod::prepare_resize(new, old);
                set_status(new, old.get("status"));
                for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                    copy_metadata(new, old, field);
                }
            }
            Some("finalize") => {
                let finalizers = new.pointer("/spec/finalizers").cloned();
                keep_all_but(new, old, &["metadata"]);
                let spec = meta::child_mut(new, "spec");
                match finalizers {
                    Some(finalizers) => drop(spec.insert("finalizers".to_owned(), finalizers)),
                    None => drop(spec.remove("finalizers")),
                }
            }
            Some(_) => {}
        }
        if kind == ("apps", "DaemonSet") {
            daemonset::prepare_for_update(new, old);
        }
        self.bump_generation(new, old, subresource);
    }

    fn prepare_main_update(&self, kind: (&str, &str), new: &mut Value, old: &Value) {
        match kind {
            // Only the finalize subresource writes them.
            ("", "Namespace") => copy_field(new, old, "spec", "finalizers"),
            ("", "Secret") => {
                if new
                    .get("type")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .is_empty()
                    && let Some(ty) = old.get("type")
                {
                    new["type"] = ty.clone();
                }
            }
            ("", "Service") => keep_allocated(new, old),
            ("certificates.k8s.io", "CertificateSigningRequest") => {
                if let Some(spec) = old.get("spec") {
                    new["spec"] = spec.clone();
                }
            }
            _ => {}
        }
    }

    fn bump_generation(&self, new: &mut Value, old: &Value, subresource: Option<&str>) {
        let before = meta::generation(old);
        if !self.hooks.strategy.generation {
            if before > 0 && meta::generation(new) == 0 {
                meta::set_generation(new, before);
            }
            return;
        }
        let changed = |key: &str| new.get(key) != old.get(key);
        let mut bump = match self.kind.as_str() {
            "EndpointSlice" => {
                ["addressType", "endpoints", "ports"]
                    .iter()
                    .any(|k| changed(k))
                    || meta::labels(new) != meta::labels(old)
            }
            _ => changed("spec"),
        };
        // Not on `status`: that is how its controller writes the revision.
        bump |= self.kind == "Deployment"
            && subresource.is_none()
            && meta::annotations(new) != meta::annotations(old);
        meta::set_generation(new, before + i64::from(bump));
    }

    /// The fields that a request to the resource or a subresource does not write, as dotted paths; apply forgets
    /// ownership of them.
    pub fn reset_fields(&self, subresource: Option<&str>) -> Vec<&'static str> {
        match (subresource, self.kind.as_str()) {
            (None, "CertificateSigningRequest") => vec!["spec", "status"],
            (None, "Namespace") => vec!["status", "spec.finalizers"],
            (None, _) if self.hooks.strategy.status => vec!["status"],
            (None, _) => vec![],
            (Some("status"), "Deployment") => vec!["spec", "metadata.labels"],
            (Some("status"), "Pod") => {
                vec![
                    "spec",
                    "metadata.deletionTimestamp",
                    "metadata.ownerReferences",
                ]
            }
            (Some("status"), "CertificateSigningRequest") => vec!["spec"],
            (Some("approval"), _) => vec!["spec", "status.certificate"],
            (Some("status"), _) => vec!["spec"],
            (Some("finalize"), _) => vec!["status"],
            (Some(_), _) => vec![],
        }
    }

    /// The key's part below `/registry/`, for stored resources: `[group/]resource`.
    pub fn storage_prefix(&self) -> Option<String> {
        match &self.storage {
            // Upstream's layout has no group for the old kinds; ours has one wherever there is one.
            Storage::Stored {
                group, resource, ..
            } if group.is_empty() => Some(resource.clone()),
            Storage::Stored {
                group, resource, ..
            } => Some(format!("{group}/{resource}")),
            Storage::Virtual => None,
        }
    }
}

/// Marks an object as being deleted, as a graceful delete and one with finalizers do. `now` in RFC 3339.
pub fn mark_deleted(object: &mut Value, now: &str, grace_seconds: i64) {
    let generation = meta::generation(object);
    let metadata = meta::metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), now.into());
    metadata.insert(
        "deletionGracePeriodSeconds".to_owned(),
        grace_seconds.into(),
    );
    if generation > 0 {
        meta::set_generation(object, generation + 1);
    }
}

/// No scheduler may place the pod yet.
fn is_gated(pod: &Value) -> bool {
    pod.pointer("/spec/schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty())
}

fn set_status(object: &mut Value, status: Option<&Value>) {
    if let Some(map) = object.as_object_mut() {
        match status {
            Some(status) => drop(map.insert("status".to_owned(), status.clone())),
            // The canonical form of an empty status, as Go writes it.
            None => drop(map.insert("status".to_owned(), Value::Object(Map::new()))),
        }
    }
}

/// Everything but the given top fields is as before.
fn keep_all_but(new: &mut Value, old: &Value, writable: &[&str]) {
    let Some(map) = new.as_object_mut() else {
        return;
    };
    map.retain(|key, _| {
        writable.contains(&key.as_str()) || matches!(key.as_str(), "apiVersion" | "kind")
    });
    for (key, value) in old.as_object().into_iter().flatten() {
        if !writable.contains(&key.as_str()) {
            map.insert(key.clone(), value.clone());
        }
    }
}

fn copy_metadata(new: &mut Value, old: &Value, field: &str) {
    copy_field(new, old, "metadata", field);
}

fn copy_field(new: &mut Value, old: &Value, parent: &str, field: &str) {
    let value = old.get(parent).and_then(|p| p.get(field)).cloned();
    let target = meta::child_mut(new, parent);
    match value {
        Some(value) => drop(target.insert(field.to_owned(), value)),
        None => drop(target.remove(field)),
    }
}

/// Identity and times belong to the server; an object that is being deleted stays so.
fn keep_server_metadata(new: &mut Value, old: &Value) {
    let Some(before) = old.get("metadata").and_then(Value::as_object) else {
        return;
    };
    let metadata = meta::metadata_mut(new);
    metadata.remove("selfLink");
    for (field, always) in [
        ("uid", false),
        ("creationTimestamp", true),
        ("deletionTimestamp", true),
        ("deletionGracePeriodSeconds", false),
    ] {
        match before.get(field) {
            Some(value) if always || !metadata.contains_key(field) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            _ => {}
        }
    }
}

/// Which of a CSR's conditions stay as they were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Approved and Denied: the status subresource can't change them.
    Approval,
    /// All others: the approval subresource writes only Approved and Denied.
    Others,
}

fn keep_conditions(new: &mut Value, old: &Value, keep: Keep) {
    let is_approval = |c: &&Value| {
        matches!(
            c.get("type").and_then(Value::as_str),
            Some("Approved" | "Denied")
        )
    };
    let list = |object: &Value| -> Vec<Value> {
        object
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let kept = |c: &&Value| is_approval(c) == (keep == Keep::Approval);
    let (old, written) = (list(old), list(new));
    let mut conditions: Vec<Value> = old.iter().filter(kept).cloned().collect();
    conditions.extend(written.iter().filter(|c| !kept(c)).cloned());
    let status = meta::child_mut(new, "status");
    if conditions.is_empty() {
        status.remove("conditions");
    } else {
        status.insert("conditions".to_owned(), conditions.into());
    }
}

/// A Service's addresses and node ports stay with it where an update leaves them out.
fn keep_allocated(new: &mut Value, old: &Value) {
    let (Some(before), Some(spec)) = (
        old.get("spec"),
        new.get_mut("spec").and_then(Value::as_object_mut),
    ) else {
        return;
    };
    let ty = |spec: &Map<String, Value>| {
        spec.get("type")
            .and_then(Value::as_str)
            .unwrap_or("ClusterIP")
            .to_owned()
    };
    let new_ty = ty(spec);
    let Some(before) = before.as_object() else {
        return;
    };
    let old_ty = ty(before);
    let empty = |v: Option<&Value>| {
        v.is_none_or(|v| v.as_str() == Some("") || v.as_array().is_some_and(Vec::is_empty))
    };
    if new_ty != "ExternalName" && old_ty != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if empty(spec.get(field))
                && let Some(value) = before.get(field)
            {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
    let has_node_ports = |ty: &str| matches!(ty, "NodePort" | "LoadBalancer");
    if has_node_ports(&new_ty) && has_node_ports(&old_ty) {
        keep_node_ports(spec, before);
        if new_ty == "LoadBalancer"
            && spec.get("healthCheckNodePort").is_none()
            && let Some(port) = before.get("healthCheckNodePort")
            && spec.get("externalTrafficPolicy").and_then(Value::as_str) == Some("Local")
        {
            spec.insert("healthCheckNodePort".to_owned(), port.clone());
        }
    }
}

fn keep_node_ports(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    let key = |port: &Value| (port.get("protocol").cloned(), port.get("port").cloned());
    let old_ports: Vec<Value> = before
        .get("ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else {
        return;
    };
    let mut used: Vec<Value> = ports
        .iter()
        .filter_map(|p| p.get("nodePort").cloned())
        .collect();
    for port in ports.iter_mut() {
        let same = old_ports.iter().find(|old| key(old) == key(port));
        if let (None, Some(number)) = (
            port.get("nodePort"),
            same.and_then(|old| old.get("nodePort")),
        ) && !used.contains(number)
        {
            used.push(number.clone());
            port["nodePort"] = number.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    fn resource(group: &str, plural: &str) -> std::sync::Arc<Resource> {
        Registry::builtin()
            .by_resource(group, plural)
            .unwrap()
            .clone()
    }

    #[test]
    fn the_generation_counts_changes_of_the_spec_only() {
        let deployments = resource("apps", "deployments");
        let mut old = json!({"metadata": {"name": "a", "generation": 7}, "spec": {"replicas": 1}, "status": {"replicas": 5}});
        deployments.prepare_for_create(&mut old);
        assert_eq!((meta::generation(&old), &old["status"]), (1, &json!({})));
        let mut new = json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        deployments.prepare_for_update(&mut new, &old, None);
        assert_eq!((meta::generation(&new), &new["status"]), (1, &json!({})));
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}});
        deployments.prepare_for_update(&mut new, &old, None);
        assert_eq!(meta::generation(&new), 2);
        for (subresource, expected) in [(None, 2), (Some("status"), 1)] {
            let mut new = json!({"metadata": {"name": "a", "annotations": {"a": "b"}}, "spec": {"replicas": 1}, "status": {}});
            deployments.prepare_for_update(&mut new, &old, subresource);
            assert_eq!(meta::generation(&new), expected, "{subresource:?}");
        }
    }

    #[test]
    fn the_status_subresource_writes_status_and_nothing_else() {
        let deployments = resource("apps", "deployments");
        let old = json!({"metadata": {"name": "a", "generation": 3, "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"replicas": 4}, "status": {"replicas": 2}});
        deployments.prepare_for_update(&mut new, &old, Some("status"));
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "generation": 3, "labels": {"a": "b"}},
            "spec": {"replicas": 1}, "status": {"replicas": 2}})
        );
    }

    #[test]
    fn approval_and_status_of_a_request_write_their_own_conditions() {
        let csr = resource("certificates.k8s.io", "certificatesigningrequests");
        let old = json!({"metadata": {}, "spec": {"x": 1}, "status": {"conditions": [{"type": "Failed"}]}});
        let mut new = json!({"metadata": {}, "spec": {}, "status": {"certificate": "x", "conditions": [{"type": "Approved"}]}});
        csr.prepare_for_update(&mut new, &old, Some("approval"));
        assert_eq!(
            new["status"],
            json!({"conditions": [{"type": "Failed"}, {"type": "Approved"}]})
        );
        assert_eq!(new["spec"], json!({"x": 1}));
        let mut signed = json!({"metadata": {}, "status": {"certificate": "x", "conditions": [{"type": "Denied"}]}});
        csr.prepare_for_update(&mut signed, &new, Some("status"));
        assert_eq!(
            signed["status"],
            json!({"certificate": "x", "conditions": [{"type": "Approved"}]})
        );
    }

    #[test]
    fn a_service_keeps_its_address_and_node_ports() {
        let services = resource("", "services");
        let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"metadata": {}, "spec": {"type": "NodePort", "ports": [
            {"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        services.prepare_for_update(&mut new, &old, None);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    }

    #[test]
    fn a_pod_begins_pending_with_its_quality_of_service() {
        let pods = resource("", "pods");
        let mut pod = json!({"metadata": {"generation": 9}, "spec": {"containers": [{"resources": {}}]}, "status": {"phase": "Running"}});
        pods.prepare_for_create(&mut pod);
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
        let mut gated = pod.clone();
        gated["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
        pods.prepare_for_create(&mut gated);
        let condition = &gated["status"]["conditions"][0];
        assert_eq!(
            (
                &condition["type"],
                &condition["status"],
                &condition["reason"]
            ),
            (
                &json!("PodScheduled"),
                &json!("False"),
                &json!("SchedulingGated")
            )
        );
        let mut gone = pod.clone();
        mark_deleted(&mut gone, "2026-01-01T00:00:00Z", 30);
        assert_eq!(meta::generation(&gone), 2);
    }
}
