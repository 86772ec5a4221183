//! Pods for this crate's tests.

use std::sync::Arc;

use crate::{NodeFacts, Wanted};

pub(crate) fn wanted(pod: serde_json::Value) -> Wanted {
    let node = NodeFacts {
        host_ips: vec!["192.0.2.1".parse().expect("ip")],
        cgroup_root: "/kernelet".to_owned(),
        memory_bytes: 4 << 30,
        cpus: 2,
        oom_score_floor: -1000,
        pod_pids: None,
    };
    let pod = serde_json::from_value(pod).expect("a pod");
    Wanted::new(Arc::new(pod), Arc::new(node))
}
