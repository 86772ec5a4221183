use super::*;
use serde_json::{Map, json};

fn at(level: Level, version: Version) -> LevelVersion {
    LevelVersion { level, version }
}

fn judge(level: Level, version: Version, pod: &Value) -> String {
    details(&evaluate(at(level, version), &Subject::of(pod)))
}

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    json!({"spec": {"containers": [container]}})
}

fn context(context: Value) -> Value {
    one(json!({"securityContext": context}))
}

/// A pod that `restricted` lets pass.
fn good() -> Value {
    json!({"spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }})
}

#[test]
fn a_hardened_pod_passes_and_a_plain_one_is_told_all_that_it_lacks() {
    assert_eq!(judge(Level::Restricted, Version::Latest, &good()), "");
    let plain = one(json!({}));
    assert_eq!(judge(Level::Baseline, Version::Latest, &plain), "");
    assert_eq!(
        judge(Level::Restricted, Version::Latest, &plain),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        reasons(&evaluate(
            at(Level::Restricted, Version::Latest),
            &Subject::of(&plain)
        )),
        "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
    );
}

#[test]
fn baseline_forbids_each_of_these() {
    let two = json!({"spec": {"initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
        "containers": [{"name": "c", "securityContext": {"privileged": true}}]}});
    let annotated = |key: &str, value: &str| {
        let annotations: Map<String, Value> =
            [(key.to_owned(), value.into())].into_iter().collect();
        json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}})
    };
    for (pod, expect) in [
        (
            json!({"spec": {"hostNetwork": true, "hostPID": true, "hostIPC": true}}),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        ),
        (
            two,
            "privileged (containers \"i\", \"c\" must not set securityContext.privileged=true)",
        ),
        (
            context(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
            "non-default capabilities (container \"c\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"spec": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]}}),
            "hostPath volumes (volumes \"a\", \"b\")",
        ),
        (
            one(json!({"ports": [{"hostPort": 9090}, {"hostPort": 80}, {"containerPort": 1}]})),
            "hostPort (container \"c\" uses hostPorts 80, 9090)",
        ),
        (
            one(
                json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}, "lifecycle": {"preStop": {"tcpSocket": {"host": "a"}}}}),
            ),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle hosts \"10.0.0.1\", \"a\")",
        ),
        (
            context(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            annotated(
                "container.apparmor.security.beta.kubernetes.io/c",
                "unconfined",
            ),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ),
        (
            json!({"spec": {"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may not be set)",
        ),
        (
            context(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [
            {"name": "c", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}}),
            "seccompProfile (pod and container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.x"}]}}}),
            "forbidden sysctls (kernel.msgmax, kernel.x)",
        ),
        (
            json!({"spec": {"securityContext": {"windowsOptions": {"hostProcess": true}}}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(judge(Level::Baseline, Version::Latest, &pod), expect);
    }
}

#[test]
fn restricted_forbids_more() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = good();
        change(&mut pod["spec"]);
        judge(Level::Restricted, Version::Latest, &pod)
    };
    assert_eq!(
        with(&|spec| spec["volumes"] =
            json!([{"name": "a", "hostPath": {}}, {"name": "b", "nfs": {}}, {"name": "c"}])),
        "restricted volume types (volumes \"a\", \"b\", \"c\" use restricted volume types \"hostPath\", \"nfs\", \"unknown\")"
    );
    assert_eq!(
        with(&|spec| spec["securityContext"]["runAsUser"] = 0.into()),
        "runAsUser=0 (pod must not set runAsUser=0)"
    );
    assert_eq!(
        with(&|spec| spec["containers"][0]["securityContext"]["runAsNonRoot"] = false.into()),
        "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)"
    );
    assert_eq!(
        with(
            &|spec| spec["containers"][0]["securityContext"]["capabilities"] =
                json!({"add": ["CHOWN"]})
        ),
        "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; \
         container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)"
    );
    assert_eq!(
        with(
            &|spec| spec["containers"][0]["securityContext"]["seccompProfile"] =
                json!({"type": "Unconfined"})
        ),
        "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")"
    );
}

