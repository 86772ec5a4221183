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
    let name = call.target.name.as_str();
    let wanted = call.query.non_empty("container");
    look(call, |pod| {
        Ok(Found {
            container: choose(pod, name, wanted)?,
            node: node_of(pod),
        })
    })
    .await
}

/// Looks up where the pod of the call runs; `None`: it has no node yet.
pub async fn find_node(call: &Call) -> Result<Option<String>, Failure> {
    look(call, |pod| Ok(node_of(pod))).await
}

async fn look<T>(
    call: &Call,
    read: impl FnOnce(&Value) -> Result<T, ApiError>,
) -> Result<T, Failure> {
    reach(call, None).await?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let pod = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    Ok(read(&pod.tree())?)
}

fn node_of(pod: &Value) -> Option<String> {
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str);
    node.filter(|node| !node.is_empty()).map(str::to_owned)
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
    if containers.is_empty() {
        let text = format!("a container name must be specified for pod {name}");
        return Err(ApiError::bad_request(text));
    }
    let all = [init, containers, ephemeral].concat();
    Err(ApiError::bad_request(format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        all.join(" ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_chosen_in_upstreams_words() {
        let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        let pod = |regular: &[&str]| {
            json!({"spec": {
                "initContainers": named(&["setup"]),
                "containers": named(regular),
                "ephemeralContainers": named(&["debugger"]),
            }})
        };
        const MANY: &str = "a container name must be specified for pod p, choose one of: [setup app side debugger]";
        for (regular, wanted, expect) in [
            (&["app"][..], None, Ok("app")),
            (&["app"], Some("setup"), Ok("setup")),
            (&["app"], Some("debugger"), Ok("debugger")),
            (
                &["app"],
                Some("no"),
                Err("container no is not valid for pod p"),
            ),
            (&["app", "side"], None, Err(MANY)),
            (&["app", "side"], Some("side"), Ok("side")),
            (
                &[],
                None,
                Err("a container name must be specified for pod p"),
            ),
        ] {
            let found = choose(&pod(regular), "p", wanted);
            let expect = expect.map(str::to_owned).map_err(ApiError::bad_request);
            assert_eq!(
                format!("{found:?}"),
                format!("{expect:?}"),
                "{regular:?} {wanted:?}"
            );
        }
    }
}
