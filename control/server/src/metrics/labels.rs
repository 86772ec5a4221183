//! Requests as upstream's metrics name them.

use http::{HeaderMap, Method, header};
use prometheus_client::encoding::EncodeLabelSet;

use crate::{query::Query, registry::Snapshot, request::RequestInfo};

/// Labels of one request. Every value comes from a table: a client can't make up new ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET`, `LIST`, `WATCH`, `APPLY`, `CONNECT`, …
    pub verb: &'static str,
    pub dry_run: &'static str,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// `resource`, `namespace`, `cluster`, or empty for what is no resource.
    pub scope: &'static str,
    pub component: &'static str,
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DurationLabels {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LongLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResourceLabels {
    pub resource: String,
}

impl KindLabels {
    pub const READ_ONLY: KindLabels = KindLabels {
        request_kind: "readOnly",
    };
    pub const MUTATING: KindLabels = KindLabels {
        request_kind: "mutating",
    };
}

impl Default for RequestLabels {
    fn default() -> Self {
        RequestLabels {
            verb: "other",
            dry_run: "",
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            scope: "",
            component: "apiserver",
            code: 0,
        }
    }
}

/// Paths that are counted by name.
const PATHS: [&str; 7] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/version",
    "/openapi/v2",
    "/openapi/v3",
];
/// Subresources that take a connection over.
const CONNECT: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

impl RequestLabels {
    /// Of a request that isn't understood yet.
    pub fn of_method(method: &Method) -> RequestLabels {
        RequestLabels {
            verb: verb(method),
            ..RequestLabels::default()
        }
    }

    /// Fills in what the path, the query and the headers say. What the registry doesn't know is left out.
    pub fn understand(
        &mut self,
        info: &RequestInfo,
        snapshot: &Snapshot,
        query: &Query,
        headers: &HeaderMap,
    ) {
        self.dry_run = match query.non_empty("dryRun") {
            None => "",
            Some("All") => "All",
            Some(_) => "invalid",
        };
        let Some(target) = &info.resource else {
            if let Some(path) = PATHS.iter().find(|path| **path == info.path) {
                self.subresource = (*path).to_owned();
            }
            return;
        };
        let Some(served) = snapshot.get(&target.gvr.group, &target.gvr.resource) else {
            return;
        };
        if served.version(&target.gvr.version).is_none() {
            return;
        }
        self.group.clone_from(&target.gvr.group);
        self.version.clone_from(&target.gvr.version);
        self.resource.clone_from(&target.gvr.resource);
        self.scope = match (target.name.is_empty(), target.namespace.is_empty()) {
            (false, _) => "resource",
            _ if info.verb == "create" => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        if served.resource.subresource(&target.subresource).is_some() {
            self.subresource.clone_from(&target.subresource);
        }
        let apply = || {
            let media = headers
                .get(header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok());
            media.is_some_and(|media| media.starts_with("application/apply-patch+"))
        };
        self.verb = match self.verb {
            _ if CONNECT.contains(&self.subresource.as_str()) => "CONNECT",
            _ if info.verb == "watch" => "WATCH",
            "GET" if self.scope != "resource" => "LIST",
            "PATCH" if apply() => "APPLY",
            verb => verb,
        };
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}

impl DurationLabels {
    pub fn of(labels: &RequestLabels) -> Self {
        Self {
            verb: labels.verb,
            dry_run: labels.dry_run,
            group: labels.group.clone(),
            version: labels.version.clone(),
            resource: labels.resource.clone(),
            subresource: labels.subresource.clone(),
            scope: labels.scope,
            component: labels.component,
        }
    }
}

impl LongLabels {
    pub fn of(labels: &RequestLabels) -> Self {
        Self {
            verb: labels.verb,
            group: labels.group.clone(),
            version: labels.version.clone(),
            resource: labels.resource.clone(),
            subresource: labels.subresource.clone(),
            scope: labels.scope,
            component: labels.component,
        }
    }
}
