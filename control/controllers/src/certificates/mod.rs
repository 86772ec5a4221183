//! Certificate signing requests: approving those of nodes, signing what is approved, and
//! forgetting what is over.

mod request;

use crate::common::{Attempt, Context, Failed, now, since, time};
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition,
            CertificateSigningRequestSpec,
        },
        core::v1::Node,
    },
};
use kernelet_client::{Next, ObjectKey, Queue, Shared, is_not_found, reconcile_all};
use kernelet_pki::Ca;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use request::{
    Approval, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Permission, approval, check,
    expired, has_all, since_condition,
};
use std::{sync::Arc, time::Duration};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const HOUR: Duration = Duration::from_secs(3600);
const PENDING_KEPT: Duration = Duration::from_secs(24 * 3600);

struct Controller {
    client: Client,
    requests: Shared<CertificateSigningRequest>,
    nodes: Shared<Node>,
    ca: Ca,
}

pub(crate) async fn run(context: Context, ca: Ca) {
    let requests = context.informers.all::<CertificateSigningRequest>();
    let nodes = context.informers.all::<Node>();
    let queue: Queue<ObjectKey> = Queue::default();
    let (on_requests, on_nodes, all) = (queue.clone(), queue.clone(), requests.clone());
    requests.on_change_until(&context.shutdown, move |change| {
        on_requests.add(ObjectKey::of(&**change.object()))
    });
    nodes.on_change_until(&context.shutdown, move |change| {
        let addresses = |node: &Node| node.status.as_ref().and_then(|s| s.addresses.clone());
        let Some(node) = change.new() else {
            return;
        };
        // A serving certificate waits for the node to tell its addresses.
        if change
            .old()
            .is_none_or(|old| addresses(old) != addresses(node))
        {
            let user = format!("system:node:{}", node.name_any());
            for request in all.list() {
                if request.spec.username.as_ref() == Some(&user) {
                    on_nodes.add(ObjectKey::of(&*request));
                }
            }
        }
    });
    requests.wait_until_synced().await;
    nodes.wait_until_synced().await;
    let controller = Arc::new(Controller {
        client: context.client,
        requests,
        nodes,
        ca,
    });
    reconcile_all("certificates", queue, 2, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key.name).await }
    })
    .await;
}

