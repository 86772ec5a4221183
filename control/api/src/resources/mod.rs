//! The table of resources, and the registry that router, discovery, OpenAPI and RBAC are derived from.

mod builtin;
mod columns;
mod metrics;
mod workloads;

use crate::{
    FieldError, Gvk, Schema, TypeId, Value,
    convert::{ConvertError, Converter},
    strategy, unimplemented, validate,
};
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

/// An immutable snapshot of everything that is served.
#[derive(Clone)]
pub struct Registry {
    pub schema: Arc<Schema>,
    resources: Vec<Arc<Resource>>,
    by_group_resource: HashMap<(String, String), usize>,
    by_group_kind: HashMap<(String, String), usize>,
}

/// One resource (group and plural), with its versions and subresources.
#[derive(Clone)]
pub struct Resource {
    pub group: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// In the order of preference; the first is the preferred one.
    pub versions: Vec<Version>,
    pub storage: Storage,
    pub verbs: Vec<Verb>,
    pub subresources: Vec<Subresource>,
    pub columns: Vec<Column>,
    pub selectable_fields: Vec<&'static str>,
    pub converter: Option<Converter>,
    pub hooks: Hooks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub ty: TypeId,
}

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the store under `/registry/[group/]resource/`; in this form. `events.k8s.io` names core's events here, so
    /// that one stored object is served in both groups.
    Stored {
        gvk: Gvk,
        group: String,
        resource: String,
    },
    /// Answered by a function, and never kept: the reviews, `metrics.k8s.io`.
    Virtual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// A subresource with a kind and verbs of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log`, `binding`, …
    pub name: String,
    /// The kind of its bodies: `Scale` of `autoscaling/v1` for `scale`; the parent's own for `status`.
    pub gvk: Gvk,
    pub verbs: Vec<Verb>,
}

/// A column of the resource's Table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, …
    pub ty: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    /// 0 in the default view, 1 with `-o wide`.
    pub priority: i32,
    pub cell: Cell,
}

/// How a cell is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The value at a dotted path, empty when absent.
    Path(&'static str),
    /// The time since the timestamp at the path, as kubectl prints ages; `<unknown>` when absent.
    Age(&'static str),
    /// A function that only the table renderer knows, by name (`pod.ready`).
    Computed(&'static str),
}

/// The pure functions of a kind, where the schema doesn't say everything.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Fills in defaults; runs on the version in which the request came.
    pub default: fn(&mut Value),
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Validates an update of the main resource: new, old.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Validates an update through `status` or another subresource that writes this kind: new, old, its name.
    pub validate_status: fn(&Value, &Value, &str) -> Vec<FieldError>,
    pub name: NameRule,
    pub strategy: strategy::Strategy,
}

/// What a name of the kind must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// RFC 1035: Services.
    Dns1035Label,
    /// No `/`, `%`, `.` or `..`: RBAC.
    PathSegment,
    /// Anything that can stand in a path: CertificateSigningRequests.
    Any,
}

impl Registry {
    /// The built-in resources.
    pub fn builtin() -> &'static Arc<Registry> {
        static BUILTIN: OnceLock<Arc<Registry>> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            Arc::new(Registry::new(
                Schema::builtin().clone(),
                builtin::resources(Schema::builtin()),
            ))
        })
    }

    pub fn new(schema: Arc<Schema>, resources: Vec<Resource>) -> Self {
        let resources: Vec<Arc<Resource>> = resources.into_iter().map(Arc::new).collect();
        let by_group_resource = resources
            .iter()
            .enumerate()
            .map(|(i, r)| ((r.group.clone(), r.plural.clone()), i))
            .collect();
        let by_group_kind = resources
            .iter()
            .enumerate()
            .map(|(i, r)| ((r.group.clone(), r.kind.clone()), i))
            .collect();
        Self {
            schema,
            resources,
            by_group_resource,
            by_group_kind,
        }
    }

    /// A new snapshot with a larger schema and more resources.
    pub fn with(&self, schema: Schema, more: Vec<Resource>) -> Self {
        let all = self
            .resources
            .iter()
            .map(|r| (**r).clone())
            .chain(more)
            .collect();
        Self::new(Arc::new(schema), all)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    pub fn by_resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_group_resource
            .get(&(group.to_owned(), plural.to_owned()))
            .map(|i| &self.resources[*i])
    }

    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_group_kind
            .get(&(group.to_owned(), kind.to_owned()))
            .map(|i| &self.resources[*i])
    }

    /// Groups in upstream's order of discovery, each with its versions, the preferred one first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            let at = groups
                .iter()
                .position(|(g, _)| *g == resource.group)
                .unwrap_or_else(|| {
                    groups.push((resource.group.clone(), vec![]));
                    groups.len() - 1
                });
            for version in &resource.versions {
                if !groups[at].1.contains(&version.name) {
                    groups[at].1.push(version.name.clone());
                }
            }
        }
        groups
    }
}

