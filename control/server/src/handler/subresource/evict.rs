//! `pods/eviction`: a deletion that asks the PodDisruptionBudgets first.

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

pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let mut options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let eviction = call.decode(
        &Gvk::new("policy", "v1", "Eviction"),
        options.field_validation,
    )?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    if !meta::name(&eviction).is_empty() && meta::name(&eviction) != name {
        return Err(
            ApiError::bad_request("name in URL does not match name in Eviction object").into(),
        );
    }
    let mut delete = eviction
        .get("deleteOptions")
        .map_or_else(|| Ok(DeleteOptions::default()), DeleteOptions::of)?;
    if options.dry_run == DryRun::All {
        delete.dry_run = DryRun::All;
    }
    options.dry_run = delete.dry_run;
    reach(call, None).await?;
    let pod = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    admission::Request {
        state: &call.state,
        user: &call.user,
        operation: Operation::Create,
        resource: &call.served.resource,
        subresource: "eviction",
        namespace,
        warnings: Some(&call.warnings),
    }
    .restrict_node(&pod.tree(), None)?;
    if !ignores_budgets(&pod.tree()) {
        take_from_budget(call, &pod, &options).await?;
    }
    if delete.uid.is_none() {
        // The budget was judged for this pod, not for another of its name.
        delete.uid = Some(pod.index.uid.to_string());
    }
    delete_one_of(call, namespace, name, &delete).await?;
    Ok(call.answer_value(StatusCode::CREATED, output, &created_status()))
}

/// What doesn't serve can't be disrupted.
fn ignores_budgets(pod: &Value) -> bool {
    let phase = pod
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || !meta::deletion_timestamp(pod).is_empty()
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|list| {
            list.iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
}

fn refused(budget: &str, message: String, retry_after: u32) -> ApiError {
    let error = ApiError::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        retry_after,
    );
    error.with_causes(vec![Cause {
        reason: "DisruptionBudget".to_owned(),
        message: format!("The disruption budget {budget} {message}"),
        field: String::new(),
    }])
}

/// Counts the eviction against the pod's budget, or says why that can't be.
async fn take_from_budget(
    call: &Call,
    pod: &CachedObject,
    options: &WriteOptions,
) -> Result<(), Failure> {
    let Some(served) = call.snapshot.get("policy", "poddisruptionbudgets") else {
        return Ok(());
    };
    let Some(stored) = &served.stored else {
        return Ok(());
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
        [] => return Ok(()),
        [one] => one.name().to_owned(),
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )
            .into());
        }
    };
    let ready = is_ready(&pod.tree());
    let request = WriteRequest {
        served,
        version: "v1",
        pipeline: Pipeline::Raw,
        ..WriteRequest::of(call, options, None)
    };
    let change = |old: &Value| {
        let number = |pointer: &str| {
            old.pointer(pointer)
                .and_then(Value::as_i64)
                .unwrap_or_default()
        };
        if !ready {
            let always = old
                .pointer("/spec/unhealthyPodEvictionPolicy")
                .and_then(Value::as_str)
                == Some("AlwaysAllow");
            let healthy = number("/status/currentHealthy") >= number("/status/desiredHealthy")
                && number("/status/desiredHealthy") > 0;
            if always || healthy {
                return Ok(old.clone());
            }
        }
        if number("/status/observedGeneration") < meta::generation(old) {
            return Err(refused(
                &budget,
                "is still being processed by the server.".to_owned(),
                10,
            ));
        }
        let allowed = number("/status/disruptionsAllowed");
        if allowed <= 0 {
            let (desired, current) = (
                number("/status/desiredHealthy"),
                number("/status/currentHealthy"),
            );
            return Err(refused(
                &budget,
                format!("needs {desired} healthy pods and has {current} currently"),
                0,
            ));
        }
        let disrupted = old
            .pointer("/status/disruptedPods")
            .and_then(Value::as_object);
        if disrupted.is_some_and(|map| map.len() > MAX_DISRUPTED) {
            return Err(refused(
                &budget,
                "has too many evictions not confirmed by its controller".to_owned(),
                10,
            ));
        }
        let mut new = old.clone();
        let status = meta::child_mut(&mut new, "status");
        status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
        if let Some(map) = status
            .entry("disruptedPods")
            .or_insert_with(|| json!({}))
            .as_object_mut()
        {
            map.insert(pod.name().to_owned(), now_text().into());
        }
        Ok(new)
    };
    request.update(&budget, None, &change).await?;
    Ok(())
}
