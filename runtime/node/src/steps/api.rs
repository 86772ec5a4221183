//! The two steps that speak to the API server.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kernelet_client::{is_conflict, is_not_found};
use kernelet_pod_plan::{Done, FailureReason, Outcome, StepError, status_patch};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::Request,
};
use serde::Deserialize;

use super::Scene;
use crate::{errors::chain, pod::PodHome};

/// All that is read of the answer: parsing a whole pod for each status would cost more than writing it.
#[derive(Deserialize)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMeta {
    resource_version: String,
}

pub(super) async fn report_status(
    home: &Arc<PodHome>,
    scene: &Scene,
    status: &PodStatus,
) -> Outcome {
    let known = scene.reported.as_deref();
    let Some(patch) = status_patch(&home.id.uid, known, status) else {
        return Ok(Done::Nothing);
    };
    let failed = |message: String| StepError {
        reason: FailureReason::FailedToReport,
        message,
    };
    let path = format!("/api/v1/namespaces/{}/pods", home.id.namespace);
    let request = Request::new(path).patch_subresource(
        "status",
        &home.id.name,
        &PatchParams::default(),
        &Patch::Strategic(&patch),
    );
    let request = request.map_err(|e| failed(chain(&e)))?;
    match home.ctx.client.request::<Written>(request).await {
        Ok(written) => Ok(Done::Reported {
            version: written.metadata.resource_version.parse().ok(),
        }),
        // The pod is gone, or a namesake stands in its place: the watch tells us, and nobody misses the status.
        Err(error) if is_not_found(&error) || is_conflict(&error) => {
            tracing::debug!(pod = %home.id.name, %error, "status not wanted any more");
            Ok(Done::Nothing)
        }
        Err(error) => Err(failed(chain(&error))),
    }
}

pub(super) async fn delete(home: &PodHome) -> Outcome {
    let api = Api::<Pod>::namespaced(home.ctx.client.clone(), &home.id.namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(home.id.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&home.id.name, &params).await {
        Ok(_) => Ok(Done::Nothing),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Done::Nothing),
        Err(error) => Err(StepError {
            reason: FailureReason::FailedKillPod,
            message: format!("delete the pod's object: {}", chain(&error)),
        }),
    }
}
