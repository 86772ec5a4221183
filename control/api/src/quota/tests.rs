use super::*;
use crate::Value;
use jiff::Timestamp;
use serde_json::json;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

fn pod(resources: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn pay(quota: &Value, plural: &str, new: &Value, old: Option<&Value>) -> Result<Value, String> {
    let counter = Counter::of("", plural).unwrap();
    let change = Change {
        subresource: "",
        new,
        old,
        now: NOW,
    };
    let charged = charge(&[quota], &counter, change)?;
    Ok(charged
        .first()
        .map_or(Value::Null, |(_, used)| to_value(used)))
}

#[test]
fn a_pod_is_charged_under_every_name_that_the_quota_has() {
    let q = quota(
        json!({"pods": "2", "cpu": "2", "requests.cpu": "2", "limits.memory": "2Gi", "requests.example.com/gpu": "3", "count/pods": "9"}),
        json!({"pods": "1", "cpu": "500m", "requests.cpu": "500m", "limits.memory": "0", "requests.example.com/gpu": "0", "count/pods": "1"}),
    );
    let new = pod(
        json!({"requests": {"cpu": "500m", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}),
    );
    assert_eq!(
        pay(&q, "pods", &new, None),
        Ok(
            json!({"pods": "2", "cpu": "1", "requests.cpu": "1", "limits.memory": "1Gi",
            "requests.example.com/gpu": "2", "count/pods": "2"})
        )
    );
}

#[test]
fn what_is_too_much_names_only_what_exceeds() {
    let q = quota(
        json!({"pods": "2", "cpu": "2"}),
        json!({"pods": "2", "cpu": "500m"}),
    );
    let new = pod(json!({"requests": {"cpu": "500m"}}));
    assert_eq!(
        pay(&q, "pods", &new, None),
        Err("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2".to_owned())
    );
    let greedy = pod(json!({"requests": {"cpu": "2"}}));
    let q = quota(json!({"cpu": "2"}), json!({"cpu": "500m"}));
    assert_eq!(
        pay(&q, "pods", &greedy, None),
        Err("exceeded quota: q, requested: cpu=2, used: cpu=500m, limited: cpu=2".to_owned())
    );
}

#[test]
fn every_container_must_say_what_a_quota_of_cpu_or_memory_counts() {
    let q = quota(
        json!({"limits.cpu": "2", "requests.memory": "1Gi"}),
        json!({"limits.cpu": "0", "requests.memory": "0"}),
    );
    let new = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}],
        "initContainers": [{"name": "i"}]}});
    assert_eq!(
        pay(&q, "pods", &new, None),
        Err(
            "failed quota: q: must specify limits.cpu for: b,i; requests.memory for: a,b,i"
                .to_owned()
        )
    );
}

#[test]
fn a_quota_that_was_not_counted_yet_lets_nothing_in() {
    let q = json!({"metadata": {"name": "q"}, "status": {"hard": {"secrets": "1", "pods": "1"}}});
    assert_eq!(
        pay(&q, "secrets", &json!({}), None),
        Err("status unknown for quota: q, resources: secrets".to_owned())
    );
    // Before its controller has seen it at all, it holds nothing back.
    let fresh =
        json!({"metadata": {"name": "q"}, "spec": {"hard": {"secrets": "0"}}, "status": {}});
    assert_eq!(pay(&fresh, "secrets", &json!({}), None), Ok(Value::Null));
}

#[test]
fn a_services_node_ports_are_charged_by_their_growth() {
    let q = quota(
        json!({"services": "1", "services.nodeports": "2"}),
        json!({"services": "1", "services.nodeports": "0"}),
    );
    let service = |ty: &str, ports: usize| json!({"spec": {"type": ty, "ports": vec![json!({"port": 1}); ports]}});
    let old = service("ClusterIP", 2);
    assert_eq!(
        pay(&q, "services", &service("NodePort", 2), Some(&old)),
        Ok(json!({"services": "1", "services.nodeports": "2"}))
    );
    assert_eq!(
        pay(&q, "services", &service("NodePort", 3), Some(&old)),
        Err("exceeded quota: q, requested: services.nodeports=3, used: services.nodeports=0, limited: services.nodeports=2".to_owned())
    );
    assert_eq!(
        pay(&q, "services", &old, Some(&service("NodePort", 2))),
        Ok(Value::Null)
    );
}

