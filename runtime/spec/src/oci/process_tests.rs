//! `process` and `linux.namespaces` as JSON, and what becomes of them.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::from_oci;
use crate::{ContainerId, ContainerPlan, NamespaceOf, NumberSet, TimeOffsets, validate};

/// The plan of a small bundle with a change, or the error's text.
fn check(path: &str, value: Value) -> Result<ContainerPlan, String> {
    changed(&[(path, value)])
}

fn changed(changes: &[(&str, Value)]) -> Result<ContainerPlan, String> {
    let mut config = json!({
        "ociVersion": "1.3.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]}
    });
    for (path, value) in changes {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).unwrap();
        parent[name] = value.clone();
    }
    let spec: Spec = serde_json::from_value(config).map_err(|e| e.to_string())?;
    let plan = from_oci(&spec, ContainerId::new("c1").unwrap(), Path::new("/bundle"))
        .map_err(|e| e.to_string())?;
    validate(&plan).map_err(|e| e.to_string())?;
    Ok(plan)
}

#[test]
fn attributes_become_the_kernels_numbers() {
    let plan = changed(&[
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "priority": 9, "flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_UTIL_CLAMP_MIN"]}),
        ),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 3})),
        ("/process/execCPUAffinity", json!({"initial": "0-1", "final": "3"})),
        ("/process/consoleSize", json!({"height": 5, "width": 7})),
        ("/process/apparmorProfile", json!("a")),
        ("/process/selinuxLabel", json!("b")),
        ("/linux/personality", json!({"domain": "LINUX32"})),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0,2", "flags": ["MPOL_F_STATIC_NODES"]}),
        ),
    ])
    .unwrap();
    let found = plan.process.attributes;
    let scheduler = found.scheduler.unwrap();
    assert_eq!(
        (scheduler.policy, scheduler.priority, scheduler.flags),
        (1, 9, 0x21)
    );
    assert_eq!(found.io_priority, Some(3 << 13 | 3));
    let affinity = found.exec_cpu_affinity.unwrap();
    assert_eq!(affinity.initial, Some(NumberSet { words: vec![3] }));
    assert_eq!(affinity.after, Some(NumberSet { words: vec![8] }));
    assert_eq!(found.console_size, Some((5, 7)));
    assert_eq!(found.apparmor_profile.as_deref(), Some("a"));
    assert_eq!(found.selinux_label.as_deref(), Some("b"));
    assert_eq!(found.personality, Some(8));
    let policy = found.memory_policy.unwrap();
    assert_eq!((policy.mode, policy.nodes.words), (3 | 1 << 15, vec![5]));
}

#[test]
fn nothing_said_is_nothing_asked_for() {
    let plan = changed(&[
        ("/process/apparmorProfile", json!("")),
        ("/process/selinuxLabel", json!("")),
        ("/process/consoleSize", json!({"height": 0, "width": 80})),
    ])
    .unwrap();
    assert_eq!(plan.process.attributes, crate::ProcessAttributes::default());
}

