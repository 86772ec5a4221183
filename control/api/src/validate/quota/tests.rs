use super::*;
use serde_json::json;

fn texts(errors: Vec<FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_limit_ranges_figures_must_be_in_order() {
    let range = |item: Value| limit_range(&json!({"spec": {"limits": [item]}}));
    assert_eq!(
        texts(range(
            json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}})
        )),
        ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]
    );
    assert_eq!(
        texts(range(
            json!({"type": "Pod", "default": {"cpu": "1"}, "max": {"foo": "1"}})
        )),
        [
            "spec.limits[0].max[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
            "spec.limits[0].max[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ]
    );
    assert_eq!(
        texts(range(
            json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"},
            "maxLimitRequestRatio": {"cpu": "3"}})
        )),
        [
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000"
        ]
    );
    assert_eq!(
        texts(range(json!({"type": "PersistentVolumeClaim"}))),
        [
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
        ]
    );
    assert!(range(json!({"type": "Container", "max": {"example.com/gpu": "2"}})).is_empty());
}

#[test]
fn a_quotas_scopes_must_fit_what_it_counts() {
    let quota = |spec: Value| texts(resource_quota(&json!({"spec": spec})));
    assert_eq!(
        quota(json!({"hard": {"services": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
        [
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ]
    );
    assert_eq!(
        quota(json!({"hard": {"pods": "1500m", "widgets": "1", "cpu": "-1"}})),
        [
            "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.hard[widgets]: Invalid value: \"widgets\": must be a standard resource type or fully qualified",
            "spec.hard[widgets]: Invalid value: \"widgets\": must be a standard resource for quota",
        ]
    );
    assert_eq!(
        quota(json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In"}, {"scopeName": "Terminating", "operator": "In", "values": ["a"]},
        ]}})),
        [
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        ]
    );
    assert!(
        quota(json!({"hard": {"count/deployments.apps": "3", "requests.example.com/gpu": "1"}}))
            .is_empty()
    );
}
