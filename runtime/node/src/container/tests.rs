//! Rows of pods and what their containers' plans say.

use std::{path::Path, sync::Arc};

use kernelet_pod_plan::NodeFacts;
use kernelet_spec::Capability;
use serde_json::{Value, json};

use super::*;

fn wanted(spec: Value) -> Wanted {
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec});
    let node = NodeFacts {
        host_ips: vec![],
        cgroup_root: "/kernelet".into(),
        memory_bytes: 4 << 30,
        cpus: 2,
        oom_score_floor: -1000,
        pod_pids: None,
    };
    let pod = serde_json::from_value(pod).expect("a pod");
    Wanted::new(Arc::new(pod), Arc::new(node))
}

fn plan(pod: Value, container: Value, image: ImageConfig) -> Result<ContainerPlan, StepError> {
    plan_with(pod, container, image, None, vec![])
}

fn plan_with(
    pod: Value,
    container: Value,
    image: ImageConfig,
    ids: Option<IdMappings>,
    mounts: Vec<MountPlan>,
) -> Result<ContainerPlan, StepError> {
    let mut full = json!({"name": "a"});
    full.as_object_mut()
        .expect("object")
        .append(container.clone().as_object_mut().expect("object"));
    let mut spec = json!({"containers": [full]});
    spec.as_object_mut()
        .expect("object")
        .append(pod.clone().as_object_mut().expect("object"));
    let wanted = wanted(spec);
    let container = &wanted.spec().containers[0];
    container_plan(Inputs {
        wanted: &wanted,
        container,
        id: &ContainerId("c1".into()),
        attempt: 0,
        image: &image,
        found: &ImageFound {
            asked: "i".into(),
            name: "i".into(),
            id: "sha256:0".into(),
        },
        rootfs: Rootfs::Path("/root".into()),
        ids,
        hostname: "p",
        env: vec![("A".into(), "x".into())],
        mounts,
        cgroup: "/kernelet/kubepods/podu/c1".into(),
        target: None,
        seccomp_localhost: &|_| Err("none".into()),
    })
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["entry".into()],
        cmd: vec!["cmd".into()],
        env: vec!["PATH=/bin".into(), "A=image".into(), "B=image".into()],
        working_dir: "/srv".into(),
        ..ImageConfig::default()
    }
}

#[test]
fn command_and_arguments_replace_the_images_as_kubernetes_says() {
    for (container, expected) in [
        (json!({}), vec!["entry", "cmd"]),
        (json!({"args": ["$(A)"]}), vec!["entry", "x"]),
        (
            json!({"command": ["c", "$(A)", "$(Z)"]}),
            vec!["c", "x", "$(Z)"],
        ),
        (json!({"command": ["c"], "args": ["d"]}), vec!["c", "d"]),
    ] {
        assert_eq!(
            plan(json!({}), container.clone(), image())
                .expect("plans")
                .process
                .args,
            expected,
            "{container}"
        );
    }
    let error = plan(json!({}), json!({}), ImageConfig::default()).expect_err("nothing to run");
    assert_eq!(error.reason, FailureReason::CreateContainerError);
}

#[test]
fn the_pods_environment_wins_over_the_images() {
    let plan = plan(json!({}), json!({"workingDir": "/x/$(A)"}), image()).expect("plans");
    assert_eq!(
        plan.process.env,
        ["PATH=/bin", "HOSTNAME=p", "A=x", "B=image"]
    );
    assert_eq!(plan.process.cwd, PathBuf::from("/x/x"));
}

