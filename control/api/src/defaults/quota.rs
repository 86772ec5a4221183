//! Defaults of LimitRanges and ResourceQuotas.

use super::{Object, each, inner, text};
use crate::{Value, meta::child_mut, quantity::Canonical};
use serde_json::json;

/// A container's missing default limits are the greatest that are allowed; its missing default requests are its
/// default limits, or else the least that is allowed.
pub fn limit_range(object: &mut Value) {
    for item in each(child_mut(object, "spec"), "limits") {
        if text(item, "type") == "Container" {
            inherit(item, "max", "default");
            inherit(item, "default", "defaultRequest");
            inherit(item, "min", "defaultRequest");
        }
        for list in [
            "max",
            "min",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            round_up(item, list);
        }
    }
}

/// Figures are kept to thousandths.
pub fn resource_quota(object: &mut Value) {
    round_up(child_mut(object, "spec"), "hard");
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        round_up(status, "hard");
        round_up(status, "used");
    }
}

fn inherit(item: &mut Object, from: &str, to: &str) {
    let Some(source) = item.get(from).and_then(Value::as_object).cloned() else {
        return;
    };
    let target = item.entry(to).or_insert_with(|| json!({}));
    if let Some(target) = target.as_object_mut() {
        for (name, quantity) in source {
            target.entry(name).or_insert(quantity);
        }
    }
}

fn round_up(map: &mut Object, list: &str) {
    let quantities = inner(map, list).into_iter().flat_map(|l| l.values_mut());
    for quantity in quantities {
        let parsed = quantity
            .as_str()
            .and_then(|text| Canonical::parse(text).ok());
        if let Some(rounded) = parsed.map(|q| q.rounded_to_milli().to_string()) {
            *quantity = rounded.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_defaults_follow_from_the_bounds() {
        let mut range = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}, "default": {"memory": "2Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}},
        ]}});
        limit_range(&mut range);
        assert_eq!(
            range["spec"]["limits"],
            json!([
                {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"},
                    "default": {"cpu": "2", "memory": "2Mi"}, "defaultRequest": {"cpu": "2", "memory": "2Mi"}},
                {"type": "Pod", "max": {"cpu": "2"}},
            ])
        );
    }
}
