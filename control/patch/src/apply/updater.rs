//! The heart of apply: which fields go to whom. Knows nothing of times or wire forms.

use std::{collections::BTreeMap, rc::Rc};

use kernelet_api::{
    Value,
    schema::{Schema, TypeId},
};

use super::{
    ApplyError, Conflict, Versions,
    conflict::Conflicts,
    managed::{Managed, ManagerId, Owned},
};
use crate::{
    fields::Set,
    typed::{Comparison, Shape, TypedError, compare, field_set, merge, reconcile, remove},
};

/// What one write needs to know.
pub(super) struct Updater<'a> {
    pub schema: &'a Schema,
    /// The version of the request, and its type.
    pub api_version: &'a str,
    pub ty: TypeId,
    /// Fields that this request doesn't write (the status on the main resource).
    pub reset: &'a Set,
    pub versions: &'a dyn Versions,
}

/// What to do where others manage a field that changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnConflict {
    Refuse,
    Take,
}

/// An object in one version. Cheap to clone: most objects have one version only, and many managers.
#[derive(Clone)]
struct Versioned<'s> {
    value: Rc<Value>,
    shape: Shape<'s>,
    api_version: String,
}

/// What a write did, in one version.
struct Changes {
    /// Added or modified.
    written: Set,
    removed: Set,
}

impl Changes {
    fn of(comparison: &Comparison) -> Self {
        Self {
            written: comparison.modified.union(&comparison.added),
            removed: comparison.removed.clone(),
        }
    }
}

