//! What is served: the API's registry joined with where each resource's objects are cached and stored.
//!
//! A snapshot is immutable and swapped whole, so that router, discovery, OpenAPI and authorisation always agree.

use std::{collections::HashMap, sync::Arc};

use kernelet_api::{
    Gvk, Registry, Resource,
    codec::Outline,
    resources::{Storage, Version},
};
use kernelet_store::Key;

use crate::cache::{Index, Indexer, ROOT, ResourceCache, WatchCache};

/// One immutable view of everything that is served.
pub struct Snapshot {
    pub api: Arc<Registry>,
    served: HashMap<(String, String), Arc<Served>>,
}

/// A resource and, if its objects are stored, where.
pub struct Served {
    pub resource: Arc<Resource>,
    pub stored: Option<Stored>,
}

/// Where a resource's objects are.
pub struct Stored {
    /// What stands between [`ROOT`] and an object's key.
    pub prefix: String,
    /// The version that is stored.
    pub gvk: Gvk,
    pub cache: Arc<ResourceCache>,
    pub indexer: Indexer,
    /// `(group, path)` of each value in [`Index::fields`]: several groups may serve the same objects and name
    /// their fields differently.
    fields: Arc<Vec<(String, &'static str)>>,
    /// Distinguishes the encodings of this resource from those of another group on the same objects.
    encoding_base: u8,
}

/// The stored resources of a registry: prefix and indexer, for [`WatchCache::load`].
pub fn storages(api: &Registry) -> Vec<(String, Indexer)> {
    let mut storages: Vec<(String, Indexer)> = Vec::new();
    for resource in api.resources() {
        if let Some(prefix) = prefix(&resource.storage)
            && !storages.iter().any(|(known, _)| *known == prefix)
        {
            let (indexer, _) = indexer(api, &prefix);
            storages.push((prefix, indexer));
        }
    }
    storages
}

/// Below which keys of the store objects of that storage lie.
pub fn store_prefix(storage: &Storage) -> Option<String> {
    Some(format!("{ROOT}{}/", prefix(storage)?))
}

fn prefix(storage: &Storage) -> Option<String> {
    match storage {
        Storage::Stored {
            group, resource, ..
        } if group.is_empty() => Some(resource.clone()),
        Storage::Stored {
            group, resource, ..
        } => Some(format!("{group}/{resource}")),
        Storage::Virtual => None,
    }
}

/// The indexer of the objects below a prefix, and the names of the fields it extracts.
fn indexer(api: &Registry, below: &str) -> (Indexer, Arc<Vec<(String, &'static str)>>) {
    let sharing: Vec<Arc<Resource>> = api
        .resources()
        .filter(|resource| prefix(&resource.storage).as_deref() == Some(below))
        .cloned()
        .collect();
    let fields: Vec<(String, &'static str)> = sharing
        .iter()
        .flat_map(|resource| {
            resource
                .selectable_fields
                .iter()
                .map(|path| (resource.group.clone(), *path))
        })
        .collect();
    let sources = sharing
        .iter()
        .flat_map(|resource| resource.selectable_sources());
    let outline = Outline::of(sources.chain(Index::SOURCES));
    let indexer: Indexer = Arc::new(move |json| {
        let tree = &outline.read(json)?;
        let values = sharing.iter().flat_map(|resource| {
            resource
                .selectable_fields
                .iter()
                .map(|path| resource.selectable(tree, path).unwrap_or_default())
        });
        Ok(Index::of(tree, values.collect::<Vec<_>>()))
    });
    (indexer, Arc::new(fields))
}

impl Snapshot {
    pub fn new(api: Arc<Registry>, cache: &WatchCache) -> Snapshot {
        let served = api
            .resources()
            .map(|resource| {
                let stored = match &resource.storage {
                    Storage::Stored { gvk, group, .. } => {
                        prefix(&resource.storage).and_then(|prefix| {
                            let (indexer, fields) = indexer(&api, &prefix);
                            Some(Stored {
                                cache: cache.resource(&prefix)?,
                                prefix,
                                gvk: gvk.clone(),
                                indexer,
                                fields,
                                encoding_base: if *group == resource.group { 0 } else { 64 },
                            })
                        })
                    }
                    Storage::Virtual => None,
                };
                let served = Served {
                    resource: resource.clone(),
                    stored,
                };
                (
                    (resource.group.clone(), resource.plural.clone()),
                    Arc::new(served),
                )
            })
            .collect();
        Snapshot { api, served }
    }

    pub fn get(&self, group: &str, plural: &str) -> Option<&Arc<Served>> {
        self.served.get(&(group.to_owned(), plural.to_owned()))
    }

    pub fn served(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.served.values()
    }
}

impl Served {
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.resource.version(name)
    }

    pub fn gvk(&self, version: &str) -> Gvk {
        self.resource.gvk(version)
    }

    /// `pods` or `apps/deployments`-style names for errors.
    pub fn names(&self) -> (&str, &str) {
        (&self.resource.group, &self.resource.plural)
    }
}

impl Stored {
    /// An object's place in the cache.
    pub fn cache_key(namespace: &str, name: &str) -> String {
        if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        }
    }

    /// An object's place in the store.
    pub fn store_key(&self, cache_key: &str) -> Key {
        format!("{ROOT}{}/{cache_key}", self.prefix).into()
    }

    /// The place of a field in [`Index::fields`].
    pub fn field_index(&self, group: &str, path: &str) -> Option<usize> {
        self.fields
            .iter()
            .position(|(g, p)| g == group && *p == path)
    }

    /// The number of a version in [`crate::cache::EncodingKey`].
    pub fn encoding_version(&self, resource: &Resource, version: &str) -> u8 {
        let index = resource
            .versions
            .iter()
            .position(|v| v.name == version)
            .unwrap_or_default();
        self.encoding_base + u8::try_from(index).unwrap_or(63).min(63)
    }
}
