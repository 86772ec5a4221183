//! Answers: whole objects in the negotiated format, errors as Status, warnings as headers.

use http::{HeaderValue, Response, StatusCode, header};
use kernelet_api::{
    ApiError, Schema, Value,
    codec::{self, Format},
};

use super::negotiate::Output;
use crate::body::ResponseBody;

/// An answer with a body of that type.
pub fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<ResponseBody> {
    let mut response = stream(content_type, ResponseBody::whole(body));
    *response.status_mut() = status;
    response
}

/// An answer with 200 and a body of that type, which may come piece by piece.
pub fn stream(content_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What is answered depends on who asked and is stale at once.
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// Plain text, as health checks answer.
pub fn text(status: StatusCode, body: impl Into<String>) -> Response<ResponseBody> {
    bytes(status, "text/plain; charset=utf-8", body.into())
}

/// A tree in the negotiated format. What has no protobuf form is sent as JSON.
pub fn value(
    schema: &Schema,
    status: StatusCode,
    output: Output,
    value: &Value,
) -> Response<ResponseBody> {
    match output.format {
        Format::Json if output.pretty => bytes(
            status,
            output.content_type(),
            serde_json::to_vec_pretty(value).expect("a tree of JSON values has a JSON form"),
        ),
        Format::Json => bytes(status, output.content_type(), json_line(value)),
        Format::Yaml => bytes(status, output.content_type(), codec::encode_yaml(value)),
        Format::Protobuf => match codec::encode_protobuf(schema, value) {
            Some(body) => bytes(status, output.content_type(), body),
            None => bytes(status, Output::JSON.content_type(), json_line(value)),
        },
    }
}

/// JSON as upstream's encoder ends it: with a line feed, unless it is pretty.
pub fn line(json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(json.len() + 1);
    bytes.extend_from_slice(json);
    bytes.push(b'\n');
    bytes
}

fn json_line(value: &Value) -> Vec<u8> {
    let mut bytes = codec::encode_json(value);
    bytes.push(b'\n');
    bytes
}

/// An error as the Status that clients expect.
pub fn error(schema: &Schema, output: Output, error: &ApiError) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(schema, status, output, &error.to_status());
    if let Some(seconds) = error
        .details
        .as_ref()
        .map(|d| d.retry_after_seconds)
        .filter(|s| *s > 0)
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Adds `Warning: 299` headers.
pub fn warn(response: &mut Response<ResponseBody>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
