//! What pods are given: a ServiceAccount, a priority, and tolerations of a node that is gone for a while.

use kernelet_api::{ApiError, Value, meta};
use serde_json::json;

use super::{Request, priority, service_account};

const TOLERATION_SECONDS: u64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub async fn mutate(
    request: &Request<'_>,
    pod: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    service_account::mutate(request, pod).await?;
    priority::mutate(request, pod, old)?;
    if request.subresource.is_empty() {
        tolerations(pod);
    }
    Ok(())
}

/// On updates too: a manifest that replaces a pod needn't repeat them, and they can't be taken away.
fn tolerations(pod: &mut Value) {
    let spec = meta::child_mut(pod, "spec");
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else {
        return;
    };
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = list.iter().any(|toleration| {
            let text = |field: &str| {
                toleration
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            (text("key") == key || text("key").is_empty())
                && matches!(text("effect"), "NoExecute" | "")
        });
        if !tolerated {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tolerated_already_is_not_added() {
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists"}]}});
        tolerations(&mut pod);
        let keys: Vec<&str> = pod["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["key"].as_str().unwrap())
            .collect();
        assert_eq!(keys, [NOT_READY, UNREACHABLE]);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerations(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