impl<'a> Updater<'a> {
    pub(super) fn shape(&self) -> Shape<'a> {
        Shape::of(self.schema, self.ty)
    }

    fn own(&self, value: Rc<Value>) -> Versioned<'a> {
        Versioned {
            value,
            shape: self.shape(),
            api_version: self.api_version.to_owned(),
        }
    }

    fn convert(&self, object: &Versioned<'a>, api_version: &str) -> Option<Versioned<'a>> {
        if object.api_version == api_version {
            return Some(object.clone());
        }
        let (value, ty) = self.versions.convert(&object.value, api_version)?;
        Some(Versioned {
            value: Rc::new(value),
            shape: Shape::of(self.schema, ty),
            api_version: api_version.to_owned(),
        })
    }

    /// Merges `config` into `live` for the applier `id`. Answers the new object and whether it differs.
    pub(super) fn apply(
        &self,
        live: &Rc<Value>,
        config: &Value,
        managed: &mut Managed,
        id: &ManagerId,
        on_conflict: OnConflict,
    ) -> Result<Value, ApplyError> {
        let live = self.own(live.clone());
        self.reconcile(&live, managed);
        let shape = self.shape();
        let merged = merge(shape, Some(&live.value), Some(config))
            .map_err(ApplyError::Merge)?
            .unwrap_or(Value::Null);
        let set = field_set(shape, config)
            .map_err(ApplyError::Merge)?
            .recursive_difference(self.reset);
        let owned = Owned {
            set,
            api_version: self.api_version.to_owned(),
            time: None,
        };
        let time = managed.0.get(id).and_then(|owned| owned.time.clone());
        let last = managed.0.insert(id.clone(), Owned { time, ..owned });
        let pruned = match last {
            Some(last) if !last.set.is_empty() => {
                self.prune(self.own(Rc::new(merged)), managed, &last)
            }
            _ => Ok(self.own(Rc::new(merged))),
        }
        .map_err(ApplyError::Compare)?;
        self.hand_over(&live, &pruned, managed, id, on_conflict)?;
        Ok(Rc::unwrap_or_clone(pruned.value))
    }

    /// Gives `id` what `new` changed, and takes it from everybody else.
    pub(super) fn update(
        &self,
        live: &Rc<Value>,
        new: &Rc<Value>,
        managed: &mut Managed,
        id: &ManagerId,
    ) -> Result<(), ApplyError> {
        let (live, new) = (self.own(live.clone()), self.own(new.clone()));
        self.reconcile(&live, managed);
        let changes = self.hand_over(&live, &new, managed, id, OnConflict::Take)?;
        let before = managed
            .0
            .remove(id)
            .map(|owned| owned.set)
            .unwrap_or_default();
        let set = before
            .difference(&changes.removed)
            .union(&changes.modified)
            .union(&changes.added)
            .recursive_difference(self.reset);
        if !set.is_empty() {
            let api_version = self.api_version.to_owned();
            managed.0.insert(
                id.clone(),
                Owned {
                    set,
                    api_version,
                    time: None,
                },
            );
        }
        Ok(())
    }

    /// Brings stored sets in line with the schema of today; managers of vanished versions are forgotten.
    fn reconcile(&self, live: &Versioned<'a>, managed: &mut Managed) {
        managed
            .0
            .retain(|_, owned| match self.convert(live, &owned.api_version) {
                Some(live) => {
                    if let Some(set) = reconcile(live.shape, &owned.set) {
                        owned.set = set;
                    }
                    true
                }
                None => false,
            });
    }

    /// Takes what changes between `live` and `new` from all managers but `id`.
    fn hand_over(
        &self,
        live: &Versioned<'a>,
        new: &Versioned<'a>,
        managed: &mut Managed,
        id: &ManagerId,
        on_conflict: OnConflict,
    ) -> Result<Comparison, ApplyError> {
        let own = compare(live.shape, &live.value, &new.value)
            .map_err(ApplyError::Compare)?
            .without(self.reset);
        let mut changes: BTreeMap<String, Changes> = BTreeMap::new();
        changes.insert(self.api_version.to_owned(), Changes::of(&own));

        let mut conflicts: BTreeMap<ManagerId, Set> = BTreeMap::new();
        let mut vanished = Vec::new();
        for (other, owned) in managed.0.iter().filter(|(other, _)| *other != id) {
            if !changes.contains_key(&owned.api_version) {
                let live = self.convert(live, &owned.api_version);
                let new = self.convert(new, &owned.api_version);
                let (Some(live), Some(new)) = (live, new) else {
                    vanished.push(other.clone());
                    continue;
                };
                let compared =
                    compare(live.shape, &live.value, &new.value).map_err(ApplyError::Compare)?;
                let compared = Changes::of(&compared.without(self.reset));
                changes.insert(owned.api_version.clone(), compared);
            }
            let taken = owned.set.intersection(&changes[&owned.api_version].written);
            if !taken.is_empty() {
                conflicts.insert(other.clone(), taken);
            }
        }
        if on_conflict == OnConflict::Refuse && !conflicts.is_empty() {
            let list = conflicts
                .into_iter()
                .flat_map(|(manager, set)| {
                    set.paths().into_iter().map(move |path| Conflict {
                        manager: manager.clone(),
                        path,
                    })
                })
                .collect();
            return Err(ApplyError::Conflict(Conflicts(list)));
        }
        managed.0.retain(|other, _| !vanished.contains(other));
        for (other, owned) in managed.0.iter_mut().filter(|(other, _)| *other != id) {
            if let Some(taken) = conflicts.get(other) {
                owned.set = owned.set.difference(taken);
            }
            let removed = &changes[&owned.api_version].removed;
            if !removed.is_empty() {
                owned.set = owned.set.difference(removed);
            }
        }
        managed.drop_empty();
        Ok(own)
    }

    /// Removes what the applier gave up: fields that it applied last time, doesn't apply now, and nobody else manages.
    fn prune(
        &self,
        merged: Versioned<'a>,
        managed: &Managed,
        last: &Owned,
    ) -> Result<Versioned<'a>, TypedError> {
        let Some(merged) = self.convert(&merged, &last.api_version) else {
            return Ok(merged);
        };
        let shape = merged.shape;
        let last_set = last.set.with_named_fields(Some(shape));
        let pruned = Versioned {
            value: Rc::new(remove(shape, &merged.value, &last_set)),
            ..merged.clone()
        };
        let pruned = self.add_back_owned(&merged, pruned, managed)?;
        // Only what this applier had owned may go: what nobody owns stays.
        let Some(pruned) = self.convert(&pruned, &last.api_version) else {
            return Ok(merged);
        };
        let kept = field_set(shape, &pruned.value)?.with_named_fields(Some(shape));
        let all = field_set(shape, &merged.value)?.with_named_fields(Some(shape));
        let gone = all.difference(&kept).intersection(&last_set);
        let pruned = Versioned {
            value: Rc::new(remove(shape, &merged.value, &gone)),
            ..merged
        };
        Ok(self.convert(&pruned, self.api_version).unwrap_or(pruned))
    }

    /// Puts back what was removed but is managed by somebody, version by version.
    fn add_back_owned(
        &self,
        merged: &Versioned<'a>,
        mut pruned: Versioned<'a>,
        managed: &Managed,
    ) -> Result<Versioned<'a>, TypedError> {
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for owned in managed.0.values() {
            let set = by_version.entry(&owned.api_version).or_default();
            *set = set.union(&owned.set);
        }
        // The version at hand first: a field that conversion needs may be among those to be put back.
        let mut order: Vec<&str> = by_version.keys().copied().collect();
        order.sort_by_key(|version| *version != merged.api_version);
        let mut merged = merged.clone();
        for version in order {
            let (Some(all), Some(rest)) = (
                self.convert(&merged, version),
                self.convert(&pruned, version),
            ) else {
                continue;
            };
            let shape = all.shape;
            let all_set = field_set(shape, &all.value)?.with_named_fields(Some(shape));
            let rest_set = field_set(shape, &rest.value)?.with_named_fields(Some(shape));
            let wanted = by_version[version].with_named_fields(Some(shape));
            let gone = all_set.difference(&rest_set.union(&wanted));
            pruned = Versioned {
                value: Rc::new(remove(shape, &all.value, &gone)),
                ..all.clone()
            };
            merged = all;
        }
        Ok(pruned)
    }
}
