//! Endpoints from pods, case by case.

use super::{legacy::endpoints, plan::*};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn service(over: impl FnOnce(&mut Value)) -> Service {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "a"}},
        "spec": {
            "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
    });
    over(&mut service);
    serde_json::from_value(service).expect("a Service")
}

fn pod(number: usize, over: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let ip = format!("10.244.{}.{}", number / 200, number % 200 + 1);
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "default",
            "uid": format!("u{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    over(&mut pod);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn not_ready(pod: &mut Value) {
    pod["status"]["conditions"][0]["status"] = "False".into();
}

fn leaving(pod: &mut Value) {
    pod["metadata"]["deletionTimestamp"] = "2025-01-01T00:00:00Z".into();
}

fn node(name: &str) -> Option<Arc<Node>> {
    let node = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "z"}}});
    serde_json::from_value(node).ok().map(Arc::new)
}

/// Carries a plan out on the slices known.
fn carry_out(plan: Plan, known: &mut Vec<Arc<EndpointSlice>>, made: &mut usize) -> usize {
    let writes = plan.create.len() + plan.update.len() + plan.delete.len();
    for gone in plan.delete {
        known.retain(|slice| slice.metadata.name != gone.metadata.name);
    }
    for slice in plan.update {
        known.retain(|known| known.metadata.name != slice.metadata.name);
        known.push(Arc::new(slice));
    }
    for mut slice in plan.create {
        *made += 1;
        slice.metadata.name = Some(format!("web-{made}"));
        known.push(Arc::new(slice));
    }
    writes
}

fn slices(service: &Service, pods: &[Arc<Pod>]) -> Vec<Arc<EndpointSlice>> {
    let mut known = Vec::new();
    carry_out(plan(service, pods, &node, &[]), &mut known, &mut 0);
    known
}

#[test]
fn an_endpoint_tells_address_conditions_pod_node_and_zone() {
    let slices = slices(&service(|_| {}), &[pod(0, |_| {})]);
    assert_eq!(slices.len(), 1);
    let slice = serde_json::to_value(&*slices[0]).expect("serialises");
    assert_eq!(
        slice["endpoints"],
        json!([{
            "addresses": ["10.244.0.1"],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "a", "zone": "z",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "p0", "uid": "u0"},
        }])
    );
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "protocol": "TCP", "port": 8080}])
    );
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"team": "a", "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "s");
}

#[test]
fn conditions_tell_ready_serving_and_terminating_apart() {
    type Change = fn(&mut Value);
    let cases: Vec<(Change, bool, [bool; 3])> = vec![
        (not_ready, false, [false, false, false]),
        (leaving, false, [false, true, true]),
        (not_ready, true, [true, false, false]),
    ];
    for (change, publish, expected) in cases {
        let service = service(|s| s["spec"]["publishNotReadyAddresses"] = publish.into());
        let slices = slices(&service, &[pod(0, change)]);
        let conditions = slices[0].endpoints[0]
            .conditions
            .as_ref()
            .expect("conditions");
        let [ready, serving, terminating] = expected.map(Some);
        assert_eq!(conditions.ready, ready);
        assert_eq!(conditions.serving, serving);
        assert_eq!(conditions.terminating, terminating);
    }
}

#[test]
fn pods_that_are_finished_or_have_no_address_are_left_out() {
    let pods = [
        pod(0, |pod| pod["status"]["phase"] = "Succeeded".into()),
        pod(1, |pod| pod["status"] = json!({"phase": "Pending"})),
    ];
    let slices = slices(&service(|_| {}), &pods);
    assert_eq!(slices.len(), 1, "an empty slice says that there are none");
    assert!(slices[0].endpoints.is_empty());
}

#[test]
fn a_named_port_that_differs_between_pods_makes_two_slices() {
    let other = pod(1, |pod| {
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
    });
    let slices = slices(&service(|_| {}), &[pod(0, |_| {}), other]);
    let mut ports: Vec<_> = slices
        .iter()
        .filter_map(|slice| slice.ports.as_ref()?.first()?.port)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn a_headless_service_is_labelled_and_names_hosts() {
    let service = service(|service| {
        service["spec"]["clusterIP"] = "None".into();
        service["spec"]["ports"] = json!([]);
    });
    let named = pod(0, |pod| {
        pod["spec"]["hostname"] = "first".into();
        pod["spec"]["subdomain"] = "web".into();
    });
    let slices = slices(&service, std::slice::from_ref(&named));
    assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("first"));
    assert!(
        slices[0]
            .metadata
            .labels
            .as_ref()
            .expect("labels")
            .contains_key(HEADLESS)
    );
    let legacy = endpoints(&service, &[named], None);
    let subset = &legacy.subsets.expect("subsets")[0];
    assert_eq!(subset.addresses.as_ref().expect("addresses").len(), 1);
    assert_eq!(subset.ports, None);
}

#[test]
fn hundreds_of_pods_fill_slices_and_one_change_is_one_write() {
    let service = service(|_| {});
    let mut pods: Vec<_> = (0..250).map(|number| pod(number, |_| {})).collect();
    let (mut known, mut made) = (Vec::new(), 0);
    carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made);
    assert_eq!(known.len(), 3);
    assert_eq!(
        carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made),
        0
    );
    pods[17] = pod(17, not_ready);
    assert_eq!(
        carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made),
        1
    );
    pods.remove(30);
    assert_eq!(
        carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made),
        1
    );
    pods.push(pod(300, |_| {}));
    assert_eq!(
        carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made),
        1
    );
    let total: usize = known.iter().map(|slice| slice.endpoints.len()).sum();
    assert_eq!(total, 250);
    pods.clear();
    carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made);
    assert_eq!(known.len(), 1);
    assert!(known[0].endpoints.is_empty());
    assert_eq!(
        carry_out(plan(&service, &pods, &node, &known), &mut known, &mut made),
        0
    );
}

#[test]
fn the_legacy_object_lists_not_ready_addresses_apart() {
    let pods = [pod(0, |_| {}), pod(1, not_ready), pod(2, leaving)];
    let legacy = endpoints(&service(|_| {}), &pods, None);
    let subsets = serde_json::to_value(&legacy.subsets).expect("serialises");
    assert_eq!(subsets[0]["addresses"][0]["ip"], "10.244.0.1");
    assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.244.0.2");
    assert_eq!(subsets[0]["addresses"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        subsets[0]["ports"],
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
    );
    let again = endpoints(&service(|_| {}), &pods, Some(&legacy));
    assert_eq!(again, legacy);
}
