//! `pods/eviction`: a deletion that asks the PodDisruptionBudgets first.
//!
//! What doesn't serve (ended, pending or already going) is deleted straight away; otherwise the one budget that
//! covers the pod must allow it and counts it. A pod that is let go without counting must still be as it was when
//! that was decided.

use http::{Response, StatusCode};
use kernelet_api::{ApiError, Gvk, Value, meta, selector::LabelSelector, status::Cause};
use serde_json::json;

use super::{
    super::{
        Call, Failure, WriteRequest,
        delete::{DeleteOptions, delete_one_of},
        params::{DryRun, WriteOptions},
        read::{now_text, reach},
        select::labels_match,
        write::Pipeline,
    },
    created_status,
};
use crate::{
    admission::{self, Operation},
    body::ResponseBody,
    cache::{CachedObject, KeyRange},
    http::negotiate::Endpoint,
    registry::Stored,
};

/// How many evictions a budget remembers before its controller must catch up.
const MAX_DISRUPTED: usize = 2000;
/// How often a pod that changes meanwhile is looked at again.
const ATTEMPTS: usize = 20;
const GROUP: &str = "policy";

/// How a pod may be let go.
enum Verdict {
    /// Whatever becomes of it meanwhile.
    Granted,
    /// Only as it is now: it may have become healthy. The name is its budget's, if that was asked.
    Unless(Option<String>),
}

pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let mut options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let eviction = call.decode(&Gvk::new(GROUP, "v1", "Eviction"), options.field_validation)?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    if meta::name(&eviction) != name {
        return Err(
            ApiError::bad_request("name in URL does not match name in Eviction object").into(),
        );
    }
    let asked = eviction
        .get("deleteOptions")
        .map_or_else(|| Ok(DeleteOptions::default()), DeleteOptions::of)?;
    let mut asked = asked;
    if options.dry_run == DryRun::All {
        asked.dry_run = DryRun::All;
    }
    options.dry_run = asked.dry_run;
    reach(call, None).await?;
    for attempt in 1.. {
        let pod = call
            .stored()?
            .cache
            .get(&Stored::cache_key(namespace, name))
            .ok_or_else(|| call.not_found())?;
        let tree = pod.tree();
        admission::Request {
            state: &call.state,
            user: &call.user,
            operation: Operation::Create,
            resource: &call.served.resource,
            subresource: "eviction",
            namespace,
            notes: Some(&call.notes),
        }
        .restrict_node(&tree, None)?;
        let verdict = match ignores_budgets(&tree) {
            true if is_ending(&tree) => Verdict::Granted,
            true => Verdict::Unless(None),
            false => take_from_budget(call, &pod, &options).await?,
        };
        let mut delete = asked.clone();
        if delete.uid.is_none() {
            // The budget was judged for this pod, not for another of its name.
            delete.uid = Some(pod.index.uid.to_string());
        }
        if let Verdict::Unless(_) = &verdict
            && delete.resource_version.is_none()
        {
            delete.resource_version = Some(pod.revision.to_string());
        }
        let strict = asked.resource_version.is_some();
        match (
            condition_and_delete(call, &pod, &mut delete, &options).await,
            verdict,
        ) {
            (Ok(()), _) => break,
            (Err(failure), _) if failure.error.code != 409 || strict => return Err(failure),
            (Err(_), Verdict::Unless(Some(budget))) => {
                return Err(refused(
                    format!(
                        "The disruption budget {budget} is still being processed by the server."
                    ),
                    10,
                )
                .into());
            }
            (Err(failure), Verdict::Granted) => return Err(failure),
            (Err(failure), Verdict::Unless(None)) if attempt >= ATTEMPTS => return Err(failure),
            (Err(_), Verdict::Unless(None)) => reach(call, None).await.map(drop)?,
        }
    }
    Ok(call.answer_value(StatusCode::CREATED, output, &created_status()))
}

/// Tells in the pod's status why it goes, and deletes it.
async fn condition_and_delete(
    call: &Call,
    pod: &CachedObject,
    delete: &mut DeleteOptions,
    options: &WriteOptions,
) -> Result<(), Failure> {
    let (namespace, name) = (pod.namespace(), pod.name());
    if delete.dry_run == DryRun::No {
        let request = WriteRequest {
            pipeline: Pipeline::Raw,
            ..WriteRequest::of(call, options, None)
        };
        let (uid, version) = (delete.uid.clone(), delete.resource_version.clone());
        let now = now_text();
        let change = |old: &Value| {
            let found = meta::uid(old);
            if let Some(wanted) = uid.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
                );
                return Err(ApiError::conflict("", "Pod", name, why));
            }
            let found = meta::resource_version(old);
            if let Some(wanted) = version.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found}). The object might have been modified"
                );
                return Err(ApiError::conflict("", "Pod", name, why));
            }
            let mut new = old.clone();
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            set_condition(&mut new, condition, &now);
            Ok(new)
        };
        let written = request.update(name, None, &change).await?;
        if delete.resource_version.is_some() {
            // It was changed by nobody else.
            delete.resource_version = Some(written.object.revision.to_string());
        }
    }
    delete_one_of(call, namespace, name, delete).await.map(drop)
}

