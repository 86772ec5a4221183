//! Paths, operations and their parameters, independent of the dialect.

use kernelet_api::{
    names::{GroupVersion, Gvk},
    resources::{Registry, Resource, Subresource, Verb},
    schema::{Schema, TypeId},
};

use super::connect;
use super::parameters::{
    DELETE, DELETE_COLLECTION, LIST, LOG, NAME, NAMESPACE, PATCH, PRETTY, Parameter, WRITE,
};
use crate::discovery::subresource_kind;

/// `api/v1` or `apis/{group}/{version}`.
pub(super) fn root(gv: &GroupVersion) -> String {
    if gv.group.is_empty() {
        format!("api/{}", gv.version)
    } else {
        format!("apis/{}/{}", gv.group, gv.version)
    }
}

pub(super) struct PathItem {
    pub path: String,
    pub parameters: Vec<Parameter>,
    pub operations: Vec<Operation>,
}

pub(super) struct Operation {
    pub method: &'static str,
    pub id: String,
    pub tag: String,
    pub description: String,
    /// `x-kubernetes-action`, and the kind that it is about.
    pub about: Option<(&'static str, Gvk)>,
    pub parameters: &'static [Parameter],
    pub body: Option<Body>,
    pub responses: Vec<(&'static str, &'static str, Answer)>,
    /// Lists can be watched: their content types have a streamed form.
    pub watchable: bool,
}

pub(super) enum Body {
    Object(TypeId),
    /// With the patch types that the kind takes.
    Patch,
    /// May be left out.
    DeleteOptions(TypeId),
}

#[derive(Clone, Copy)]
pub(super) enum Answer {
    Object(TypeId),
    Text,
    Nothing,
}

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// Every path of a group version.
pub(super) fn paths(registry: &Registry, gv: &GroupVersion) -> Vec<PathItem> {
    let base = Base::new(&registry.schema, gv);
    let mut items = vec![base.discovery()];
    for resource in registry
        .resources()
        .filter(|resource| resource.group == gv.group)
    {
        if let Some(version) = resource.version(&gv.version) {
            base.resource(resource, version.ty, &mut items);
        }
    }
    items
}

/// What the operations of one group version share.
struct Base<'a> {
    schema: &'a Schema,
    gv: &'a GroupVersion,
    root: String,
    tag: String,
    /// `AppsV1`, for operation ids.
    id: String,
}

impl<'a> Base<'a> {
    fn new(schema: &'a Schema, gv: &'a GroupVersion) -> Self {
        let group = if gv.group.is_empty() {
            "core"
        } else {
            gv.group.trim_end_matches(".k8s.io")
        };
        let mut words = group.split(['.', '-']);
        let first = words.next().unwrap_or_default().to_owned();
        let camel: String = std::iter::once(first).chain(words.map(capital)).collect();
        Self {
            schema,
            gv,
            root: format!("/{}", root(gv)),
            tag: format!("{camel}_{}", gv.version),
            id: format!("{}{}", capital(&camel), capital(&gv.version)),
        }
    }

    fn named(&self, name: &str) -> Answer {
        self.schema
            .by_name(name)
            .map_or(Answer::Nothing, Answer::Object)
    }

    fn discovery(&self) -> PathItem {
        let operation = Operation {
            method: "get",
            id: format!("get{}APIResources", self.id),
            tag: self.tag.clone(),
            description: "get available resources".to_owned(),
            about: None,
            parameters: &[],
            body: None,
            responses: vec![("200", "OK", self.named(RESOURCE_LIST))],
            watchable: false,
        };
        PathItem {
            path: format!("{}/", self.root),
            parameters: vec![],
            operations: vec![operation],
        }
    }

    fn resource(&self, resource: &Resource, ty: TypeId, items: &mut Vec<PathItem>) {
        let plural = &resource.plural;
        let gvk = self.gv.with_kind(&resource.kind);
        let list_ty = self
            .schema
            .by_gvk(&self.gv.with_kind(&resource.list_kind))
            .map_or(Answer::Nothing, Answer::Object);
        let scoped = if resource.namespaced {
            format!("{}/namespaces/{{namespace}}", self.root)
        } else {
            self.root.clone()
        };
        let scope_parameters = || {
            if resource.namespaced {
                vec![NAMESPACE, PRETTY]
            } else {
                vec![PRETTY]
            }
        };
        let one = Kinded {
            base: self,
            kind: &resource.kind,
            scope: scope_of(resource),
            suffix: "",
            gvk: &gvk,
            ty,
        };

        let mut collection = Vec::new();
        if resource.has(Verb::DeleteCollection) {
            collection.push(one.delete_collection());
        }
        if resource.has(Verb::List) {
            collection.push(one.list(list_ty));
        }
        if resource.has(Verb::Create) {
            collection.push(one.create());
        }
        push(
            items,
            format!("{scoped}/{plural}"),
            scope_parameters(),
            collection,
        );

        let operations = one.item(&resource.verbs, resource.has(Verb::Create));
        let mut parameters = scope_parameters();
        parameters.insert(0, NAME);
        push(
            items,
            format!("{scoped}/{plural}/{{name}}"),
            parameters.clone(),
            operations,
        );

        if resource.namespaced && resource.has(Verb::List) {
            let mut operation = one.list(list_ty);
            operation.id = format!("list{}{}ForAllNamespaces", self.id, resource.kind);
            push(
                items,
                format!("{}/{plural}", self.root),
                vec![PRETTY],
                vec![operation],
            );
        }
        for sub in &resource.subresources {
            if sub.name == "proxy" {
                let names = connect::Names {
                    tag: &self.tag,
                    id: &self.id,
                    gv: self.gv,
                };
                let path = format!("{scoped}/{plural}/{{name}}/proxy");
                let mut parameters = parameters.clone();
                parameters.retain(|parameter| parameter.name != PRETTY.name);
                items.extend(connect::proxy(&names, resource, sub, path, parameters));
                continue;
            }
            let operations = self.subresource(resource, sub);
            push(
                items,
                format!("{scoped}/{plural}/{{name}}/{}", sub.name),
                parameters.clone(),
                operations,
            );
        }
    }

