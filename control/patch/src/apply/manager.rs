//! The entry: one write by one manager.

use std::rc::Rc;

use kernelet_api::{
    ApiError, Gvk, Value, meta,
    resources::{Registry, Resource},
    schema::{Schema, TypeId},
};
use serde_json::Map;

use super::{
    ApplyError, ManagedFieldsError, Versions,
    blank::blank,
    conflict::Conflicts,
    last_applied,
    managed::{Managed, ManagerId, Operation},
    updater::{OnConflict, Updater},
    versions::Served,
};
use crate::{
    fields::{Path, PathElement, Set},
    number,
    typed::{Duplicates, drop_nulls, validate},
};

/// Who gets the fields that were there before anybody applied, where managers were not tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields of every object that nobody manages: the server's own, and what names the object.
const UNMANAGED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// What an apply made.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The new object, before pruning and defaulting.
    pub object: Value,
    /// Whether anything but managedFields differs from the live object.
    pub changed: bool,
}

/// Books who manages what, for one request.
pub struct FieldManager<'a> {
    schema: &'a Schema,
    gvk: Gvk,
    api_version: String,
    ty: TypeId,
    subresource: String,
    reset: Set,
    versions: Box<dyn Versions + 'a>,
    now: String,
}

impl<'a> FieldManager<'a> {
    /// For a write to `resource`, or to a subresource of it, in the version `gvk`. `now` is RFC 3339 in whole seconds.
    /// `None` when the schema doesn't know the kind.
    pub fn new(
        registry: &'a Registry,
        resource: &'a Resource,
        gvk: &Gvk,
        subresource: Option<&str>,
        now: &str,
    ) -> Option<Self> {
        let ty = registry.schema.by_gvk(gvk)?;
        let reset = resource
            .reset_fields(subresource)
            .into_iter()
            .map(|path| Path(path.split('.').map(PathElement::field).collect()))
            .collect();
        let versions = Box::new(Served { registry, resource });
        Some(Self::with_parts(
            &registry.schema,
            gvk,
            ty,
            subresource,
            reset,
            versions,
            now,
        ))
    }

    /// As [`FieldManager::new`], for a kind outside a registry.
    pub fn with_parts(
        schema: &'a Schema,
        gvk: &Gvk,
        ty: TypeId,
        subresource: Option<&str>,
        reset: Set,
        versions: Box<dyn Versions + 'a>,
        now: &str,
    ) -> Self {
        Self {
            schema,
            api_version: gvk.api_version(),
            gvk: gvk.clone(),
            ty,
            subresource: subresource.unwrap_or_default().to_owned(),
            reset,
            versions,
            now: now.to_owned(),
        }
    }