/// Sets a condition in the status, with the time at which its status changed.
fn set_condition(object: &mut Value, mut condition: Value, now: &str) {
    let status = meta::child_mut(object, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else {
        return;
    };
    let known = list.iter_mut().find(|c| c["type"] == condition["type"]);
    let since = known
        .as_ref()
        .filter(|known| known["status"] == condition["status"])
        .map(|known| known["lastTransitionTime"].clone());
    condition["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
    match known {
        Some(known) => {
            for (key, value) in condition.as_object().into_iter().flatten() {
                known[key] = value.clone();
            }
        }
        None => list.push(condition),
    }
}

fn phase(pod: &Value) -> &str {
    pod.pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Has ended, or is going already.
fn is_ending(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || !meta::deletion_timestamp(pod).is_empty()
}

/// What doesn't serve can't be disrupted.
fn ignores_budgets(pod: &Value) -> bool {
    phase(pod) == "Pending" || is_ending(pod)
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|list| {
            list.iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
}

fn refused(message: String, retry_after: u32) -> ApiError {
    let error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry_after,
    );
    error.with_causes(vec![Cause {
        reason: "DisruptionBudget".to_owned(),
        message,
        field: String::new(),
    }])
}

/// Counts the eviction against the pod's budget, or says why that can't be.
async fn take_from_budget(
    call: &Call,
    pod: &CachedObject,
    options: &WriteOptions,
) -> Result<Verdict, Failure> {
    let Some(served) = call.snapshot.get(GROUP, "poddisruptionbudgets") else {
        return Ok(Verdict::Granted);
    };
    let Some(stored) = &served.stored else {
        return Ok(Verdict::Granted);
    };
    let range = KeyRange {
        namespace: pod.namespace(),
        after: "",
    };
    let (budgets, _) = stored.cache.list(range, 0, |_| true);
    let covering: Vec<_> = budgets
        .into_iter()
        .filter(|budget| {
            let tree = budget.tree();
            LabelSelector::from_object(tree.pointer("/spec/selector"))
                .ok()
                .flatten()
                .is_some_and(|selector| labels_match(&selector, &pod.index))
        })
        .collect();
    let budget = match covering.as_slice() {
        [] => return Ok(Verdict::Granted),
        [one] => one.clone(),
        _ => {
            return Err(ApiError::new(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )
            .into());
        }
    };
    if !is_ready(&pod.tree()) && spares_unhealthy(&budget.tree()) {
        return Ok(Verdict::Unless(Some(budget.name().to_owned())));
    }
    let request = WriteRequest {
        served,
        version: "v1",
        pipeline: Pipeline::Raw,
        ..WriteRequest::of(call, options, None)
    };
    let change = |old: &Value| counted(old, pod.name());
    request.update(budget.name(), None, &change).await?;
    Ok(Verdict::Granted)
}

fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// Whether a pod that isn't ready may go without counting.
fn spares_unhealthy(budget: &Value) -> bool {
    let policy = budget
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str);
    let (current, desired) = (
        number(budget, "/status/currentHealthy"),
        number(budget, "/status/desiredHealthy"),
    );
    policy == Some("AlwaysAllow") || current >= desired && desired > 0
}

/// The budget with one disruption less to give, and the pod among those it was given for.
fn counted(old: &Value, pod: &str) -> Result<Value, ApiError> {
    let budget = meta::name(old);
    let forbidden = |why: &str| {
        Err(ApiError::forbidden(
            GROUP,
            "poddisruptionbudget",
            budget,
            why,
        ))
    };
    if number(old, "/status/observedGeneration") < meta::generation(old) {
        return Err(refused(
            format!("The disruption budget {budget} is still being processed by the server."),
            10,
        ));
    }
    let allowed = number(old, "/status/disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = old
        .pointer("/status/disruptedPods")
        .and_then(Value::as_object);
    if disrupted.is_some_and(|map| map.len() > MAX_DISRUPTED) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        return Err(refused(why_none(old), 0));
    }
    let mut new = old.clone();
    let now = now_text();
    let observed = number(old, "/status/observedGeneration");
    let status = meta::child_mut(&mut new, "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    if let Some(map) = status
        .entry("disruptedPods")
        .or_insert_with(|| json!({}))
        .as_object_mut()
    {
        map.insert(pod.to_owned(), now.as_str().into());
    }
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": observed,
        });
        set_condition(&mut new, condition, &now);
    }
    Ok(new)
}

/// Why a budget has nothing to give, in upstream's order of causes.
fn why_none(budget: &Value) -> String {
    let name = meta::name(budget);
    let conditions = budget
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let refusal = conditions.into_iter().flatten().find(|c| {
        c["type"] == "DisruptionAllowed"
            && c["status"] == "False"
            && c["message"].as_str().is_some_and(|text| !text.is_empty())
    });
    let text = |field: &str| refusal.and_then(|c| c[field].as_str()).unwrap_or_default();
    let (desired, current) = (
        number(budget, "/status/desiredHealthy"),
        number(budget, "/status/currentHealthy"),
    );
    let begin = format!("The disruption budget {name}");
    if refusal.is_some() && text("reason") == "SyncFailed" {
        format!(
            "{begin} does not allow evicting pods currently because it failed sync: {}",
            text("message")
        )
    } else if current <= desired {
        format!("{begin} needs {desired} healthy pods and has {current} currently")
    } else if refusal.is_some() {
        format!(
            "{begin} does not allow evicting pods currently ({}): {}",
            text("reason"),
            text("message")
        )
    } else {
        format!("{begin} does not allow evicting pods currently")
    }
}
