//! `pods/log`: the node's log of a container, passed on as it comes.

use std::fmt::Write;

use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use kernelet_api::{ApiError, FieldError};

use super::{
    Call, Failure,
    container::{self, Found},
    params::{boolean, integer},
};
use crate::{body::ResponseBody, http::respond, kubelet};

pub async fn get(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let (namespace, name) = (call.target.namespace.as_str(), call.target.name.as_str());
    let query = options(call)?;
    let Found { container, node } = container::find(call).await?;
    let Some(node) = node else {
        // Nothing runs, so nothing was said.
        return Ok(respond::text(StatusCode::OK, ""));
    };
    let endpoint = container::endpoint(call, &node)?;
    let path = format!("/containerLogs/{namespace}/{name}/{container}{query}");
    let body = kubelet::get(call.state.config.kubelet_client.clone(), endpoint, &path).await?;
    let mut response = Response::new(ResponseBody::stream(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
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
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
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
    // Behind the gate PodLogsQuerySplitStreams, which is off by default in 1.35.
    if query.get("stream").is_some() {
        errors.push(FieldError::forbidden("stream", "may not be specified"));
    }
    if !errors.is_empty() {
        let name = &call.target.name;
        return Err(ApiError::invalid("", "PodLogOptions", name, &errors));
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