    fn updater(&self) -> Updater<'_> {
        Updater {
            schema: self.schema,
            api_version: &self.api_version,
            ty: self.ty,
            reset: &self.reset,
            versions: &*self.versions,
        }
    }

    /// An empty object of this kind: what a create starts from.
    fn blank(&self) -> Value {
        let mut object = blank(self.schema, self.ty);
        meta::set_gvk(&mut object, &self.gvk);
        object
    }

    /// Applies `patch` to the live object, or creates one from it. Conflicts are an error unless `force`d.
    pub fn apply(
        &self,
        live: Option<&Value>,
        patch: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Applied, ApplyError> {
        self.check_patch(patch)?;
        let mut managed = live.map_or(Ok(Managed::default()), Managed::of)?;
        let live = Rc::new(match live {
            Some(live) => without_managed_fields(live),
            None => {
                let mut object = Value::Object(Map::new());
                meta::set_gvk(&mut object, &self.gvk);
                object
            }
        });
        if managed.0.is_empty() {
            let blank = Rc::new(self.blank());
            self.record(&blank, &live, &mut managed, BEFORE_FIRST_APPLY)?;
            managed.cap_updaters();
        }
        let updater = self.updater();
        let shape = updater.shape();
        validate(shape, &live, Duplicates::Allowed).map_err(|source| ApplyError::Live {
            object: self.describe(&live),
            source,
        })?;

        let id = ManagerId::new(
            manager,
            Operation::Apply,
            &self.api_version,
            &self.subresource,
        );
        let attempt = |on_conflict| {
            let mut managed = managed.clone();
            let merged = updater.apply(&live, patch, &mut managed, &id, on_conflict)?;
            Ok((merged, managed))
        };
        let on_conflict = if force {
            OnConflict::Take
        } else {
            OnConflict::Refuse
        };
        let (mut object, mut managed) = match attempt(on_conflict) {
            Err(ApplyError::Conflict(Conflicts(list))) if manager == last_applied::MANAGER => {
                match last_applied::real_conflicts(&updater, &live, list) {
                    none if none.is_empty() => attempt(OnConflict::Take)?,
                    real => return Err(ApplyError::Conflict(Conflicts(real))),
                }
            }
            other => other?,
        };
        strip(&mut managed, &id);
        let changed = !number::equal(&live, &object);
        if changed && let Some(owned) = managed.0.get_mut(&id) {
            owned.time = Some(self.now.clone());
        }
        drop_nulls(shape, &mut object);
        if manager == last_applied::MANAGER {
            last_applied::renew(&mut object, patch);
        }
        managed.write(&mut object);
        Ok(Applied { object, changed })
    }

    /// Books a create (`live` is `None`), update or any patch but apply. `new` is what will be stored; its
    /// managedFields are the client's wish and are honoured as upstream does: a list resets, nothing keeps.
    ///
    /// On an error `new` has no managedFields; upstream logs it and stores the object all the same.
    pub fn update(
        &self,
        live: Option<&Value>,
        new: &mut Value,
        manager: &str,
    ) -> Result<(), ApplyError> {
        let result = self.try_update(live, new, manager);
        match &result {
            Ok(managed) => managed.write(new),
            Err(_) => {
                meta::metadata_mut(new).remove("managedFields");
            }
        }
        result.map(drop)
    }

    fn try_update(
        &self,
        live: Option<&Value>,
        new: &mut Value,
        manager: &str,
    ) -> Result<Managed, ApplyError> {
        let mut managed = self.managed_for_update(live, new);
        meta::metadata_mut(new).remove("managedFields");
        // An object that nobody tracked when it was made stays untracked until the first apply.
        if managed.0.is_empty() && live.is_some() {
            return Ok(managed);
        }
        let live = Rc::new(live.map_or_else(|| self.blank(), without_managed_fields));
        // Lent to the book-keeping, which only reads it.
        let lent = Rc::new(std::mem::take(new));
        let result = self.record(&live, &lent, &mut managed, manager);
        *new = Rc::unwrap_or_clone(lent);
        result?;
        managed.cap_updaters();
        Ok(managed)
    }

    fn managed_for_update(&self, live: Option<&Value>, new: &Value) -> Managed {
        let of_live = || {
            live.and_then(|live| Managed::of(live).ok())
                .unwrap_or_default()
        };
        if !self.subresource.is_empty() {
            return of_live();
        }
        // An explicit empty list, or a list of one empty entry, asks for a reset.
        match new.pointer("/metadata/managedFields") {
            Some(Value::Array(list)) if list.is_empty() => return Managed::default(),
            Some(Value::Array(list))
                if list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty) =>
            {
                return Managed::default();
            }
            _ => {}
        }
        // A client that doesn't know managedFields drops them without meaning it.
        match Managed::of(new) {
            Ok(managed) if !managed.0.is_empty() => managed,
            _ => of_live(),
        }
    }

    /// Books what differs between `live` and `new` as an update by `manager`.
    fn record(
        &self,
        live: &Rc<Value>,
        new: &Rc<Value>,
        managed: &mut Managed,
        manager: &str,
    ) -> Result<(), ApplyError> {
        // Under a name of its own first: an update by a known manager only adds to what it has.
        let now = ManagerId::new(
            "\0current",
            Operation::Update,
            &self.api_version,
            &self.subresource,
        );
        self.updater().update(live, new, managed, &now)?;
        strip(managed, &now);
        if let Some(mut taken) = managed.0.remove(&now) {
            let id = ManagerId::new(
                manager,
                Operation::Update,
                &self.api_version,
                &self.subresource,
            );
            if let Some(before) = managed.0.get(&id) {
                taken.set = taken.set.union(&before.set);
            }
            taken.time = Some(self.now.clone());
            managed.0.insert(id, taken);
        }
        Ok(())
    }

    fn check_patch(&self, patch: &Value) -> Result<(), ApplyError> {
        let text = |field: &str| patch.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version != self.api_version || kind != self.gvk.kind {
            return Err(ApplyError::WrongKind(printed_gvk(api_version, kind)));
        }
        if patch
            .pointer("/metadata/managedFields")
            .is_some_and(|list| !list.is_null())
        {
            return Err(ApplyError::ManagedFieldsInPatch);
        }
        validate(self.updater().shape(), patch, Duplicates::Refused).map_err(|source| {
            ApplyError::Patch {
                object: self.describe(patch),
                source,
            }
        })
    }

    /// `default/web; apps/v1, Kind=Deployment`
    fn describe(&self, object: &Value) -> String {
        let gvk = printed_gvk(&self.api_version, &self.gvk.kind);
        format!("{}/{}; {gvk}", meta::namespace(object), meta::name(object))
    }
}

/// `apps/v1, Kind=Deployment`; the core group prints as `/v1`.
fn printed_gvk(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    object
}

fn strip(managed: &mut Managed, id: &ManagerId) {
    if let Some(owned) = managed.0.get_mut(id) {
        owned.set = owned.set.difference(&Set::of_fields(UNMANAGED));
        if owned.set.is_empty() {
            managed.0.remove(id);
        }
    }
}

/// Gives `new` the managedFields of `old` where nothing but their times differs, so that a write that changes nothing
/// is seen as one.
pub fn keep_unchanged_times(old: &Value, new: &mut Value) {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields") {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
        object
    };
    if timeless(old) == timeless(new)
        && let Some(fields) = old.pointer("/metadata/managedFields")
    {
        meta::metadata_mut(new).insert("managedFields".to_owned(), fields.clone());
    }
}

impl From<ManagedFieldsError> for ApiError {
    fn from(error: ManagedFieldsError) -> ApiError {
        ApplyError::ManagedFields(error).into()
    }
}
