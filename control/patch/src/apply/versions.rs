//! How apply reaches the other versions of an object.

use kernelet_api::{
    Gvk, TypeId, Value,
    names::GroupVersion,
    resources::{Registry, Resource},
};

/// The versions in which a resource is served. Each manager's set of fields speaks of the version it wrote in.
pub trait Versions {
    /// `object` in another version, and that version's type. `None` when the version is not served (any more): its
    /// managers are forgotten.
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, TypeId)>;
}

/// A resource with one version.
pub struct NoOtherVersions;

impl Versions for NoOtherVersions {
    fn convert(&self, _: &Value, _: &str) -> Option<(Value, TypeId)> {
        None
    }
}

/// A resource of a registry, with its converter.
pub(super) struct Served<'a> {
    pub registry: &'a Registry,
    pub resource: &'a Resource,
}

impl Versions for Served<'_> {
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, TypeId)> {
        let to: Gvk = GroupVersion::parse(api_version)
            .ok()?
            .with_kind(&self.resource.kind);
        let ty = self.registry.schema.by_gvk(&to)?;
        let converted = self.resource.convert(object.clone(), &to).ok()?;
        Some((converted, ty))
    }
}