    fn subresource(&self, resource: &Resource, sub: &Subresource) -> Vec<Operation> {
        let gvk = subresource_kind(resource, sub, self.gv);
        let Some(ty) = self.schema.by_gvk(&gvk) else {
            return Vec::new();
        };
        let suffix = capital(&sub.name);
        let one = Kinded {
            base: self,
            kind: &resource.kind,
            scope: scope_of(resource),
            suffix: &suffix,
            gvk: &gvk,
            ty,
        };
        if sub.name == "log" {
            let mut operation = one.operation("get", "read", "get");
            operation.parameters = LOG;
            operation.responses = vec![("200", "OK", Answer::Text)];
            return vec![operation];
        }
        let mut operations = one.item(&sub.verbs, false);
        if sub.verbs.contains(&Verb::Create) {
            operations.push(one.create());
        }
        operations
    }
}

fn push(
    items: &mut Vec<PathItem>,
    path: String,
    parameters: Vec<Parameter>,
    operations: Vec<Operation>,
) {
    if !operations.is_empty() {
        items.push(PathItem {
            path,
            parameters,
            operations,
        });
    }
}

fn scope_of(resource: &Resource) -> &'static str {
    if resource.namespaced {
        "Namespaced"
    } else {
        ""
    }
}

/// Operations on one kind, or on one subresource of it.
struct Kinded<'a> {
    base: &'a Base<'a>,
    kind: &'a str,
    scope: &'static str,
    suffix: &'a str,
    gvk: &'a Gvk,
    ty: TypeId,
}

impl Kinded<'_> {
    fn operation(&self, method: &'static str, verb: &str, action: &'static str) -> Operation {
        let of = if self.suffix.is_empty() {
            String::new()
        } else {
            format!("{} of ", self.suffix.to_lowercase())
        };
        let what = match verb {
            "create" => format!("create {of}a {}", self.kind),
            "delete" => format!("delete {of}a {}", self.kind),
            "patch" => format!("partially update {of}the specified {}", self.kind),
            verb => format!("{verb} {of}the specified {}", self.kind),
        };
        Operation {
            method,
            id: format!(
                "{verb}{}{}{}{}",
                self.base.id, self.scope, self.kind, self.suffix
            ),
            tag: self.base.tag.clone(),
            description: what,
            about: Some((action, self.gvk.clone())),
            parameters: &[],
            body: None,
            responses: vec![("200", "OK", Answer::Object(self.ty))],
            watchable: false,
        }
    }

    fn list(&self, answer: Answer) -> Operation {
        Operation {
            description: format!("list or watch objects of kind {}", self.kind),
            parameters: LIST,
            responses: vec![("200", "OK", answer)],
            watchable: true,
            ..self.operation("get", "list", "list")
        }
    }

    fn create(&self) -> Operation {
        let answer = Answer::Object(self.ty);
        Operation {
            parameters: WRITE,
            body: Some(Body::Object(self.ty)),
            responses: vec![
                ("200", "OK", answer),
                ("201", "Created", answer),
                ("202", "Accepted", answer),
            ],
            ..self.operation("post", "create", "post")
        }
    }

    fn delete_options(&self) -> Option<Body> {
        self.base
            .schema
            .by_name(DELETE_OPTIONS)
            .map(Body::DeleteOptions)
    }

    fn delete_collection(&self) -> Operation {
        Operation {
            id: format!(
                "delete{}Collection{}{}",
                self.base.id, self.scope, self.kind
            ),
            description: format!("delete collection of {}", self.kind),
            parameters: DELETE_COLLECTION,
            body: self.delete_options(),
            responses: vec![("200", "OK", self.base.named(STATUS))],
            ..self.operation("delete", "delete", "deletecollection")
        }
    }

    /// The operations on a path that names one object.
    fn item(&self, verbs: &[Verb], creatable: bool) -> Vec<Operation> {
        let answer = Answer::Object(self.ty);
        let mut operations = Vec::new();
        if verbs.contains(&Verb::Delete) {
            let status = self.base.named(STATUS);
            operations.push(Operation {
                parameters: DELETE,
                body: self.delete_options(),
                responses: vec![("200", "OK", status), ("202", "Accepted", status)],
                ..self.operation("delete", "delete", "delete")
            });
        }
        if verbs.contains(&Verb::Get) {
            operations.push(self.operation("get", "read", "get"));
        }
        let written = || vec![("200", "OK", answer), ("201", "Created", answer)];
        if verbs.contains(&Verb::Patch) {
            // An apply creates what isn't there.
            let responses = if creatable || !self.suffix.is_empty() {
                written()
            } else {
                vec![("200", "OK", answer)]
            };
            operations.push(Operation {
                parameters: PATCH,
                body: Some(Body::Patch),
                responses,
                ..self.operation("patch", "patch", "patch")
            });
        }
        if verbs.contains(&Verb::Update) {
            operations.push(Operation {
                parameters: WRITE,
                body: Some(Body::Object(self.ty)),
                responses: written(),
                ..self.operation("put", "replace", "put")
            });
        }
        operations
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
