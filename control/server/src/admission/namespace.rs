//! NamespaceLifecycle: nothing is made where the namespace is missing or going, and three namespaces stay.

use kernelet_api::{ApiError, status::Cause};

use super::{Operation, Request};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub async fn check(request: &Request<'_>, name: &str) -> Result<(), ApiError> {
    if request.is("", "namespaces") {
        if request.operation == Operation::Delete && IMMORTAL.contains(&name) {
            return Err(request.forbidden(name, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    if request.namespace.is_empty() || request.operation != Operation::Create {
        return Ok(());
    }
    let namespaces = request
        .state
        .cache
        .resource("namespaces")
        .ok_or_else(ApiError::page_not_found)?;
    let mut found = namespaces.get(request.namespace);
    if found.is_none() {
        // It may have been made a moment ago, through another server.
        request
            .state
            .cache
            .fresh()
            .await
            .map_err(ApiError::internal)?;
        found = namespaces.get(request.namespace);
    }
    let Some(namespace) = found else {
        return Err(ApiError::not_found("", "namespaces", request.namespace));
    };
    if !namespace.index.deleting {
        return Ok(());
    }
    // What answers questions must still be answered, and a dying pod's node may still ask for its token.
    if request.resource.kind.ends_with("Review") {
        return Ok(());
    }
    let message = format!(
        "unable to create new content in namespace {} because it is being terminated",
        request.namespace
    );
    let error = request.forbidden(name, &message);
    Err(error.with_causes(vec![Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {} is being terminated", request.namespace),
        field: "metadata.namespace".to_owned(),
    }]))
}
