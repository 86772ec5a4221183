//! What a request asks for: path and method → verb, resource, namespace, name, subresource.
//!
//! Follows upstream's `RequestInfoFactory`, since RBAC rules and audit trails are written in its terms:
//! `/api/v1/namespaces/{ns}/pods/{name}/{subresource}` and `/apis/{group}/{version}/…`; legacy
//! `/api/v1/watch/…`; everything else is a non-resource path.

use http::Method;
use kernelet_api::names::Gvr;

use crate::query::Query;

/// A request in the terms that authorisation judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for non-resource
    /// paths the method in lower case.
    pub verb: &'static str,
    /// The path as asked for.
    pub path: String,
    /// What it names, unless it is a non-resource path.
    pub resource: Option<ResourceInfo>,
}

/// The resource that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    pub gvr: Gvr,
    /// Empty for cluster-scoped requests.
    pub namespace: String,
    /// Empty for requests on collections.
    pub name: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// What stands after the subresource (`pods/x/proxy/a/b` → `a/b`).
    pub rest: String,
    /// The path was one of `/watch/…`.
    pub legacy_watch: bool,
}

impl ResourceInfo {
    /// `pods/exec` and its like, which take the connection over.
    pub fn is_session(&self) -> bool {
        self.gvr.group.is_empty()
            && self.gvr.resource == "pods"
            && matches!(self.subresource.as_str(), "exec" | "attach" | "portforward")
    }
}

/// Why a path can't be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    #[error("the path is not valid percent-encoded UTF-8")]
    Encoding,
}

impl RequestInfo {
    pub fn parse(method: &Method, path: &str, query: &Query) -> Result<RequestInfo, PathError> {
        let segments = segments(path)?;
        let non_resource = |path: &str| RequestInfo {
            verb: lower(method),
            path: path.to_owned(),
            resource: None,
        };
        let (group, version, rest) = match segments.as_slice() {
            [api, version, rest @ ..] if api == "api" && !rest.is_empty() => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" && !rest.is_empty() => {
                (group.as_str(), version, rest)
            }
            _ => return Ok(non_resource(path)),
        };
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => lower(method),
        };
        let (legacy_watch, rest) = match rest {
            [watch, rest @ ..] if watch == "watch" && !rest.is_empty() => (true, rest),
            _ => (false, rest),
        };
        if legacy_watch && verb == "get" {
            verb = "watch";
        }
        let (namespace, rest) = match rest {
            [namespaces, namespace, inner, ..]
                if namespaces == "namespaces" && inner != "status" && inner != "finalize" =>
            {
                (namespace.clone(), &rest[2..])
            }
            [namespaces, namespace, ..] if namespaces == "namespaces" => (namespace.clone(), rest),
            _ => (String::new(), rest),
        };
        let part = |index: usize| rest.get(index).cloned().unwrap_or_default();
        let (resource, mut name, subresource) = (part(0), part(1), part(2));
        if name.is_empty() {
            match verb {
                "get" => {
                    verb = if query.flag("watch") { "watch" } else { "list" };
                    name = named_by_field_selector(query);
                }
                "delete" => verb = "deletecollection",
                _ => {}
            }
        }
        Ok(RequestInfo {
            verb,
            path: path.to_owned(),
            resource: Some(ResourceInfo {
                gvr: Gvr {
                    group: group.to_owned(),
                    version: version.clone(),
                    resource,
                },
                namespace,
                name,
                subresource,
                rest: rest.get(3..).unwrap_or_default().join("/"),
                legacy_watch,
            }),
        })
    }
}

/// `fieldSelector=metadata.name=x` makes a list one of that name, so that a role with `resourceNames` covers it.
fn named_by_field_selector(query: &Query) -> String {
    let Some(selector) = query.get("fieldSelector") else {
        return String::new();
    };
    selector
        .split(',')
        .find_map(|term| {
            let value = term.strip_prefix("metadata.name=")?;
            Some(value.strip_prefix('=').unwrap_or(value))
        })
        .filter(|name| {
            !name.is_empty() && *name != "." && *name != ".." && !name.contains(['/', '%'])
        })
        .unwrap_or_default()
        .to_owned()
}