impl Resource {
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }

    /// What every answer about the kind in this version warns of: upstream's `APILifecycleDeprecated` and
    /// `APILifecycleReplacement`.
    pub fn deprecation(&self, version: &str) -> Option<&'static str> {
        match (self.group.as_str(), version, self.kind.as_str()) {
            ("", "v1", "Endpoints") => {
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            }
            _ => None,
        }
    }

    pub fn gvk(&self, version: &str) -> Gvk {
        Gvk::new(&self.group, version, &self.kind)
    }

    pub fn has(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Converts between two versions of this resource, or between its groups.
    pub fn convert(&self, object: Value, to: &Gvk) -> Result<Value, ConvertError> {
        let from = crate::meta::gvk(&object).ok_or_else(|| ConvertError::unknown(to, to))?;
        if from == *to {
            return Ok(object);
        }
        match self.converter {
            Some(convert) => convert(&from, to, object),
            None => Err(ConvertError::unknown(&from, to)),
        }
    }

    pub fn default(&self, object: &mut Value) {
        (self.hooks.default)(object);
    }

    /// Metadata, the kind's own rules, then the table of what is not implemented. Reviews have no metadata rules.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = match self.storage {
            Storage::Stored { .. } => validate::metadata(object, self.namespaced, self.hooks.name),
            Storage::Virtual => vec![],
        };
        errors.extend((self.hooks.validate)(object));
        errors.extend(unimplemented::check(&self.kind, object));
        errors
    }

    /// The same for an update through the main resource, or through `status` and other subresources. Both objects are
    /// as [`Resource::prepare_for_update`] leaves them.
    pub fn validate_update(
        &self,
        new: &Value,
        old: &Value,
        subresource: Option<&str>,
    ) -> Vec<FieldError> {
        let mut errors = validate::metadata_update(new, old);
        match subresource {
            None => errors.extend((self.hooks.validate_update)(new, old)),
            Some(name) => errors.extend((self.hooks.validate_status)(new, old, name)),
        }
        if matches!(subresource, None | Some("ephemeralcontainers")) {
            // What was stored before the field was refused may stay.
            let before = unimplemented::check(&self.kind, old);
            errors.extend(
                unimplemented::check(&self.kind, new)
                    .into_iter()
                    .filter(|e| !before.contains(e)),
            );
        }
        errors
    }

    /// The paths that [`Resource::selectable`] reads of an object.
    pub fn selectable_sources(&self) -> Vec<&'static str> {
        let mut sources = vec!["metadata.name", "metadata.namespace"];
        for path in &self.selectable_fields {
            match (self.kind.as_str(), *path) {
                (_, "name") => {}
                ("Event", "source") => sources.extend(["source", "reportingComponent"]),
                ("Event", "reportingController") => sources.push("reportingComponent"),
                ("Event", path) if path.starts_with("regarding.") => sources.push("involvedObject"),
                (_, path) => sources.push(path),
            }
        }
        sources
    }

    /// The value of a selectable field of an object in its stored form; empty where the object does not set it, `None`
    /// when the resource does not know the field.
    pub fn selectable(&self, object: &Value, path: &str) -> Option<String> {
        if !self.selectable_fields.contains(&path)
            && !(matches!(path, "metadata.name" | "metadata.namespace"))
        {
            return None;
        }
        if path == "metadata.namespace" && !self.namespaced {
            return None;
        }
        let text = |path: &str| match crate::meta::at(object, path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        Some(match (self.kind.as_str(), path) {
            (_, "name") => text("metadata.name"),
            ("Pod", "spec.hostNetwork") | ("Node", "spec.unschedulable") => {
                (text(path) == "true").to_string()
            }
            ("Pod", "status.podIPs") => {
                let ips = object.pointer("/status/podIPs").and_then(Value::as_array);
                let ips = ips
                    .into_iter()
                    .flatten()
                    .filter_map(|ip| ip.get("ip").and_then(Value::as_str));
                ips.collect::<Vec<_>>().join(",")
            }
            ("ReplicaSet" | "ReplicationController", "status.replicas") => Some(text(path))
                .filter(|t| !t.is_empty())
                .unwrap_or("0".to_owned()),
            ("Event", "reportingComponent" | "reportingController") => text("reportingComponent"),
            ("Event", "source") => match text("source.component") {
                component if component.is_empty() => text("reportingComponent"),
                component => component,
            },
            ("Event", path) if path.starts_with("regarding.") => {
                text(&path.replacen("regarding", "involvedObject", 1))
            }
            _ => text(path),
        })
    }
}

impl Hooks {
    /// A kind without rules of its own.
    pub const fn none(name: NameRule, strategy: strategy::Strategy) -> Self {
        Self {
            default: crate::defaults::none,
            validate: |_| vec![],
            validate_update: |_, _| vec![],
            validate_status: |_, _, _| vec![],
            name,
            strategy,
        }
    }
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}
