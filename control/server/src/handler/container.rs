//! The container that a request about a pod means, and the way to its node: shared by logs and sessions.

use kernelet_api::{ApiError, Value};

use super::{Call, Failure, read::reach};
use crate::{kubelet::Endpoint, registry::Stored};

/// What the request means.
pub struct Found {
    pub container: String,
    /// `None`: the pod has no node yet.
    pub node: Option<String>,
}

/// Looks the pod of the call up, and the container of its query.
pub async fn find(call: &Call) -> Result<Found, Failure> {
    reach(call, None).await?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let pod = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    let tree = pod.tree();
    let container = choose(&tree, name, call.query.non_empty("container"))?;
    let node = tree.pointer("/spec/nodeName").and_then(Value::as_str);
    let node = node.filter(|node| !node.is_empty()).map(str::to_owned);
    Ok(Found { container, node })
}

/// Where the node of that name serves the kubelet API.
pub fn endpoint(call: &Call, node: &str) -> Result<Endpoint, ApiError> {
    let nodes = call
        .snapshot
        .get("", "nodes")
        .and_then(|served| served.stored.as_ref());
    let found = nodes
        .and_then(|stored| stored.cache.get(node))
        .ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    Endpoint::of(&found.tree()).ok_or_else(|| {
        ApiError::internal(format!(
            "node {node:?} has published no address of its kubelet API"
        ))
    })
}

/// The one asked for, which must exist, or the only main one.
fn choose(pod: &Value, name: &str, wanted: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        pod.pointer(&format!("/spec/{field}"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|c| c.get("name")?.as_str().map(str::to_owned))
            .collect()
    };
    let (containers, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if let Some(wanted) = wanted {
        if [&containers, &init, &ephemeral]
            .iter()
            .any(|list| list.iter().any(|c| c == wanted))
        {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        )));
    }
    // As upstream: init and ephemeral containers don't make the only main one less clear.
    if let [one] = containers.as_slice() {
        return Ok(one.clone());
    }
    let all = [init, containers, ephemeral].concat();
    Err(ApiError::bad_request(format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        all.join(" ")
    )))
}
