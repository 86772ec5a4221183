//! The kubelet's numbers, row by row.

use super::*;

fn spec(json: serde_json::Value) -> PodSpec {
    serde_json::from_value(json).expect("a pod spec")
}

fn node() -> NodeFacts {
    NodeFacts {
        host_ips: vec![],
        cgroup_root: "/kernelet".to_owned(),
        memory_bytes: 4 << 30,
        cpus: 2,
        oom_score_floor: -1000,
        pod_pids: None,
    }
}

#[test]
fn qos_class_oom_score_and_cgroup_numbers_follow_requests_and_limits() {
    // resources of one container → class, oom_score_adj, shares, weight, quota, memory
    let rows = [
        ("{}", "BestEffort", 1000, 2, 1, None, None),
        (
            r#"{"requests":{"cpu":"100m"}}"#,
            "Burstable",
            999,
            102,
            4,
            None,
            None,
        ),
        (
            r#"{"requests":{"cpu":"1","memory":"1Gi"}}"#,
            "Burstable",
            750,
            1024,
            39,
            None,
            None,
        ),
        (
            r#"{"requests":{"cpu":"500m","memory":"64Mi"},"limits":{"cpu":"500m","memory":"64Mi"}}"#,
            "Guaranteed",
            -997,
            512,
            20,
            Some(50_000),
            Some(64 << 20),
        ),
        (
            r#"{"limits":{"cpu":"5m","memory":"64Mi"}}"#,
            "Guaranteed",
            -997,
            5,
            1,
            Some(1000),
            Some(64 << 20),
        ),
        (
            r#"{"requests":{"memory":"4Gi"}}"#,
            "Burstable",
            3,
            2,
            1,
            None,
            None,
        ),
        (
            r#"{"limits":{"memory":"64Mi"}}"#,
            "Burstable",
            985,
            2,
            1,
            None,
            Some(64 << 20),
        ),
    ];
    for (resources, class, oom, shares, weight, quota, memory) in rows {
        let resources: serde_json::Value = serde_json::from_str(resources).expect("json");
        let spec = spec(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}));
        let container = &spec.containers[0];
        assert_eq!(QosClass::of(&spec).as_str(), class, "{resources}");
        assert_eq!(oom_score_adj(&spec, container, &node()), oom, "{resources}");
        for limits in [
            CgroupLimits::of_container(container),
            CgroupLimits::of_pod(&spec, None),
        ] {
            assert_eq!(limits.cpu_shares, shares, "{resources}");
            assert_eq!(limits.cpu_weight(), weight, "{resources}");
            assert_eq!(limits.cpu_quota_us, quota, "{resources}");
            assert_eq!(limits.memory_bytes, memory, "{resources}");
        }
    }
}

#[test]
fn a_pods_group_holds_its_containers_together_and_is_limited_only_when_all_are() {
    let both = spec(serde_json::json!({"containers": [
        {"name": "a", "resources": {"limits": {"memory": "64Mi", "cpu": "1"}, "requests": {"cpu": "500m"}}},
        {"name": "b", "resources": {"limits": {"memory": "32Mi"}, "requests": {"cpu": "250m"}}}],
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": {"limits": {"memory": "1Mi"}}},
            {"name": "init", "resources": {"limits": {"memory": "200Mi"}}}]}));
    let limits = CgroupLimits::of_pod(&both, Some(100));
    assert_eq!(limits.cpu_shares, 768);
    assert_eq!(limits.cpu_quota_us, None, "b has no cpu limit");
    assert_eq!(
        limits.memory_bytes,
        Some(201 << 20),
        "the init container with the sidecar before it is the peak"
    );
    assert_eq!(limits.pids, Some(100));
}

#[test]
fn the_oom_score_is_never_set_below_what_this_process_may_set() {
    let spec = spec(
        serde_json::json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}),
    );
    let node = NodeFacts {
        oom_score_floor: 0,
        ..node()
    };
    assert_eq!(oom_score_adj(&spec, &spec.containers[0], &node), 0);
}
