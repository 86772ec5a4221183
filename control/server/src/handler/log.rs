//! `pods/log`: the node's log of a container, passed on as it comes.

use std::fmt::Write;

use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use kernelet_api::{ApiError, FieldError, Value};

use super::{
    Call, Failure,
    params::{boolean, integer},
    read::reach,
};
use crate::{
    body::ResponseBody,
    http::respond,
    kubelet::{self, Endpoint},
    registry::Stored,
};

pub async fn get(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    reach(call, None).await?;
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let pod = call
        .stored()?
        .cache
        .get(&Stored::cache_key(namespace, name))
        .ok_or_else(|| call.not_found())?;
    let tree = pod.tree();
    let container = container(&tree, name, call.query.non_empty("container"))?;
    let query = options(call)?;
    let node = tree
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if node.is_empty() {
        // Nothing runs, so nothing was said.
        return Ok(respond::text(StatusCode::OK, ""));
    }
    let endpoint = endpoint(call, node)?;
    let path = format!("/containerLogs/{namespace}/{name}/{container}{query}");
    let body = kubelet::get(call.state.config.kubelet_client.clone(), endpoint, &path).await?;
    let mut response = Response::new(ResponseBody::stream(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Where the node of that name serves the kubelet API.
pub(super) fn endpoint(call: &Call, node: &str) -> Result<Endpoint, ApiError> {
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

/// Which container: the one asked for, which must exist, or the only one.
pub(super) fn container(pod: &Value, name: &str, wanted: Option<&str>) -> Result<String, ApiError> {
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
    if let ([one], true, true) = (containers.as_slice(), init.is_empty(), ephemeral.is_empty()) {
        return Ok(one.clone());
    }
    let mut text = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        containers.join(" ")
    );
    if !init.is_empty() {
        let _ = write!(text, " or one of the init containers: [{}]", init.join(" "));
    }
    if !ephemeral.is_empty() {
        let _ = write!(
            text,
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        );
    }
    Err(ApiError::bad_request(text))
}

/// The options as the node's query, checked as upstream checks PodLogOptions.
fn options(call: &Call) -> Result<String, ApiError> {
    let query = &call.query;
    let mut errors = Vec::new();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if boolean(query, flag)? == Some(true) {
            pairs.push((flag, "true".to_owned()));
        }
    }
    for (key, least, why) in [
        ("sinceSeconds", 1, "must be greater than 0"),
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
    ] {
        match integer(query, key)? {
            Some(number) if number < least => errors.push(FieldError::invalid(key, number, why)),
            Some(number) => pairs.push((key, number.to_string())),
            None => {}
        }
    }
    if let Some(since) = query.non_empty("sinceTime") {
        if since.parse::<Timestamp>().is_err() {
            return Err(ApiError::bad_request(format!(
                "parsing time {since:?}: not RFC 3339"
            )));
        }
        pairs.push(("sinceTime", since.to_owned()));
        if query.non_empty("sinceSeconds").is_some() {
            errors.push(FieldError::forbidden(
                "",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
    }
    match query.non_empty("stream") {
        None | Some("All") => {}
        Some(one @ ("Stdout" | "Stderr")) => pairs.push(("stream", one.to_owned())),
        Some(other) => errors.push(FieldError::not_supported(
            "stream",
            other,
            &["All", "Stderr", "Stdout"],
        )),
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", "", &errors));
    }
    let mut text = String::new();
    for (key, value) in pairs {
        let separator = if text.is_empty() { '?' } else { '&' };
        let value =
            percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        let _ = write!(text, "{separator}{key}={value}");
    }
    Ok(text)
}
