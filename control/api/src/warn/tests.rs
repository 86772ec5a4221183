use super::*;
use crate::Registry;
use serde_json::json;

fn created(group: &str, kind: &str, object: Value) -> Vec<String> {
    on_create(Registry::builtin().by_kind(group, kind).unwrap(), &object)
}

fn pod(spec: Value) -> Vec<String> {
    created("", "Pod", json!({"metadata": {"name": "p"}, "spec": spec}))
}

#[test]
fn a_plain_pod_is_not_warned_of() {
    assert_eq!(
        pod(
            json!({"nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [{"name": "c", "ports": [
            {"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "a"}, {"name": "A", "value": "$(A)b"}]}]})
        ),
        [""; 0]
    );
}

#[test]
fn pods_are_warned_of_in_upstreams_words() {
    for (spec, expect) in [
        (
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}]}),
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}}}),
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"volumes": [{"name": "v", "gitRepo": {}}]}),
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            json!({"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}),
            "spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
        ),
        (
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
            "spec.imagePullSecrets[1].name: duplicate name \"a\"",
        ),
        (
            json!({"imagePullSecrets": [{}]}),
            "spec.imagePullSecrets[0].name: invalid empty name \"\"",
        ),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ),
        (
            json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1500m"}}}]}),
            "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
        ),
        (
            json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "a"}, {"name": "A", "value": "b"}]}]}),
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ),
        (
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]}]}),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            json!({"initContainers": [{"name": "i", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]}],
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1", "protocol": "TCP"}]}]}),
            "spec.containers[0].ports[0]: dangerously ambiguous port definition with spec.initContainers[0].ports[0]",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"name": "p", "containerPort": 1}]}, {"name": "b", "ports": [{"name": "p", "containerPort": 2}]}]}),
            "spec.containers[1].ports[0]: duplicate port name \"p\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
        ),
        (
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP", "hostIP": "10.0.0.1"}]}]}),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}",
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"path": "a"}, {"path": "a/b"}]}}]}),
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"a/b\" with \"a\"",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [
            {"secret": {"name": "s", "items": [{"path": "token"}]}}, {"serviceAccountToken": {"path": "token"}}]}}]}),
            "volume \"v\" (Projected): overlapping paths: \"token\" (ServiceAccountToken) with \"token\" (Secret \"s\")",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{}]}}]}),
            "volume \"v\" (Projected) has no sources provided",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["FD00::1"]}}),
            "spec.dnsConfig.nameservers[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
        ),
    ] {
        assert_eq!(pod(spec), [expect]);
    }
    assert_eq!(
        created(
            "",
            "Pod",
            json!({"metadata": {"name": "a.b", "annotations": {
            "scheduler.alpha.kubernetes.io/critical-pod": "", "seccomp.security.alpha.kubernetes.io/pod": "x"}}, "spec": {"containers": []}})
        ),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
        ]
    );
}

#[test]
fn templates_are_warned_of_when_they_change() {
    let deployment = |generation: i64| {
        json!({"metadata": {"name": "a.b", "generation": generation}, "spec": {"template": {"spec": {
            "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": []}}}})
    };
    let told = "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead";
    assert_eq!(
        created("apps", "Deployment", deployment(1)),
        [
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            told,
        ]
    );
    let resource = Registry::builtin().by_kind("apps", "Deployment").unwrap();
    let update = |new, old| on_update(resource, &deployment(new), &deployment(old), None);
    assert_eq!(update(2, 1), [told]);
    assert_eq!(update(1, 1), [""; 0]);
    assert_eq!(
        on_update(resource, &deployment(2), &deployment(1), Some("status")),
        [""; 0]
    );
}

#[test]
fn services_and_addresses_are_warned_of() {
    let service = |spec: Value| {
        created(
            "",
            "Service",
            json!({"metadata": {"name": "s"}, "spec": spec}),
        )
    };
    for (spec, expect) in [
        (
            json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP"}),
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "externalName": "x"}),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "FD00::1", "clusterIPs": ["FD00::1"]}),
            "spec.clusterIPs[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"]}),
            "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
        ),
        (
            json!({"type": "ClusterIP", "externalIPs": ["::ffff:1.2.3.4"]}),
            "spec.externalIPs[0]: non-standard IP address \"::ffff:1.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"",
        ),
        (
            json!({"type": "ClusterIP", "trafficDistribution": "PreferClose"}),
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ] {
        assert_eq!(service(spec), [expect]);
    }
    assert_eq!(
        created(
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "FQDN"})
        ),
        ["spec.addressType: FQDN endpoints are deprecated"]
    );
}

#[test]
fn other_kinds_are_warned_of() {
    assert_eq!(
        created(
            "",
            "ResourceQuota",
            json!({"spec": {"hard": {"cpu": "2", "limits.cpu": "1", "requests.memory": "1Gi", "limits.memory": "1Gi"}}})
        ),
        ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]
    );
    assert_eq!(
        created(
            "",
            "Secret",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": "eA=="}})
        ),
        ["tls: failed to find any PEM data in certificate input"]
    );
    let account =
        json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
    assert_eq!(
        created("", "ServiceAccount", account.clone()),
        [
            "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        ]
    );
    let resource = Registry::builtin().by_kind("", "ServiceAccount").unwrap();
    assert_eq!(on_update(resource, &account, &account, None), [""; 0]);
    let mut custom = (**resource).clone();
    custom.group = "example.com".to_owned();
    let widget = json!({"metadata": {"finalizers": ["mine", "example.com/ok"]}});
    assert_eq!(
        on_create(&custom, &widget),
        [
            "metadata.finalizers: \"mine\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        ]
    );
}
