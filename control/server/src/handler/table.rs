//! Tables, as `kubectl get` asks for them.

use std::sync::Arc;

use jiff::Timestamp;
use kernelet_api::{ApiError, Value};
use kernelet_openapi::tables::{IncludeObject, Printer, TableOptions, table};
use serde_json::json;

use super::{Call, encode::ListMeta};
use crate::{http::negotiate::MetaVersion, registry::Served};

/// Whether a table carries its column definitions: of a watch, only the first event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    Yes,
    No,
}

/// Renders tables of one resource for one request.
pub struct Renderer {
    served: Arc<Served>,
    include: Result<IncludeObject, ApiError>,
}

impl Renderer {
    pub fn of(call: &Call) -> Renderer {
        let include = match call.query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(IncludeObject::Metadata),
            "Object" => Ok(IncludeObject::Object),
            "None" => Ok(IncludeObject::None),
            other => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            ))),
        };
        Renderer {
            served: call.served.clone(),
            include,
        }
    }

    /// What prints objects one by one; `None` where a table must be made at once.
    pub fn printer(&self) -> Result<Option<Printer>, ApiError> {
        Ok(Printer::new(&self.served.resource, self.options()?))
    }

    fn options(&self) -> Result<TableOptions, ApiError> {
        Ok(TableOptions {
            include: self.include.clone()?,
            now: Timestamp::now(),
        })
    }

    pub fn render(
        &self,
        version: MetaVersion,
        objects: &[Value],
        meta: Option<&ListMeta>,
        header: Header,
    ) -> Result<Value, ApiError> {
        let options = self.options()?;
        // A table of one object carries that object's revision, as upstream's does.
        let metadata = match (meta, objects) {
            (Some(meta), _) => meta.to_value(),
            (None, [one]) => json!({"resourceVersion": kernelet_api::meta::resource_version(one)}),
            (None, _) => json!({}),
        };
        let mut rendered = table(&self.served.resource, objects, metadata, options);
        if let Some(map) = rendered.as_object_mut() {
            map.insert("apiVersion".to_owned(), version.api_version().into());
            if header == Header::No {
                map.insert("columnDefinitions".to_owned(), Value::Null);
            }
        }
        Ok(rendered)
    }
}

pub fn render(
    call: &Call,
    version: MetaVersion,
    objects: &[Value],
    meta: Option<&ListMeta>,
    header: Header,
) -> Result<Value, ApiError> {
    Renderer::of(call).render(version, objects, meta, header)
}
