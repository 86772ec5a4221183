//! What pods are given: a ServiceAccount with its token, tolerations of a node that is gone for a while, a priority.

use std::sync::Arc;

use kernelet_api::{ApiError, Value, meta};
use rand::RngExt;
use serde_json::{Map, json};

use super::{Operation, Request, priority};
use crate::cache::{CachedObject, ResourceCache};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: u64 = 3607;
const TOLERATION_SECONDS: u64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// A pod that its node made from a file, mirrored here; it has no ServiceAccount.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub async fn mutate(
    request: &Request<'_>,
    pod: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if request.operation == Operation::Create {
        if meta::annotations(pod).is_none_or(|annotations| !annotations.contains_key(MIRROR)) {
            service_account(request, pod).await?;
        }
    }
    priority::mutate(request, pod, old)?;
    if request.subresource.is_empty() {
        tolerations(pod);
    }
    Ok(())
}

pub fn validate(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return Ok(());
    }
    let mirror = meta::annotations(pod).is_some_and(|annotations| annotations.contains_key(MIRROR));
    let account = pod
        .pointer("/spec/serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if mirror && !account.is_empty() {
        return Err(request.forbidden(
            meta::name(pod),
            "a mirror pod may not reference service accounts",
        ));
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

async fn service_account(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = meta::name(pod).to_owned();
    let spec = meta::child_mut(pod, "spec");
    let own = |spec: &Map<String, Value>, field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut account = own(spec, "serviceAccountName");
    if account.is_empty() {
        account = own(spec, "serviceAccount");
    }
    if account.is_empty() {
        account = "default".to_owned();
    }
    // Both names are kept equal, as upstream's conversion does for the deprecated one.
    spec.insert("serviceAccountName".to_owned(), account.as_str().into());
    spec.insert("serviceAccount".to_owned(), account.as_str().into());
    let found = find(request, &account).await?.ok_or_else(|| {
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            request.namespace
        );
        request.forbidden(&name, why)
    })?;
    let tree = found.tree();
    if spec
        .get("imagePullSecrets")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
        && let Some(secrets) = tree
            .get("imagePullSecrets")
            .filter(|s| s.as_array().is_some_and(|s| !s.is_empty()))
    {
        spec.insert("imagePullSecrets".to_owned(), secrets.clone());
    }
    let automount = |value: &Value| {
        value
            .get("automountServiceAccountToken")
            .and_then(Value::as_bool)
    };
    let wanted = spec
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or(automount(&tree))
        .unwrap_or(true);
    if wanted {
        mount_token(spec);
    }
    Ok(())
}

async fn find(request: &Request<'_>, account: &str) -> Result<Option<Arc<CachedObject>>, ApiError> {
    let accounts: Arc<ResourceCache> = request
        .state
        .cache
        .resource("serviceaccounts")
        .ok_or_else(ApiError::page_not_found)?;
    let key = format!("{}/{account}", request.namespace);
    if let Some(found) = accounts.get(&key) {
        return Ok(Some(found));
    }
    request
        .state
        .cache
        .fresh()
        .await
        .map_err(ApiError::internal)?;
    Ok(accounts.get(&key))
}

/// The projected volume with token, authority and namespace, mounted where clients look for them; containers that
/// mount something there themselves keep it.
fn mount_token(spec: &mut Map<String, Value>) {
    let list = |spec: &Map<String, Value>, field: &str| {
        spec.get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let is_token = |volume: &Value| {
        volume
            .get("name")
            .and_then(Value::as_str)
            .is_some_and(|name| name.starts_with("kube-api-access-"))
    };
    let volumes = list(spec, "volumes");
    let existing = volumes
        .iter()
        .find(|volume| is_token(volume))
        .and_then(|v| v["name"].as_str().map(str::to_owned));
    let name = existing.clone().unwrap_or_else(|| {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut rng = rand::rng();
        let suffix: String = (0..5)
            .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
            .collect();
        format!("kube-api-access-{suffix}")
    });
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            if mounts.iter().all(|mount| mount["mountPath"] != TOKEN_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
                mounted = true;
            }
        }
    }
    if mounted && existing.is_none() {
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}});
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(volume);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once_and_not_over_anything() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_PATH}]},
        ]}});
        let spec = meta::child_mut(&mut pod, "spec");
        mount_token(spec);
        mount_token(spec);
        let volumes = spec["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(
            spec["containers"][0]["volumeMounts"][0]["name"],
            volumes[0]["name"]
        );
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

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
