//! Resources whose objects nobody stores: they are made for each request.
//!
//! A resource of [`kernelet_api::resources::Storage::Virtual`] that can be got and listed has a [`Source`] in the table
//! here; negotiation, tables and options are this module's, the same for all of them.

mod usage;

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use kernelet_api::{ApiError, Value};
use serde_json::json;

use super::{Call, Failure, encode, params::ListOptions, read, select::Filter, table};
use crate::{
    body::ResponseBody,
    http::negotiate::{Endpoint, Form, Output},
};

/// Where the objects come from. They carry no `kind` and `apiVersion`; those are the resource's.
trait Source: Sync {
    /// The object that the call names.
    fn get<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Value, ApiError>>;
    /// Those that `filter` keeps, by namespace and name.
    fn list<'a>(
        &'a self,
        call: &'a Call,
        filter: &'a Filter,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>>;
}

fn source(group: &str, plural: &str) -> Option<&'static dyn Source> {
    match (group, plural) {
        ("metrics.k8s.io", "nodes") => Some(&usage::Nodes),
        ("metrics.k8s.io", "pods") => Some(&usage::Pods),
        _ => None,
    }
}

/// `get` and `list`.
pub async fn handle(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let (group, plural) = call.served.names();
    let source = source(group, plural).ok_or_else(|| call.not_supported())?;
    // What the objects are made from must be as new as the question.
    read::reach(call, None).await?;
    match call.verb {
        "get" => {
            let output = call.output(Endpoint::Object)?;
            let object = with_kind(call, source.get(call).await?);
            answer(call, output, &[object], false)
        }
        "list" => {
            ListOptions::parse(&call.query, false)?;
            let output = call.output(Endpoint::List)?;
            let filter = Filter::parse(&call.served, &call.target.namespace, &call.query)?;
            let objects = source.list(call, &filter).await?;
            answer(call, output, &objects, true)
        }
        _ => Err(call.not_supported().into()),
    }
}

fn with_kind(call: &Call, mut object: Value) -> Value {
    let gvk = call.gvk();
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".to_owned(), gvk.kind.as_str().into());
        map.insert("apiVersion".to_owned(), gvk.api_version().into());
    }
    object
}

fn answer(
    call: &Call,
    output: Output,
    objects: &[Value],
    list: bool,
) -> Result<Response<ResponseBody>, Failure> {
    let listed = |kind: &str, api_version: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items});
    let value = match (output.form, list) {
        (Form::Table(version), _) => {
            let mut table = table::render(call, version, objects, None, table::Header::Yes)?;
            // There is no revision of what is never written.
            table["metadata"] = json!({});
            table
        }
        (Form::Metadata(version), false) => encode::partial(&objects[0], version),
        (Form::Metadata(version), true) => {
            let items = objects
                .iter()
                .map(|o| encode::partial(o, version))
                .collect();
            listed("PartialObjectMetadataList", version.api_version(), items)
        }
        (Form::Full, false) => objects[0].clone(),
        (Form::Full, true) => listed(
            &call.served.resource.list_kind,
            &call.gvk().api_version(),
            objects.to_vec(),
        ),
    };
    Ok(call.answer_value(StatusCode::OK, output, &value))
}
