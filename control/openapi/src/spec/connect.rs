//! Subresources that hand a connection on: every method is "connect", and a path may follow.

use kernelet_api::{
    names::{GroupVersion, Gvk},
    resources::{Resource, Subresource},
};

use super::{
    parameters::{Parameter, Place},
    paths::{Answer, Operation, PathItem},
};

const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];
const PATH_QUERY: Parameter = Parameter {
    name: "path",
    place: Place::Query,
    ty: "string",
    description: "Path is the URL path to use for the current proxy request.",
};
const PATH: Parameter = Parameter {
    name: "path",
    place: Place::Path,
    ty: "string",
    description: "path to the resource",
};

/// What the operations of one group version are called: `core_v1`, `CoreV1`.
pub(super) struct Names<'a> {
    pub tag: &'a str,
    pub id: &'a str,
    pub gv: &'a GroupVersion,
}

/// The two paths of a proxy: `path` itself and what lies below it.
pub(super) fn proxy(
    names: &Names<'_>,
    resource: &Resource,
    sub: &Subresource,
    path: String,
    mut parameters: Vec<Parameter>,
) -> [PathItem; 2] {
    let gvk = names.gv.with_kind(&sub.gvk.kind);
    let operations = |suffix: &str| {
        METHODS
            .iter()
            .map(|method| operation(names, resource, method, suffix, &gvk))
            .collect()
    };
    parameters.push(PATH_QUERY);
    let mut below = parameters.clone();
    below.push(PATH);
    [
        PathItem {
            path: path.clone(),
            parameters,
            operations: operations(""),
        },
        PathItem {
            path: format!("{path}/{{path}}"),
            parameters: below,
            operations: operations("WithPath"),
        },
    ]
}

fn operation(
    names: &Names<'_>,
    resource: &Resource,
    method: &'static str,
    suffix: &str,
    gvk: &Gvk,
) -> Operation {
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        ""
    };
    let kind = &resource.kind;
    let mut letters = method.chars();
    let capital: String = letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default();
    let id = names.id;
    Operation {
        method,
        id: format!("connect{id}{capital}{scope}{kind}Proxy{suffix}"),
        tag: names.tag.to_owned(),
        description: format!(
            "connect {} requests to proxy of {kind}",
            method.to_uppercase()
        ),
        about: Some(("connect", gvk.clone())),
        parameters: &[],
        body: None,
        responses: vec![("200", "OK", Answer::Text)],
        watchable: false,
    }
}
