//! Subresources: `status` and its like take the generic path; the others are a function each.

mod bind;
mod evict;
mod scale;
mod token;

use http::{Response, StatusCode};
use kernelet_api::{ApiError, Value, resources::Verb};
use serde_json::json;

use super::{Call, Failure, connect, log, patch, read, write};
use crate::body::ResponseBody;

pub use bind::bind;

pub async fn handle(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let name = call.target.subresource.as_str();
    let subresource = call
        .served
        .resource
        .subresource(name)
        .ok_or_else(ApiError::page_not_found)?;
    let verb = match call.verb {
        "get" => Verb::Get,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        _ => return Err(ApiError::method_not_allowed().into()),
    };
    if !subresource.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed().into());
    }
    match (name, verb) {
        ("scale", _) => scale::handle(call, verb).await,
        ("binding", _) => bind::create(call).await,
        ("eviction", _) => evict::create(call).await,
        ("token", _) => token::create(call).await,
        ("log", _) => log::get(call).await,
        ("attach" | "exec" | "portforward", _) => connect::connect(call).await,
        (_, Verb::Get) => read::get(call).await,
        (_, Verb::Update) => write::update(call, Some(name)).await,
        (_, Verb::Patch) => patch::patch(call, Some(name)).await,
        _ => Err(ApiError::method_not_allowed().into()),
    }
}

/// What a creation that makes nothing answers.
fn created_status() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": StatusCode::CREATED.as_u16()})
}
