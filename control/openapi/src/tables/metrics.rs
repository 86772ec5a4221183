//! Cells of `metrics.k8s.io`.

use kernelet_api::{
    Value,
    quantity::{Canonical, Quantity},
};

use super::cells::list;

/// What a node, or all of a pod's containers, use of a resource.
pub(super) fn usage(object: &Value, resource: &str) -> String {
    if let Some(usage) = object.get("usage") {
        let text = usage.get(resource).and_then(Value::as_str);
        return text.unwrap_or("0").to_owned();
    }
    let sum = list(object, "containers")
        .iter()
        .map(|container| Quantity::of(container.get("usage").and_then(|u| u.get(resource))))
        .fold(Quantity::ZERO, |sum, one| sum + one);
    match sum.value() {
        bytes if resource == "memory" && bytes % 1024 == 0 => {
            Canonical::parse(&format!("{}Ki", bytes / 1024))
                .map_or_else(|_| sum.to_string(), |memory| memory.to_string())
        }
        bytes if resource == "memory" => bytes.to_string(),
        _ => sum.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_usage_is_its_containers() {
        let pod = json!({"containers": [
            {"name": "a", "usage": {"cpu": "1500u", "memory": "512Ki"}},
            {"name": "b", "usage": {"cpu": "2m", "memory": "1536Ki"}},
        ]});
        assert_eq!(
            (usage(&pod, "cpu"), usage(&pod, "memory")),
            ("3500u".into(), "2Mi".into())
        );
        let node = json!({"usage": {"cpu": "7n", "memory": "9"}});
        assert_eq!(
            (usage(&node, "cpu"), usage(&node, "memory")),
            ("7n".into(), "9".into())
        );
    }
}
