//! The one generic handler: every verb on every resource of the registry.
//!
//! By the time a [`Call`] is made, the request is authenticated and authorised and its body read. What a kind needs
//! beyond its schema stands in its registry entry, in admission, or in the few subresources with a will of their own.

pub mod encode;
pub mod params;
pub mod proxy;
pub mod read;
pub mod select;

mod commit;
mod computed;
mod connect;
mod container;
mod continuation;
mod delete;
mod log;
mod notes;
mod patch;
mod reviews;
mod subresource;
mod table;
mod watch;
mod write;

pub use notes::Notes;
pub use read::store_error;
pub use select::labels_match;
pub use write::{Pipeline, Request as WriteRequest, Written};

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use kernelet_api::{
    ApiError, Gvk, Value,
    codec::{self, Decoded, FieldValidation, Format},
    resources::Verb,
};

use crate::{
    body::ResponseBody,
    cache::CachedObject,
    http::{
        negotiate::{self, Endpoint, Form, Output},
        respond,
    },
    metrics::RequestLabels,
    query::Query,
    registry::{Served, Snapshot, Stored},
    request::ResourceInfo,
    state::State,
    user::UserInfo,
};
use encode::View;

/// One request on a resource.
pub struct Call {
    pub state: Arc<State>,
    pub snapshot: Arc<Snapshot>,
    pub served: Arc<Served>,
    pub user: Arc<UserInfo>,
    pub verb: &'static str,
    pub target: ResourceInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The connection itself, for the sessions that take it over. In process there is none.
    pub upgrade: Option<OnUpgrade>,
    pub notes: Mutex<Notes>,
    /// How the request is counted.
    pub labels: RequestLabels,
}

/// An error, and, for a list that can go on in another way, how.
#[derive(Debug)]
pub struct Failure {
    pub error: ApiError,
    pub continue_token: Option<String>,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure {
            error,
            continue_token: None,
        }
    }
}

impl Call {
    pub fn view(&self) -> View {
        View {
            schema: self.snapshot.api.schema.clone(),
            served: self.served.clone(),
            version: self.target.gvr.version.clone(),
        }
    }

    /// Where the resource's objects are.
    pub fn stored(&self) -> Result<&Stored, ApiError> {
        self.served
            .stored
            .as_ref()
            .ok_or_else(|| self.not_supported())
    }

    pub fn output(&self, endpoint: Endpoint) -> Result<Output, ApiError> {
        negotiate::output(&self.headers, endpoint, self.query.flag("pretty"))
    }

    pub fn not_found(&self) -> ApiError {
        let (group, plural) = self.served.names();
        ApiError::not_found(group, plural, &self.target.name)
    }

    /// 405: the resource has no such verb.
    pub fn not_supported(&self) -> ApiError {
        let (group, plural) = self.served.names();
        ApiError::method_not_supported(group, plural, self.verb)
    }

    pub fn gvk(&self) -> Gvk {
        self.served.gvk(&self.target.gvr.version)
    }

    pub fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.warnings.extend(warnings);
    }

    /// The body as an object of the kind `expected`; warnings are noted.
    pub fn decode(&self, expected: &Gvk, validation: FieldValidation) -> Result<Value, ApiError> {
        let format = negotiate::content_format(&self.headers)?;
        let Decoded {
            value, warnings, ..
        } = codec::decode(
            &self.snapshot.api.schema,
            format,
            &self.body,
            expected,
            validation,
        )?;
        self.warn(warnings);
        Ok(value)
    }

    /// Who writes: `fieldManager`, or what the client calls itself.
    pub fn manager(&self, field_manager: &str) -> String {
        if !field_manager.is_empty() {
            return field_manager.to_owned();
        }
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default();
        let name: String = agent
            .split('/')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let mut end = name.len().min(128);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        if end == 0 {
            "unknown".to_owned()
        } else {
            name[..end].to_owned()
        }
    }

    /// A whole object as the answer.
    pub fn answer_cached(
        &self,
        status: StatusCode,
        output: Output,
        object: &CachedObject,
    ) -> Result<Response<ResponseBody>, Failure> {
        let view = self.view();
        Ok(match (output.form, output.format) {
            (Form::Table(version), _) => {
                let table = table::render(
                    self,
                    version,
                    &[view.tree(object)?],
                    None,
                    table::Header::Yes,
                )?;
                respond::value(&view.schema, status, output, &table)
            }
            (form, Format::Protobuf) => {
                respond::bytes(status, output.content_type(), view.protobuf(object, form)?)
            }
            (form, Format::Json) if !output.pretty => {
                let line = respond::line(&view.json(object, form)?);
                respond::bytes(status, output.content_type(), line)
            }
            (Form::Metadata(version), _) => respond::value(
                &view.schema,
                status,
                output,
                &encode::partial(&object.tree(), version),
            ),
            (Form::Full, _) => respond::value(&view.schema, status, output, &view.tree(object)?),
        })
    }

    /// A tree as the answer, whatever its kind.
    pub fn answer_value(
        &self,
        status: StatusCode,
        output: Output,
        value: &Value,
    ) -> Response<ResponseBody> {
        respond::value(&self.snapshot.api.schema, status, output, value)
    }
}

/// Does what the request asks for.
pub async fn handle(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    check_scope(call)?;
    if !call.target.subresource.is_empty() {
        return subresource::handle(call).await;
    }
    if call.served.stored.is_none() {
        return match call.verb {
            "create" => reviews::create(call).await,
            "get" if call.served.resource.has(Verb::Get) => computed::handle(call).await,
            "list" if call.served.resource.has(Verb::List) => computed::handle(call).await,
            _ => Err(call.not_supported().into()),
        };
    }
    let verb = match call.verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(ApiError::method_not_allowed().into()),
    };
    if !call.served.resource.has(verb) {
        return Err(call.not_supported().into());
    }
    match verb {
        Verb::Get => read::get(call).await,
        Verb::List => read::list(call).await,
        Verb::Watch => watch::watch(call).await,
        Verb::Create => write::create(call).await,
        Verb::Update => write::update(call, None).await,
        Verb::Patch => patch::patch(call, None).await,
        Verb::Delete => delete::delete(call).await,
        Verb::DeleteCollection => delete::delete_collection(call).await,
    }
}

/// Paths that upstream doesn't route: a cluster's object in a namespace, a namespaced object outside of one.
fn check_scope(call: &Call) -> Result<(), ApiError> {
    let (resource, target) = (&call.served.resource, &call.target);
    if !resource.namespaced {
        if !target.namespace.is_empty() {
            return Err(ApiError::page_not_found());
        }
        return match call.verb {
            "create" if !target.name.is_empty() && target.subresource.is_empty() => {
                Err(ApiError::method_not_allowed())
            }
            _ => check_name(call),
        };
    }
    if target.namespace.is_empty() {
        match call.verb {
            "list" | "watch" => {}
            "create" if call.served.stored.is_none() => {}
            _ if target.name.is_empty() => return Err(ApiError::method_not_allowed()),
            _ => return Err(ApiError::page_not_found()),
        }
    }
    if call.verb == "create" && !target.name.is_empty() && target.subresource.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    check_name(call)
}

fn check_name(call: &Call) -> Result<(), ApiError> {
    let needs_name = matches!(call.verb, "update" | "patch") || !call.target.subresource.is_empty();
    if needs_name && call.target.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    if !call.target.rest.is_empty() && call.target.subresource != "proxy" {
        return Err(ApiError::page_not_found());
    }
    Ok(())
}