#[test]
fn who_runs_follows_container_then_pod_then_image() {
    let with_user = |user: &str| ImageConfig {
        user: user.into(),
        ..image()
    };
    let rows = [
        (json!({}), json!({}), "", Ok((NameOrId::Id(0), None))),
        (
            json!({}),
            json!({}),
            "app:staff",
            Ok((
                NameOrId::Name("app".into()),
                Some(NameOrId::Name("staff".into())),
            )),
        ),
        (
            json!({"runAsUser": 5}),
            json!({}),
            "app:staff",
            Ok((NameOrId::Id(5), None)),
        ),
        (
            json!({"runAsUser": 5}),
            json!({"runAsUser": 6, "runAsGroup": 7}),
            "",
            Ok((NameOrId::Id(6), Some(NameOrId::Id(7)))),
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "",
            Err(
                "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: a)",
            ),
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "app",
            Err(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: \"p_ns(u)\", container: a)",
            ),
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({"runAsUser": 0}),
            "7",
            Err("container's runAsUser breaks non-root policy (pod: \"p_ns(u)\", container: a)"),
        ),
        (
            json!({"runAsNonRoot": true}),
            json!({}),
            "7",
            Ok((NameOrId::Id(7), None)),
        ),
    ];
    for (pod, own, user, expected) in rows {
        let made = plan(
            json!({"securityContext": pod}),
            json!({"securityContext": own}),
            with_user(user),
        );
        let made = made
            .map(|p| (p.process.user.user, p.process.user.group))
            .map_err(|e| e.message);
        assert_eq!(made, expected.map_err(str::to_owned), "{pod} {own} {user}");
    }
    assert!(
        plan(json!({}), json!({}), with_user("4294967296")).is_err(),
        "an id that wraps is refused"
    );
}

#[test]
fn defaults_are_the_safe_ones_and_privilege_is_asked_for() {
    let usual = plan(json!({}), json!({}), image()).expect("plans");
    assert_eq!(usual.process.seccomp, Seccomp::RuntimeDefault);
    assert!(
        !usual
            .process
            .capabilities
            .bounding
            .contains(Capability::SYS_ADMIN)
    );
    assert!(!usual.masked_paths.is_empty() && !usual.readonly_paths.is_empty());
    assert!(usual.resources.devices.is_some());
    let strict = json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}});
    let strict = plan(json!({}), strict, image()).expect("plans");
    assert!(strict.process.no_new_privileges && strict.read_only_rootfs);
    assert_eq!(strict.process.capabilities.bounding.iter().count(), 0);
    let all = plan(
        json!({}),
        json!({"securityContext": {"privileged": true}}),
        image(),
    )
    .expect("plans");
    assert_eq!(all.process.seccomp, Seccomp::Unconfined);
    assert!(
        all.process
            .capabilities
            .bounding
            .contains(Capability::SYS_ADMIN)
    );
    assert!(all.masked_paths.is_empty() && all.resources.devices.is_none());
}

#[test]
fn host_namespaces_mean_no_descriptor_of_the_pod() {
    let host = plan(
        json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
        json!({}),
        image(),
    )
    .expect("plans");
    assert_eq!(
        (
            &host.namespaces.net,
            &host.namespaces.pid,
            &host.namespaces.ipc
        ),
        (&NamespaceOf::Host, &NamespaceOf::Host, &NamespaceOf::Host)
    );
    assert!(!host.mounts.iter().any(|m| m.source == MountSource::PodShm));
    let shared = plan(json!({"shareProcessNamespace": true}), json!({}), image()).expect("plans");
    assert_eq!(
        (&shared.namespaces.pid, &shared.namespaces.net),
        (&NamespaceOf::Pod, &NamespaceOf::Pod)
    );
}

#[test]
fn in_a_user_namespace_files_keep_their_owners() {
    let all = vec![kernelet_spec::IdMapping {
        container_id: 0,
        host_id: 65_536,
        size: 65_536,
    }];
    let ids = IdMappings {
        uids: all.clone(),
        gids: all,
    };
    let mounts = vec![MountPlan::bind("/srv", "/data", false)];
    let (pod, none) = (json!({"hostUsers": false}), json!({}));
    let made = plan_with(
        pod,
        none.clone(),
        image(),
        Some(ids.clone()),
        mounts.clone(),
    )
    .unwrap();
    assert_eq!(made.namespaces.user, NamespaceOf::Pod);
    assert_eq!(made.namespaces.mappings, Some(ids));
    let mapped = |plan: &ContainerPlan, place: &str| {
        let mount = plan
            .mounts
            .iter()
            .find(|m| m.destination == Path::new(place));
        mount.unwrap().extra.id_map.is_some()
    };
    assert!(mapped(&made, "/data") && mapped(&made, "/dev/shm") && !mapped(&made, "/proc"));
    let made = plan_with(json!({}), none, image(), None, mounts).unwrap();
    assert_eq!(made.namespaces.user, NamespaceOf::Host);
    assert!(!mapped(&made, "/data") && !mapped(&made, "/dev/shm"));
}
