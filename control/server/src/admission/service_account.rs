//! ServiceAccount: every pod runs as one, with its token mounted and its pull secrets; what pods of one that says so
//! may refer to is limited to its Secrets.

use std::{sync::Arc, time::Duration};

use kernelet_api::{ApiError, Value, meta};
use rand::RngExt;
use serde_json::{Map, json};
use tokio::time;

use super::{Operation, Request};
use crate::cache::{CachedObject, ResourceCache};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: u64 = 3607;
/// A pod that its node made from a file, mirrored here; it has no ServiceAccount.
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const DEFAULT: &str = "default";
/// A new namespace's account is made a moment after it; so long is waited for it.
const PATIENCE: Duration = Duration::from_millis(1500);

pub async fn mutate(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if request.operation != Operation::Create || is_mirror(pod) {
        return Ok(());
    }
    service_account(request, pod).await
}

/// On what other admission made of the pod, and on the containers that are added to it later.
pub async fn validate(request: &Request<'_>, pod: &Value) -> Result<(), ApiError> {
    let (operation, subresource) = (request.operation, request.subresource);
    let forbidden = |why: &str| Err(request.forbidden(meta::name(pod), why));
    let account = text(pod, "/spec/serviceAccountName");
    match (operation, subresource) {
        (Operation::Create, "") => {}
        (Operation::Update, "ephemeralcontainers") => {
            let found = lookup(request, account, meta::name(pod)).await?;
            return match enforces(&found) {
                true => limit_references(&found, pod, &["ephemeralContainers"])
                    .map_or(Ok(()), |why| forbidden(&why)),
                false => Ok(()),
            };
        }
        _ => return Ok(()),
    }
    if is_mirror(pod) {
        if !account.is_empty() {
            return forbidden("a mirror pod may not reference service accounts");
        }
        if refers_to_secrets(pod) {
            return forbidden("a mirror pod may not reference secrets");
        }
        if projects_token(pod) {
            return forbidden("a mirror pod may not use ServiceAccountToken volume projections");
        }
        return Ok(());
    }
    if account.is_empty() {
        let (namespace, name) = (request.namespace, meta::name(pod));
        return forbidden(&format!(
            "no service account specified for pod {namespace}/{name}"
        ));
    }
    let found = lookup(request, account, meta::name(pod)).await?;
    if enforces(&found)
        && let Some(why) = limit_volumes(&found, pod)
            .or_else(|| limit_references(&found, pod, &["initContainers", "containers"]))
            .or_else(|| limit_pulls(&found, pod))
    {
        return forbidden(&why);
    }
    Ok(())
}

