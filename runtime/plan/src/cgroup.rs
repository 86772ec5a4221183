//! Where a pod's cgroups stand, in the kubelet's layout below the node's root.
//!
//! `<root>/kubepods[/burstable|/besteffort]/pod<uid>/<container id>`; shims live in `<root>/shims/<uid>`, outside
//! of the pod, so that the page cache of logs isn't charged to it and killing the pod's group spares them.

use crate::{
    ContainerId, Wanted,
    resources::{CgroupLimits, QosClass},
};

/// A pod's cgroup: its path below each hierarchy's root, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    pub path: String,
    pub qos: QosClass,
    pub limits: CgroupLimits,
}

impl PodCgroup {
    pub fn of(root: &str, wanted: &Wanted) -> Self {
        let qos = QosClass::of(wanted.spec());
        Self {
            path: format!("{}/pod{}", qos_path(root, qos), wanted.uid()),
            qos,
            limits: CgroupLimits::of_pod(wanted.spec(), wanted.node.pod_pids),
        }
    }

    pub fn container(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.path)
    }
}

/// The group of all pods of a class.
pub fn qos_path(root: &str, qos: QosClass) -> String {
    let root = root.trim_end_matches('/');
    match qos.folder() {
        None => format!("{root}/kubepods"),
        Some(folder) => format!("{root}/kubepods/{folder}"),
    }
}

pub fn shim_path(root: &str, uid: &str) -> String {
    format!("{}/shims/{uid}", root.trim_end_matches('/'))
}