/// How long the request stays from now on.
fn kept_for(request: &CertificateSigningRequest, now: jiff::Timestamp) -> Duration {
    let left = |from: jiff::Timestamp, kept: Duration| kept.saturating_sub(since(from, now));
    if let Some(status) = &request.status
        && let Some(certificate) = &status.certificate
        && expired(&certificate.0, now)
    {
        return Duration::ZERO;
    }
    // What was approved and is never issued, since no signer of ours knows it, stays as long as what is pending.
    let approved = match is_issued(request) {
        true => HOUR,
        false => PENDING_KEPT,
    };
    let over = [(DENIED, HOUR), (FAILED, HOUR), (APPROVED, approved)]
        .into_iter()
        .filter_map(|(type_, kept)| Some(left(since_condition(request, type_)?, kept)))
        .min();
    let created = request.metadata.creation_timestamp.as_ref();
    over.or_else(|| created.map(|created| left(created.0, PENDING_KEPT)))
        .unwrap_or(PENDING_KEPT)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let certificate = status.and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

fn is_ours(spec: &CertificateSigningRequestSpec) -> bool {
    [KUBELET_SERVING, KUBELET_CLIENT, CLIENT, LEGACY].contains(&spec.signer_name.as_str())
}

fn condition(type_: &str, reason: &str, message: String) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: time(now()),
        last_transition_time: time(now()),
    }
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Next, Failed> {
        let Some(request) = self.requests.get("", name) else {
            return Ok(Next::OnChange);
        };
        let left = kept_for(&request, now());
        if left.is_zero() {
            return self.forget(&request).await.map(|()| Next::OnChange);
        }
        let has = |type_| since_condition(&request, type_).is_some();
        let decided = has(DENIED) || has(FAILED) || is_issued(&request);
        if !decided && is_ours(&request.spec) {
            if has(APPROVED) {
                self.sign(&request).await?;
            } else {
                self.consider(&request).await?;
            }
        }
        Ok(Next::After(left + Duration::from_secs(1)))
    }

    async fn consider(&self, request: &CertificateSigningRequest) -> Result<(), Failed> {
        let spec = &request.spec;
        // What its signer would refuse isn't approved; a person may still look at it.
        let Ok(parsed) = check(spec) else {
            return Ok(());
        };
        let message = match approval(spec, &parsed) {
            Approval::Never => return Ok(()),
            Approval::IfMayCreate(permissions) => match self.first(spec, permissions).await? {
                Some(message) => message,
                None => return Ok(()),
            },
            Approval::IfNodeHas(parsed) => {
                let node = parsed.node_name().and_then(|name| self.nodes.get("", name));
                if !node.is_some_and(|node| has_all(&node, &parsed)) {
                    return Ok(());
                }
                "Auto approving kubelet serving certificate: its names are the node's."
            }
        };
        let approved = condition(APPROVED, "AutoApproved", message.to_owned());
        self.add_condition(request, approved, "approval").await
    }

    /// What the approval says: by the first of the permissions that the requester has.
    async fn first(
        &self,
        spec: &CertificateSigningRequestSpec,
        permissions: &'static [Permission],
    ) -> Result<Option<&'static str>, Failed> {
        for permission in permissions {
            if self.may_create(spec, permission.subresource).await? {
                return Ok(Some(permission.message));
            }
        }
        Ok(None)
    }

    async fn may_create(
        &self,
        spec: &CertificateSigningRequestSpec,
        subresource: &str,
    ) -> Result<bool, Failed> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    verb: Some("create".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .attempt(|| "asking whether a node may have a client certificate".to_owned())?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn sign(&self, request: &CertificateSigningRequest) -> Result<(), Failed> {
        let spec = &request.spec;
        let usages = spec.usages.as_deref().unwrap_or_default();
        let life = spec
            .expiration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        let signed = match check(spec) {
            Err(refusal) => Err(("SignerValidationFailure", refusal.to_string())),
            Ok(_) => {
                let pem = String::from_utf8_lossy(&spec.request.0);
                let signed = self.ca.sign_csr(&pem, usages, life);
                signed.map_err(|error| ("SigningError", error.to_string()))
            }
        };
        match signed {
            Ok(certificate) => self.hand_out(request, certificate).await,
            Err((reason, message)) => {
                let failed = condition(FAILED, reason, message);
                self.add_condition(request, failed, "status").await
            }
        }
    }

    async fn hand_out(
        &self,
        request: &CertificateSigningRequest,
        certificate: String,
    ) -> Result<(), Failed> {
        let certificate = ByteString(certificate.into_bytes());
        let change = serde_json::json!({"certificate": certificate});
        self.write(request, change, "status").await
    }

    async fn add_condition(
        &self,
        request: &CertificateSigningRequest,
        condition: CertificateSigningRequestCondition,
        subresource: &str,
    ) -> Result<(), Failed> {
        let known = request.status.as_ref().and_then(|s| s.conditions.clone());
        let mut conditions = known.unwrap_or_default();
        conditions.push(condition);
        let change = serde_json::json!({"conditions": conditions});
        self.write(request, change, subresource).await
    }

    async fn write(
        &self,
        request: &CertificateSigningRequest,
        status: serde_json::Value,
        subresource: &str,
    ) -> Result<(), Failed> {
        let name = request.name_any();
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        // The version: a denial of this moment must win.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": request.metadata.resource_version},
            "status": status,
        });
        let params = PatchParams::default();
        match api
            .patch_subresource(subresource, &name, &params, &Patch::Merge(&patch))
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("writing the {subresource} of certificate request {name}")),
        }
    }

    async fn forget(&self, request: &CertificateSigningRequest) -> Result<(), Failed> {
        let name = request.name_any();
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        match api.delete(&name, &DeleteParams::default()).await {
            Err(error) if is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("deleting old certificate request {name}")),
        }
    }
}

#[cfg(test)]
mod tests;