fn is_mirror(pod: &Value) -> bool {
    meta::annotations(pod).is_some_and(|annotations| annotations.contains_key(MIRROR))
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Whether the account's pods may use only its own Secrets.
fn enforces(account: &Value) -> bool {
    let value =
        meta::annotations(account).and_then(|annotations| annotations.get(ENFORCE)?.as_str());
    // What Go's ParseBool takes for true.
    matches!(value, Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
}

fn has(account: &Value, field: &str, name: &str) -> bool {
    list(account, field)
        .iter()
        .any(|reference| reference["name"] == name)
}

fn limit_volumes(account: &Value, pod: &Value) -> Option<String> {
    let secrets = list(pod, "/spec/volumes")
        .iter()
        .filter_map(|volume| volume.get("secret"));
    let mut names = secrets.map(|secret| text(secret, "/secretName"));
    let name = names.find(|name| !has(account, "/secrets", name))?;
    Some(format!(
        "volume with secret.secretName=\"{name}\" is not allowed because service account {} does not reference that secret",
        meta::name(account)
    ))
}

fn limit_references(account: &Value, pod: &Value, lists: &[&str]) -> Option<String> {
    let strange = |name: &&str| !has(account, "/secrets", name);
    let end = format!(
        "is not allowed because service account {} does not reference that secret",
        meta::name(account)
    );
    for field in lists {
        let kind = match *field {
            "initContainers" => "init container",
            "ephemeralContainers" => "ephemeral container",
            _ => "container",
        };
        for container in list(pod, &format!("/spec/{field}")) {
            let own = text(container, "/name");
            for variable in list(container, "/env") {
                let secret = variable.pointer("/valueFrom/secretKeyRef");
                if let Some(name) = secret.map(|s| text(s, "/name")).filter(strange) {
                    let variable = text(variable, "/name");
                    return Some(format!(
                        "{kind} {own} with envVar {variable} referencing secret.secretName=\"{name}\" {end}"
                    ));
                }
            }
            for source in list(container, "/envFrom") {
                let secret = source.get("secretRef");
                if let Some(name) = secret.map(|s| text(s, "/name")).filter(strange) {
                    return Some(format!(
                        "{kind} {own} with envFrom referencing secret.secretName=\"{name}\" {end}"
                    ));
                }
            }
        }
    }
    None
}

fn limit_pulls(account: &Value, pod: &Value) -> Option<String> {
    let pulls = list(pod, "/spec/imagePullSecrets").iter().enumerate();
    let mut names = pulls.map(|(i, pull)| (i, text(pull, "/name")));
    let (i, name) = names.find(|(_, name)| !has(account, "/imagePullSecrets", name))?;
    Some(format!(
        "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {} does not reference that imagePullSecret",
        meta::name(account)
    ))
}

/// Pull secrets, variables and volumes.
fn refers_to_secrets(pod: &Value) -> bool {
    let in_containers = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| list(pod, &format!("/spec/{field}")))
        .any(|container| {
            let env = list(container, "/env").iter();
            let from = list(container, "/envFrom").iter();
            env.map(|variable| variable.pointer("/valueFrom/secretKeyRef"))
                .chain(from.map(|source| source.get("secretRef")))
                .flatten()
                .any(Value::is_object)
        });
    let in_volumes = list(pod, "/spec/volumes").iter().any(|volume| {
        volume.get("secret").is_some_and(Value::is_object)
            || list(volume, "/projected/sources")
                .iter()
                .any(|source| source.get("secret").is_some_and(Value::is_object))
    });
    in_containers || in_volumes || !list(pod, "/spec/imagePullSecrets").is_empty()
}

fn projects_token(pod: &Value) -> bool {
    list(pod, "/spec/volumes")
        .iter()
        .flat_map(|volume| list(volume, "/projected/sources"))
        .any(|source| {
            source
                .get("serviceAccountToken")
                .is_some_and(Value::is_object)
        })
}

/// The account, or the refusal of the pod `name`.
async fn lookup(request: &Request<'_>, account: &str, name: &str) -> Result<Value, ApiError> {
    let found = find(request, account).await?.ok_or_else(|| {
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            request.namespace
        );
        request.forbidden(name, why)
    })?;
    Ok(found.tree())
}

async fn service_account(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = super::shown_name(pod).to_owned();
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
        account = DEFAULT.to_owned();
    }
    // Both names are kept equal, as upstream's conversion does for the deprecated one.
    spec.insert("serviceAccountName".to_owned(), account.as_str().into());
    spec.insert("serviceAccount".to_owned(), account.as_str().into());
    let tree = lookup(request, &account, &name).await?;
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
    if account != DEFAULT {
        return Ok(accounts.get(&key));
    }
    let mut changes = accounts.follow(accounts.last());
    let made = async {
        loop {
            if let Some(found) = accounts.get(&key) {
                return Some(found);
            }
            if changes.next().await.is_err() {
                return None;
            }
        }
    };
    Ok(time::timeout(PATIENCE, made).await.ok().flatten())
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
    fn an_account_that_says_so_limits_secrets() {
        let account = json!({"metadata": {"name": "a", "annotations": {ENFORCE: "true"}},
            "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "pull"}]});
        assert!(enforces(&account));
        let volume = json!({"spec": {"volumes": [{"secret": {"secretName": "mine"}}, {"secret": {"secretName": "other"}}]}});
        assert_eq!(
            limit_volumes(&account, &volume).unwrap(),
            "volume with secret.secretName=\"other\" is not allowed because service account a does not reference that secret"
        );
        let variable = json!({"spec": {"initContainers": [{"name": "i", "env": [
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "other", "key": "k"}}}]}]}});
        assert_eq!(
            limit_references(&account, &variable, &["initContainers", "containers"]).unwrap(),
            "init container i with envVar E referencing secret.secretName=\"other\" is not allowed because service account a does not reference that secret"
        );
        let from = json!({"spec": {"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "mine"}}, {"secretRef": {"name": "x"}}]}]}});
        assert_eq!(
            limit_references(&account, &from, &["containers"]).unwrap(),
            "container c with envFrom referencing secret.secretName=\"x\" is not allowed because service account a does not reference that secret"
        );
        let pulls = json!({"spec": {"imagePullSecrets": [{"name": "pull"}, {"name": "other"}]}});
        assert_eq!(
            limit_pulls(&account, &pulls).unwrap(),
            "imagePullSecrets[1].name=\"other\" is not allowed because service account a does not reference that imagePullSecret"
        );
    }
}
