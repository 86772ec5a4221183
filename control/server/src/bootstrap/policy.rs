//! The default roles and bindings, brought up to what this release's policy says.
//!
//! As upstream's reconciliation: rules and subjects that an administrator added stay, those that were removed come
//! back, a default binding that names another role is made anew; what is annotated
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use http_body_util::Empty;
use kernelet_api::{ApiError, Value, meta};
use serde_json::json;

use super::{Failed, ensure};
use crate::{
    authz::{
        policy::{self, Object},
        rules::uncovered,
    },
    pipeline,
    state::State,
    user::UserInfo,
};

const RBAC: &str = "rbac.authorization.k8s.io";

/// So many objects are written at once: the store syncs them together.
const AT_ONCE: usize = 32;

pub async fn reconcile(state: &Arc<State>, user: &UserInfo) -> Result<(), Failed> {
    stream::iter(policy::objects())
        .map(|object| one(state, user, object))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn one(state: &Arc<State>, user: &UserInfo, object: Object) -> Result<(), Failed> {
    let Object { plural, value } = object;
    if plural.ends_with("bindings") {
        forget_if_of_another_role(state, user, plural, &value).await?;
        let wanted = value.clone();
        let mend = move |old: &Value| mended_binding(old, &wanted);
        return ensure(state, user, RBAC, plural, value, &mend).await;
    }
    let wanted = value.clone();
    let mend = move |old: &Value| mended_role(old, &wanted);
    ensure(state, user, RBAC, plural, value, &mend).await
}

/// A binding's role can't be changed; one that names another role than the policy's has to go first.
async fn forget_if_of_another_role(
    state: &Arc<State>,
    user: &UserInfo,
    plural: &str,
    wanted: &Value,
) -> Result<(), Failed> {
    let (namespace, name) = (meta::namespace(wanted), meta::name(wanted));
    let key = crate::registry::Stored::cache_key(namespace, name);
    let there = state
        .cache
        .resource(&format!("{RBAC}/{plural}"))
        .and_then(|cache| cache.get(&key))
        .map(|object| object.tree());
    let Some(there) = there
        .filter(|old| old.get("roleRef") != wanted.get("roleRef") && !policy::leave_alone(old))
    else {
        return Ok(());
    };
    let inside = if namespace.is_empty() {
        String::new()
    } else {
        format!("namespaces/{namespace}/")
    };
    let name = meta::name(&there);
    let path = format!("/apis/{RBAC}/v1/{inside}{plural}/{name}");
    let failed = |error| Failed {
        what: format!("{plural} {name:?}"),
        error,
    };
    let request = Request::delete(path)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(ApiError::internal(error)))?;
    let response = pipeline::serve(state.clone(), Some(Arc::new(user.clone())), request).await;
    if response.status().is_success() {
        return Ok(());
    }
    let code = response.status().as_u16();
    Err(failed(ApiError::internal(format!(
        "a binding of another role can't be deleted: {code}"
    ))))
}

/// The role with the rules it lacks.
fn mended_role(old: &Value, wanted: &Value) -> Option<Value> {
    if policy::leave_alone(old) {
        return None;
    }
    let mut new = old.clone();
    if let Some(rule) = wanted.get("aggregationRule") {
        new["aggregationRule"] = rule.clone();
    } else {
        let held = policy::rules_of(old);
        let mut rules = old
            .get("rules")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for rule in policy::rules_of(wanted) {
            if !uncovered(&held, std::slice::from_ref(&rule)).is_empty() {
                rules.push(policy::rule_to_value(&rule));
            }
        }
        new["rules"] = rules.into();
    }
    with_metadata(&mut new, wanted);
    Some(new)
}

/// The binding with the subjects it lacks.
fn mended_binding(old: &Value, wanted: &Value) -> Option<Value> {
    if policy::leave_alone(old) {
        return None;
    }
    let mut new = old.clone();
    let list = |value: &Value| {
        value
            .get("subjects")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut subjects = list(old);
    for subject in list(wanted) {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    new["subjects"] = subjects.into();
    with_metadata(&mut new, wanted);
    Some(new)
}

/// Labels and annotations that are missing; those that are there keep their values.
fn with_metadata(new: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        let Some(defaults) = wanted["metadata"][field].as_object() else {
            continue;
        };
        let own = meta::metadata_mut(new)
            .entry(field)
            .or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            for (key, value) in defaults {
                own.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
}
