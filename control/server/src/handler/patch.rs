//! Patch: JSON, merge, strategic merge and server-side apply, each on the newest object.

use http::{Response, StatusCode};
use jiff::Timestamp;
use kernelet_api::{
    ApiError, FieldError, Value,
    codec::{self, Decoded, FieldValidation},
    meta,
};
use kernelet_patch::{FieldManager, json_patch, merge_patch, strategic_merge};

use super::{
    Call, Failure, WriteRequest, Written, params::WriteOptions, read::now_text, write::Pipeline,
};
use crate::{
    body::ResponseBody,
    http::negotiate::{self, Endpoint},
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A patch as it was sent.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    pub(super) fn parse(call: &Call, options: &WriteOptions) -> Result<Patch, ApiError> {
        let content_type = negotiate::content_type(&call.headers);
        let known = [JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY];
        if !known.contains(&content_type.as_str()) {
            return Err(ApiError::unsupported_media_type(&known));
        }
        options.check_patch(content_type == APPLY)?;
        let parsed = if content_type == APPLY {
            codec::parse_yaml(&call.body)
        } else {
            codec::parse_json(&call.body)
        };
        let (value, duplicates) = parsed
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        if options.field_validation == FieldValidation::Strict && !duplicates.is_empty() {
            return Err(ApiError::bad_request(format!(
                "strict decoding error: {}",
                duplicates.join(", ")
            )));
        }
        if options.field_validation == FieldValidation::Warn {
            call.warn(duplicates);
        }
        if content_type != JSON_PATCH && !value.is_object() {
            return Err(ApiError::bad_request(
                "error decoding patch: the patch is not an object",
            ));
        }
        Ok(match content_type.as_str() {
            JSON_PATCH => Patch::Json(value),
            MERGE_PATCH => Patch::Merge(value),
            STRATEGIC => Patch::Strategic(value),
            _ => Patch::Apply(value),
        })
    }

    fn is_apply(&self) -> bool {
        matches!(self, Patch::Apply(_))
    }

    /// The patched object, before types and unknown fields are looked at. Not for apply.
    pub(super) fn on(
        &self,
        call: &Call,
        old: &Value,
        schema_kind: &kernelet_api::Gvk,
    ) -> Result<Value, ApiError> {
        match self {
            Patch::Json(patch) => Ok(json_patch(old, patch)?),
            Patch::Merge(patch) => Ok(merge_patch(old, patch)?),
            Patch::Strategic(patch) => {
                let schema = &call.snapshot.api.schema;
                let ty = schema.by_gvk(schema_kind).ok_or_else(|| {
                    ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY])
                })?;
                Ok(strategic_merge(schema, ty, old, patch)?)
            }
            Patch::Apply(_) => Err(ApiError::internal("apply has a path of its own")),
        }
    }
}

pub async fn patch(
    call: &Call,
    subresource: Option<&str>,
) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let output = call.output(Endpoint::Object)?;
    let patch = Patch::parse(call, &options)?;
    let mut request = WriteRequest::of(call, &options, subresource);
    let name = call.target.name.as_str();
    let written = if patch.is_apply() {
        request.pipeline = Pipeline::Booked;
        apply(call, &request, name, &patch, &options).await?
    } else {
        let change = |old: &Value| {
            let patched = patch.on(call, old, &call.gvk())?;
            let new = checked(call, patched, &options)?;
            request.check_name(&new, name)?;
            let uid = meta::uid(&new);
            if !uid.is_empty() && uid != meta::uid(old) {
                let error = FieldError::invalid("metadata.uid", uid, "field is immutable");
                return Err(request.invalid(name, &[error]));
            }
            Ok(new)
        };
        request.update(name, None, &change).await?
    };
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    call.answer_cached(status, output, &written.object)
}

/// Types and unknown fields of a patched object.
fn checked(call: &Call, object: Value, options: &WriteOptions) -> Result<Value, ApiError> {
    let Decoded {
        value, warnings, ..
    } = codec::typecheck(
        &call.snapshot.api.schema,
        object,
        &call.gvk(),
        options.field_validation,
    )?;
    call.warn(warnings);
    Ok(value)
}

async fn apply(
    call: &Call,
    request: &WriteRequest<'_>,
    name: &str,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Written, Failure> {
    let Patch::Apply(patch) = patch else {
        return Err(ApiError::internal("not an apply").into());
    };
    let force = options.force.unwrap_or_default();
    let apply = |old: Option<&Value>| -> Result<Value, ApiError> {
        let (registry, resource) = (&call.snapshot.api, &call.served.resource);
        let manager = FieldManager::new(
            registry,
            resource,
            &call.gvk(),
            request.subresource,
            &now_text(),
        )
        .ok_or_else(|| ApiError::internal("the kind has no schema"))?;
        let applied = manager.apply(old, patch, &options.field_manager, force)?;
        let mut new = checked(call, applied.object, options)?;
        if meta::name(&new).is_empty() {
            meta::set(&mut new, "name", name);
        }
        request.check_name(&new, name)?;
        Ok(new)
    };
    // The name in the body, if there is one, must be the path's before anything is looked up.
    let own = meta::name(patch);
    if !own.is_empty() && own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        ))
        .into());
    }
    for _ in 0..5 {
        match request.update(name, None, &|old| apply(Some(old))).await {
            Err(failure) if failure.error.code == 404 && request.subresource.is_none() => {
                // A uid in an apply means an update: it must not create another object of that name.
                if !meta::uid(patch).is_empty() {
                    let why = super::write::uid_precondition(meta::uid(patch), "");
                    return Err(request.conflict(name, why).into());
                }
                match request.create(apply(None)?).await {
                    // Somebody else was faster: then it is an update after all.
                    Err(failure) if failure.error.reason == "AlreadyExists" => {}
                    created => return created,
                }
            }
            done => return done,
        }
    }
    Err(ApiError::timeout(
        format!(
            "applying {name:?} at {} met too many other writers",
            Timestamp::now()
        ),
        1,
    )
    .into())
}