#[test]
fn scopes_choose_the_pods() {
    let counter = Counter::of("", "pods").unwrap();
    let scoped =
        |scope: &str| json!({"spec": {"scopes": [scope]}, "status": {"hard": {"pods": "1"}}});
    let best_effort = pod(json!({}));
    let burstable = pod(json!({"requests": {"cpu": "1"}}));
    for (scope, plain, other) in [
        ("BestEffort", true, false),
        ("NotBestEffort", false, true),
        ("Terminating", false, false),
        ("NotTerminating", true, true),
        ("PriorityClass", false, false),
        ("CrossNamespacePodAffinity", false, false),
    ] {
        assert_eq!(
            counter.matches(&scoped(scope), &best_effort),
            plain,
            "{scope}"
        );
        assert_eq!(
            counter.matches(&scoped(scope), &burstable),
            other,
            "{scope}"
        );
    }
    let mut ending = pod(json!({}));
    ending["spec"]["activeDeadlineSeconds"] = 5.into();
    assert!(counter.matches(&scoped("Terminating"), &ending));
    let mut far = pod(json!({}));
    far["spec"]["affinity"] = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 1, "podAffinityTerm": {"namespaceSelector": {}}}]}});
    assert!(counter.matches(&scoped("CrossNamespacePodAffinity"), &far));
    let selects = |operator: &str, values: &[&str]| {
        json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}}, "status": {"hard": {"pods": "1"}}})
    };
    let mut high = pod(json!({}));
    high["spec"]["priorityClassName"] = "high".into();
    assert!(counter.matches(&selects("In", &["high"]), &high));
    assert!(!counter.matches(&selects("In", &["low"]), &high));
    assert!(counter.matches(&selects("NotIn", &["high"]), &best_effort));
    assert!(counter.matches(&selects("DoesNotExist", &[]), &best_effort));
}

#[test]
fn a_pod_that_ended_counts_as_an_object_only() {
    let counter = Counter::of("", "pods").unwrap();
    let mut ended = pod(json!({"requests": {"cpu": "1"}}));
    ended["status"] = json!({"phase": "Succeeded"});
    assert_eq!(
        to_value(&counter.usage(&ended, NOW)),
        json!({"count/pods": "1"})
    );
    let mut going = pod(json!({}));
    going["metadata"] =
        json!({"deletionTimestamp": "1970-01-01T00:00:10Z", "deletionGracePeriodSeconds": 30});
    let at = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(
        to_value(&counter.usage(&going, at(40))),
        json!({"count/pods": "1", "pods": "1"})
    );
    assert_eq!(
        to_value(&counter.usage(&going, at(41))),
        json!({"count/pods": "1"})
    );
}

#[test]
fn init_containers_count_by_their_peak_and_sidecars_with_the_rest() {
    let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let pod = json!({"spec": {
        "containers": [{"name": "a", "resources": cpu("1")}],
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": cpu("500m")},
            {"name": "i", "resources": cpu("2")},
        ],
    }});
    let sum = pod_resources(&pod, Figure::Requests, Source::Spec);
    assert_eq!(to_value(&sum), json!({"cpu": "2500m"}));
}

#[test]
fn a_resize_counts_the_greater_figure_until_it_is_done() {
    let mut pod = pod(json!({"requests": {"cpu": "1"}}));
    pod["status"] =
        json!({"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]});
    let sum = pod_resources(&pod, Figure::Requests, Source::SpecAndStatus);
    assert_eq!(to_value(&sum), json!({"cpu": "2"}));
}

#[test]
fn claims_are_charged_to_their_class_too() {
    let counter = Counter::of("", "persistentvolumeclaims").unwrap();
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
    assert_eq!(
        to_value(&counter.usage(&claim, NOW)),
        json!({
            "persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "2",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "2",
        })
    );
}

#[test]
fn reviews_and_events_are_not_counted() {
    assert_eq!(Counter::of("", "events"), None);
    assert_eq!(
        Counter::of("authorization.k8s.io", "localsubjectaccessreviews"),
        None
    );
    let deployments = Counter::of("apps", "deployments").unwrap();
    assert_eq!(
        to_value(&deployments.usage(&json!({}), NOW)),
        json!({"count/deployments.apps": "1"})
    );
}