/// The path's segments, decoded; empty ones are dropped.
fn segments(path: &str) -> Result<Vec<String>, PathError> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| {
            percent_encoding::percent_decode_str(segment)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| PathError::Encoding)
        })
        .collect()
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        Method::CONNECT => "connect",
        Method::TRACE => "trace",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `method path` → `verb group/version/resource ns name sub rest`, `-` for what is empty.
    fn check(request: &str, expect: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query).unwrap();
        let info = RequestInfo::parse(&method.parse().unwrap(), path, &query).unwrap();
        let dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        let found = match &info.resource {
            None => format!("{} {}", info.verb, info.path),
            Some(r) => format!(
                "{} {}/{}/{} {} {} {} {}",
                info.verb,
                dash(&r.gvr.group),
                r.gvr.version,
                r.gvr.resource,
                dash(&r.namespace),
                dash(&r.name),
                dash(&r.subresource),
                dash(&r.rest)
            ),
        };
        assert_eq!(found, expect, "{request}");
    }

    #[test]
    fn paths_are_understood_as_upstream_does() {
        for (request, expect) in [
            ("GET /api/v1/namespaces", "list -/v1/namespaces - - - -"),
            ("GET /api/v1/namespaces/a", "get -/v1/namespaces a a - -"),
            (
                "PUT /api/v1/namespaces/a/finalize",
                "update -/v1/namespaces a a finalize -",
            ),
            (
                "PATCH /api/v1/namespaces/a/status",
                "patch -/v1/namespaces a a status -",
            ),
            ("GET /api/v1/namespaces/a/pods", "list -/v1/pods a - - -"),
            (
                "GET /api/v1/namespaces/a/pods?watch=true",
                "watch -/v1/pods a - - -",
            ),
            (
                "GET /api/v1/namespaces/a/pods?watch=0",
                "list -/v1/pods a - - -",
            ),
            (
                "GET /api/v1/watch/namespaces/a/pods",
                "watch -/v1/pods a - - -",
            ),
            ("GET /api/v1/watch/pods", "watch -/v1/pods - - - -"),
            (
                "GET /api/v1/pods?fieldSelector=metadata.name%3Dx",
                "list -/v1/pods - x - -",
            ),
            (
                "GET /api/v1/namespaces/a/pods/x/log",
                "get -/v1/pods a x log -",
            ),
            ("POST /api/v1/namespaces/a/pods", "create -/v1/pods a - - -"),
            (
                "DELETE /api/v1/namespaces/a/pods",
                "deletecollection -/v1/pods a - - -",
            ),
            (
                "DELETE /api/v1/namespaces/a/pods/x",
                "delete -/v1/pods a x - -",
            ),
            (
                "GET /apis/apps/v1/deployments",
                "list apps/v1/deployments - - - -",
            ),
            ("GET /apis/apps/v1", "get /apis/apps/v1"),
            ("GET /api/v1", "get /api/v1"),
            ("GET /apis", "get /apis"),
            ("GET /version", "get /version"),
            ("POST /version", "post /version"),
            (
                "GET /api/v1/nodes/n/proxy/a/b",
                "get -/v1/nodes - n proxy a/b",
            ),
            (
                "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get rbac.authorization.k8s.io/v1/clusterroles - system:node - -",
            ),
        ] {
            check(request, expect);
        }
    }

    #[test]
    fn a_path_that_is_no_utf_8_is_refused() {
        let query = Query::default();
        assert_eq!(
            RequestInfo::parse(&Method::GET, "/api/v1/pods/%ff", &query),
            Err(PathError::Encoding)
        );
    }
}
