use crate::{Gvk, Registry, Value, codec, meta};
use serde_json::json;

/// Decodes and defaults as the server does, then compares what stands at a pointer.
fn check(group: &str, kind: &str, object: Value, at: &str, expect: Value) {
    let registry = Registry::builtin();
    let resource = registry.by_kind(group, kind).unwrap();
    let gvk = Gvk::new(group, "v1", kind);
    let decoded = codec::typecheck(
        &registry.schema,
        object,
        &gvk,
        codec::FieldValidation::Strict,
    )
    .unwrap();
    let mut value = decoded.value;
    resource.default(&mut value);
    assert_eq!(value.pointer(at), Some(&expect), "{at}");
    let once = value.clone();
    resource.default(&mut value);
    assert_eq!(value, once, "defaulting twice changes nothing");
    assert_eq!(meta::gvk(&value), Some(gvk));
}

#[test]
fn a_minimal_pod_gets_upstreams_defaults() {
    check(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}]}]}}),
        "/spec",
        json!({
            "containers": [{
                "name": "a", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        }),
    );
}

#[test]
fn a_pods_limits_become_its_requests_where_it_asks_for_none() {
    let limits = json!({"cpu": "1", "memory": "1024Mi"});
    let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": limits, "requests": {"cpu": "0.1"}}}]}});
    let expect = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}});
    check("", "Pod", pod, "/spec/containers/0/resources", expect);
}

#[test]
fn requests_are_rounded_up_to_thousandths() {
    let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "100u", "memory": "1Gi"}}}]}});
    check(
        "",
        "Pod",
        pod,
        "/spec/containers/0/resources/requests",
        json!({"cpu": "1m", "memory": "1Gi"}),
    );
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("nginx:1.2", "IfNotPresent"),
        ("nginx:latest", "Always"),
        ("reg:5000/nginx", "Always"),
        ("reg:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:latest@sha256:abc", "Always"),
    ] {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": image}]}});
        check(
            "",
            "Pod",
            pod,
            "/spec/containers/0/imagePullPolicy",
            policy.into(),
        );
    }
}

#[test]
fn volumes_and_probes_are_completed() {
    let pod = json!({"spec": {"volumes": [{"name": "a"}, {"name": "b", "projected": {"sources": [
        {"serviceAccountToken": {"path": "t"}}]}}, {"name": "c", "hostPath": {"path": "/"}}],
        "containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": "x"}}}]}});
    let volumes = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
        {"name": "c", "hostPath": {"path": "/", "type": ""}}]);
    check("", "Pod", pod.clone(), "/spec/volumes", volumes);
    let probe = json!({"httpGet": {"path": "/", "port": "x", "scheme": "HTTP"}, "timeoutSeconds": 1,
        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    check("", "Pod", pod, "/spec/containers/0/livenessProbe", probe);
}

#[test]
fn a_service_gets_its_type_policies_and_target_ports() {
    let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}});
    check(
        "",
        "Service",
        service,
        "/spec",
        json!({"type": "NodePort", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
            {"port": 81, "protocol": "TCP", "targetPort": "http"}]}),
    );
}

#[test]
fn a_deployment_rolls_a_quarter_at_a_time() {
    let deployment = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
    check(
        "apps",
        "Deployment",
        deployment.clone(),
        "/spec/strategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    );
    check(
        "apps",
        "Deployment",
        deployment.clone(),
        "/spec/replicas",
        1.into(),
    );
    check(
        "apps",
        "Deployment",
        deployment.clone(),
        "/spec/progressDeadlineSeconds",
        600.into(),
    );
    check(
        "apps",
        "Deployment",
        deployment,
        "/spec/template/spec/dnsPolicy",
        "ClusterFirst".into(),
    );
}

#[test]
fn bindings_name_the_group_of_users_but_not_of_service_accounts() {
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding,
        "/subjects/0/apiGroup",
        "rbac.authorization.k8s.io".into(),
    );
}

#[test]
fn a_secrets_plain_texts_become_data_and_win_over_it() {
    let secret =
        || json!({"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new", "c": ""}});
    check(
        "",
        "Secret",
        secret(),
        "/data",
        json!({"a": "bmV3", "b": "Yg==", "c": ""}),
    );
    check("", "Secret", secret(), "/type", json!("Opaque"));
}
