//! `binding`: the scheduler's word on where a pod runs.

use http::{Response, StatusCode};
use kernelet_api::{ApiError, Gvk, Value, meta};
use serde_json::json;

use super::{
    super::{
        Call, Failure, WriteRequest,
        params::WriteOptions,
        read::now_text,
        write::{Pipeline, uid_precondition},
    },
    created_status,
};
use crate::{body::ResponseBody, http::negotiate::Endpoint};

/// `POST …/pods/{name}/binding`.
pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let name = call.target.name.clone();
    bind(call, Some(&name)).await
}

/// The same, also for `POST …/bindings`, where the body alone names the pod.
pub async fn bind(call: &Call, path_name: Option<&str>) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Plain)?;
    let binding = call.decode(&Gvk::new("", "v1", "Binding"), options.field_validation)?;
    let own = meta::name(&binding);
    let name = path_name.unwrap_or(own);
    if !own.is_empty() && own != name {
        return Err(
            ApiError::bad_request("name in URL does not match name in Binding object").into(),
        );
    }
    let target = |field: &str| {
        binding
            .pointer(&format!("/target/{field}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (kind, node) = (target("kind"), target("name"));
    let mut errors = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(kernelet_api::FieldError::not_supported(
            "target.kind",
            kind.as_str(),
            &["Node", "<empty>"],
        ));
    }
    if node.is_empty() {
        errors.push(kernelet_api::FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "Binding", name, &errors).into());
    }
    let pods = call
        .snapshot
        .get("", "pods")
        .ok_or_else(ApiError::page_not_found)?;
    let request = WriteRequest {
        served: pods,
        version: "v1",
        pipeline: Pipeline::Raw,
        ..WriteRequest::of(call, &options, None)
    };
    let (uid, version) = (meta::uid(&binding), meta::resource_version(&binding));
    let change = |pod: &Value| {
        if !uid.is_empty() && uid != meta::uid(pod) {
            return Err(request.conflict(name, uid_precondition(uid, meta::uid(pod))));
        }
        if !version.is_empty() && version != meta::resource_version(pod) {
            return Err(ApiError::modified("", "pods", name));
        }
        if !meta::deletion_timestamp(pod).is_empty() {
            return Err(request.conflict(
                name,
                format!("pod {name} is being deleted, cannot be assigned to a host"),
            ));
        }
        let bound = pod
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !bound.is_empty() {
            return Err(request.conflict(
                name,
                format!("pod {name} is already assigned to node {bound:?}"),
            ));
        }
        if pod
            .pointer("/spec/schedulingGates")
            .and_then(Value::as_array)
            .is_some_and(|gates| !gates.is_empty())
        {
            return Err(request.conflict(
                name,
                format!("pod {name} has non-empty .spec.schedulingGates"),
            ));
        }
        let mut pod = pod.clone();
        meta::child_mut(&mut pod, "spec").insert("nodeName".to_owned(), node.as_str().into());
        if let Some(annotations) = meta::annotations(&binding).cloned()
            && let Some(own) = meta::metadata_mut(&mut pod)
                .entry("annotations")
                .or_insert_with(|| json!({}))
                .as_object_mut()
        {
            own.extend(annotations);
        }
        scheduled(&mut pod);
        Ok(pod)
    };
    request.update(name, None, &change).await?;
    Ok(call.answer_value(StatusCode::CREATED, output, &created_status()))
}

/// Sets the condition `PodScheduled` to true.
fn scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now_text(),
    });
    let conditions = meta::child_mut(pod, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(known) if known["status"] == "True" => {}
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}