#[test]
fn what_does_not_fit_is_said_in_runcs_words() {
    let mount = |more: Value| {
        let mut all = vec![json!({"type": "mount"})];
        all.push(more);
        json!(all)
    };
    let mapping = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    for (path, value, error) in [
        (
            "/process/scheduler",
            json!({"policy": "SCHED_BATCH", "nice": -21}),
            "process.scheduler: invalid scheduler.nice: -21 when scheduler.policy is SCHED_BATCH",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "priority": 1}),
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_RR", "deadline": 1}),
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_RT", "priority": 8}),
            "process.ioPriority: invalid ioPriority.Priority: 8",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "5-1"}),
            "bad CPUAffinity.Initial: invalid range: 5-1",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy: memory policy mode requires 0 nodes but got 1",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "4096"}),
            "invalid memory policy nodes \"4096\": values larger than 1023 are not supported",
        ),
        (
            "/linux/namespaces",
            mount(json!({"type": "mount"})),
            "linux.namespaces: malformed spec file: duplicated ns {\"mount\" \"\"}",
        ),
        (
            "/linux/namespaces",
            mount(json!({"type": "ipc", "path": "proc/1/ns/ipc"})),
            "is not absolute",
        ),
        (
            "/linux/uidMappings",
            mapping.clone(),
            "linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled in the config",
        ),
        (
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "time namespace offsets specified, but time namespace isn't enabled in the config",
        ),
        (
            "/linux/netDevices",
            json!({"eth0": {}}),
            "unable to move network devices without a NET namespace",
        ),
    ] {
        let said = check(path, value.clone()).unwrap_err();
        assert!(said.contains(error), "{path} = {value}: {said}");
    }
    let user = ("/linux/namespaces", mount(json!({"type": "user"})));
    let said = changed(&[user.clone(), ("/linux/uidMappings", mapping.clone())]).unwrap_err();
    assert!(
        said.contains("linux.gidMappings: user namespaces enabled, but no gid mappings found"),
        "{said}"
    );
    let beyond = json!([{"containerID": 1, "hostID": 5, "size": 1}]);
    let said = changed(&[
        user,
        ("/linux/uidMappings", beyond),
        ("/linux/gidMappings", mapping),
    ])
    .unwrap_err();
    assert!(
        said.contains("user namespaces enabled, but no mapping found for uid 0"),
        "{said}"
    );
}

#[test]
fn namespaces_are_new_or_joined_with_what_is_written_into_them() {
    let mapping = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    let plan = changed(&[
        (
            "/linux/namespaces",
            json!([{"type": "mount", "path": "/m"}, {"type": "user"}, {"type": "time"}, {"type": "pid", "path": "/p"},
                {"type": "network", "path": ""}]),
        ),
        ("/linux/uidMappings", mapping.clone()),
        ("/linux/gidMappings", mapping),
        ("/linux/timeOffsets", json!({"boottime": {"secs": -1, "nanosecs": 4}})),
        ("/linux/netDevices", json!({"a": {"name": "b"}, "c": {}})),
    ])
    .unwrap();
    let of = &plan.namespaces;
    assert_eq!(of.mount, NamespaceOf::Path("/m".into()));
    assert_eq!(of.pid, NamespaceOf::Path("/p".into()));
    assert_eq!(
        (&of.user, &of.time, &of.net),
        (&NamespaceOf::New, &NamespaceOf::New, &NamespaceOf::New)
    );
    assert_eq!(
        (&of.ipc, &of.uts, &of.cgroup),
        (&NamespaceOf::Host, &NamespaceOf::Host, &NamespaceOf::Host)
    );
    assert_eq!(of.mappings.as_ref().unwrap().uids[0].host_id, 5);
    assert_eq!(
        of.time_offsets,
        TimeOffsets {
            monotonic: None,
            boottime: Some((-1, 4))
        }
    );
    let device = |old: &str, new: &str| (old.to_owned(), new.to_owned());
    assert_eq!(plan.net_devices, [device("a", "b"), device("c", "c")]);
}

#[test]
fn a_name_of_the_host_is_not_changed() {
    let namespaces = ("/linux/namespaces", json!([{"type": "mount"}]));
    for (field, error) in [
        (
            "hostname",
            "hostname: unable to set hostname without a private UTS namespace",
        ),
        (
            "domainname",
            "domainname: unable to set domainname without a private UTS namespace",
        ),
    ] {
        let path = format!("/{field}");
        assert_eq!(
            changed(&[namespaces.clone(), (&path, json!("box"))]).unwrap_err(),
            error
        );
        assert!(changed(&[namespaces.clone(), (&path, json!(""))]).is_ok());
    }
    let joined = json!([{"type": "mount"}, {"type": "uts", "path": "/u"}]);
    let plan = changed(&[("/linux/namespaces", joined), ("/hostname", json!("box"))]).unwrap();
    assert_eq!(plan.hostname.as_deref(), Some("box"));
}