#[test]
fn a_version_that_is_pinned_keeps_its_rules() {
    let v = Version::Minor;
    let sysctl = |name: &str| json!({"spec": {"securityContext": {"sysctls": [{"name": name}]}}});
    let engine =
        json!({"spec": {"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}});
    let probe = one(json!({"livenessProbe": {"tcpSocket": {"host": "h"}}}));
    let mut unmasked = context(json!({"procMount": "Unmasked"}));
    unmasked["spec"]["hostUsers"] = false.into();
    let annotated = json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}},
        "spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}});
    for (pod, before, since) in [
        (&sysctl("net.ipv4.ip_local_reserved_ports"), 26, 27),
        (&sysctl("net.ipv4.tcp_keepalive_time"), 28, 29),
        (&sysctl("net.ipv4.tcp_wmem"), 31, 32),
        (&engine, 30, 31),
        (&unmasked, 34, 35),
    ] {
        assert_ne!(
            judge(Level::Baseline, v(before), pod),
            "",
            "{pod} in v1.{before}"
        );
        assert_eq!(
            judge(Level::Baseline, v(since), pod),
            "",
            "{pod} in v1.{since}"
        );
    }
    assert_eq!(judge(Level::Baseline, v(33), &probe), "");
    assert_ne!(judge(Level::Baseline, v(34), &probe), "");
    assert!(
        judge(Level::Baseline, v(18), &annotated)
            .starts_with("seccompProfile (forbidden annotation")
    );
    assert!(judge(Level::Baseline, v(19), &annotated).starts_with("seccompProfile (pod must not"));
    // User namespaces relax what follows from root, but not how much of /proc is seen.
    let mut root = good();
    root["spec"]["securityContext"]["runAsNonRoot"] = false.into();
    root["spec"]["securityContext"]["runAsUser"] = 0.into();
    root["spec"]["hostUsers"] = false.into();
    assert_ne!(judge(Level::Restricted, v(34), &root), "");
    assert_eq!(judge(Level::Restricted, Version::Latest, &root), "");
    assert!(judge(Level::Restricted, Version::Latest, &unmasked).contains("procMount"));
    // Windows' containers have neither.
    let mut windows = one(json!({}));
    windows["spec"]["os"] = json!({"name": "windows"});
    windows["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    assert_ne!(judge(Level::Restricted, v(24), &windows), "");
    assert_eq!(judge(Level::Restricted, v(25), &windows), "");
    assert_eq!(judge(Level::Restricted, v(999), &good()), "");
}

#[test]
fn a_namespaces_labels_make_its_policy() {
    let policy = |labels: Value| {
        let labels: Map<String, Value> = labels
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), value.clone()))
            .collect();
        let (policy, errors) = Policy::of(&json!({"metadata": {"labels": labels}}), Policy::NONE);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (
            format!("{} {} {}", policy.enforce, policy.audit, policy.warn),
            errors,
        )
    };
    for (labels, expect) in [
        (
            json!({}),
            "privileged:latest privileged:latest privileged:latest",
        ),
        (
            json!({"enforce": "baseline"}),
            "baseline:latest privileged:latest baseline:latest",
        ),
        (
            json!({"enforce": "restricted", "enforce-version": "v1.28", "warn": "baseline"}),
            "restricted:v1.28 privileged:latest baseline:latest",
        ),
        (
            json!({"enforce": "baseline", "enforce-version": "v1.28", "audit": "restricted", "audit-version": "latest"}),
            "baseline:v1.28 restricted:latest baseline:v1.28",
        ),
    ] {
        assert_eq!(policy(labels), (expect.to_owned(), vec![]));
    }
    assert_eq!(
        policy(json!({"enforce": "bogus", "warn-version": "v1.05", "audit": "x"})),
        (
            "restricted:latest privileged:latest privileged:latest".to_owned(),
            vec![
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"bogus\": must be one of privileged, baseline, restricted".to_owned(),
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"x\": must be one of privileged, baseline, restricted".to_owned(),
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.05\": must be \"latest\" or \"v1.x\"".to_owned(),
            ]
        )
    );
}
