//! The service maps as they are and as they shall be: who owns which entry, which ids and slots are
//! given out, and the steps from one set to the next.
//!
//! ```text
//!  new backends ─→ their ids in a fresh extent ─→ the service names it (the commit) ─→ old backends go
//!                                                                └─ the old extent rests, then is free
//! ```
//! The order of the steps is the whole point: at every moment a reader finds a service whose extent and
//! backends are complete, so that a set of backends is swapped at once or not at all.
//!
//! **Invariant:** before `finish_sync`, no step removes anything that was found in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use kernelet_ebpf_abi::{Backend, Service, ServiceKey, capacity};

use crate::services::{BackendSpec, ServiceSpec};

/// How long a slot that is no longer named stays as it is: a program that still reads it has long
/// returned (it runs for microseconds, under RCU).
pub const GRACE: Duration = Duration::from_secs(1);

/// One change of the maps. Nothing is left to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    PutBackend {
        id: u32,
        backend: Backend,
    },
    PutExtent {
        start: u32,
        ids: Vec<u32>,
    },
    PutName {
        id: u32,
        name: String,
    },
    /// The commit.
    PutService {
        key: ServiceKey,
        service: Service,
    },
    RemoveService {
        key: ServiceKey,
    },
    RemoveBackend {
        id: u32,
    },
    RemoveName {
        id: u32,
    },
}

/// Steps in their order, and what went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub steps: Vec<Step>,
    /// UDP backends that are none any more: sockets connected to them are to be ended, once the steps
    /// are done.
    pub removed_udp: Vec<RemovedUdp>,
}

/// A UDP backend that is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedUdp {
    pub id: u32,
    pub service: u32,
    pub backend: BackendSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("{name} needs {needed} slots for its backends and the map has no room")]
    NoSlots { name: String, needed: u32 },
    #[error("{name} is one service too many: the map takes {capacity}")]
    NoService { name: String, capacity: u32 },
}

/// What was found in the kernel at start.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Each service with the ids in its extent.
    pub services: Vec<(ServiceKey, Service, Vec<u32>)>,
    pub backends: Vec<(u32, Backend)>,
    pub named: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// `None`: found in the kernel and not yet wanted by anybody.
    owner: Option<String>,
    service: Service,
    /// Unknown for what was found: written again when it is claimed.
    name: Option<String>,
    backends: BTreeMap<BackendSpec, u32>,
    /// Whether the kernel is known to hold this; if not, the next `set` writes all of it anew.
    trusted: bool,
}

/// All service entries of one instance. Times are a monotonic clock's.
#[derive(Clone, Debug)]
pub struct Table {
    entries: BTreeMap<ServiceKey, Entry>,
    owned: HashMap<String, BTreeSet<ServiceKey>>,
    slots: Slots,
    resting: VecDeque<(Duration, u32, u32)>,
    next_service: u32,
    next_backend: u32,
    service_ids: HashSet<u32>,
    backend_ids: HashSet<u32>,
    /// Found without a service that names them: left from a crash between steps.
    orphans: Vec<Step>,
}

impl Default for Table {
    fn default() -> Self {
        Self::adopt(&Found::default())
    }
}

impl Table {
    /// Starts from what the kernel holds; nothing of it has an owner yet.
    pub fn adopt(found: &Found) -> Self {
        let backends: HashMap<u32, Backend> = found.backends.iter().copied().collect();
        let mut table = Self {
            entries: BTreeMap::new(),
            owned: HashMap::new(),
            slots: Slots::new(capacity::EXTENTS),
            resting: VecDeque::new(),
            next_service: 1,
            next_backend: 1,
            service_ids: HashSet::new(),
            backend_ids: HashSet::new(),
            orphans: Vec::new(),
        };
        let mut used = HashSet::new();
        for (key, service, ids) in &found.services {
            table.slots.take(service.extent, service.count);
            table.service_ids.insert(service.id);
            let mut known = BTreeMap::new();
            for id in ids {
                if let Some(backend) = backends.get(id) {
                    known.insert(spec_of(backend), *id);
                    used.insert(*id);
                }
            }
            table.entries.insert(
                *key,
                Entry {
                    owner: None,
                    service: *service,
                    name: None,
                    backends: known,
                    trusted: true,
                },
            );
        }
        for id in backends.keys() {
            table.backend_ids.insert(*id);
            if !used.contains(id) {
                table.orphans.push(Step::RemoveBackend { id: *id });
            }
        }
        for id in &found.named {
            // Such an id stays taken until its name is gone, or a new service would lose its own.
            if table.service_ids.insert(*id) {
                table.orphans.push(Step::RemoveName { id: *id });
            }
        }
        table.next_service = table
            .service_ids
            .iter()
            .max()
            .map_or(1, |id| id.wrapping_add(1));
        table.next_backend = table
            .backend_ids
            .iter()
            .max()
            .map_or(1, |id| id.wrapping_add(1));
        table
    }

    /// Makes `owner`'s entries just `wanted`. What is already so needs no step.
    ///
    /// On an error, what could be done is in the changes and the rest stays as it was.
    pub fn set(
        &mut self,
        owner: &str,
        wanted: &[ServiceSpec],
        now: Duration,
    ) -> (Changes, Result<(), TableError>) {
        let mut changes = Changes::default();
        let mut result = Ok(());
        let keys: BTreeSet<ServiceKey> = wanted.iter().map(|spec| spec.key).collect();
        for key in self
            .owned
            .get(owner)
            .cloned()
            .unwrap_or_default()
            .difference(&keys)
        {
            // Another owner may have taken the key over meanwhile.
            if self
                .entries
                .get(key)
                .is_some_and(|entry| entry.owner.as_deref() == Some(owner))
            {
                self.remove(*key, now, &mut changes);
            }
        }
        for spec in wanted {
            if let Err(error) = self.put(owner, spec, now, &mut changes) {
                result = Err(error);
            }
        }
        let held: BTreeSet<ServiceKey> = keys
            .into_iter()
            .filter(|key| {
                self.entries
                    .get(key)
                    .is_some_and(|entry| entry.owner.as_deref() == Some(owner))
            })
            .collect();
        if held.is_empty() {
            self.owned.remove(owner);
        } else {
            self.owned.insert(owner.into(), held);
        }
        (changes, result)
    }

    /// A step of `owner`'s failed: nobody knows what the kernel holds of it. The next `set` writes all of
    /// it anew, under new ids.
    pub fn distrust(&mut self, owner: &str) {
        for entry in self.entries.values_mut() {
            if entry.owner.as_deref() == Some(owner) {
                entry.trusted = false;
            }
        }
    }

    /// Everything that is wanted has been set once: removes what nobody wants.
    pub fn finish_sync(&mut self, now: Duration) -> Changes {
        let mut changes = Changes::default();
        let stale: Vec<ServiceKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.owner.is_none())
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            self.remove(key, now, &mut changes);
        }
        for step in std::mem::take(&mut self.orphans) {
            match step {
                Step::RemoveBackend { id } => self.backend_ids.remove(&id),
                Step::RemoveName { id } => self.service_ids.remove(&id),
                _ => false,
            };
            changes.steps.push(step);
        }
        changes
    }

    /// Where an entry leads now.
    pub fn backends(&self, key: &ServiceKey) -> impl Iterator<Item = &BackendSpec> {
        self.entries
            .get(key)
            .into_iter()
            .flat_map(|entry| entry.backends.keys())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn put(
        &mut self,
        owner: &str,
        spec: &ServiceSpec,
        now: Duration,
        changes: &mut Changes,
    ) -> Result<(), TableError> {
        let steps = &mut changes.steps;
        let known = self.entries.get(&spec.key);
        let same_backends = known.is_some_and(|entry| {
            entry.trusted
                && entry.backends.len() == spec.backends.len()
                && spec.backends.iter().all(|backend| entry.backends.contains_key(backend))
                // What was found may name ids that were lost.
                && entry.service.count as usize == entry.backends.len()
        });
        let id = match known {
            Some(entry) => entry.service.id,
            None if self.entries.len() as u32 >= capacity::SERVICES => {
                return Err(TableError::NoService {
                    name: spec.name.clone(),
                    capacity: capacity::SERVICES,
                });
            }
            None => fresh(&mut self.next_service, &mut self.service_ids),
        };
        let mut service = Service {
            id,
            extent: 0,
            count: spec.backends.len() as u32,
            affinity_s: spec.affinity_s,
            flags: spec.flags,
        };
        let old = known.cloned();
        let trusted = old.as_ref().filter(|entry| entry.trusted);
        let mut backends = BTreeMap::new();
        if same_backends {
            let entry = old
                .as_ref()
                .expect("only a known entry has the same backends");
            service.extent = entry.service.extent;
            backends.clone_from(&entry.backends);
        } else {
            self.expire(now);
            let Some(extent) = self.slots.allocate(service.count) else {
                if old.is_none() {
                    self.service_ids.remove(&id);
                }
                return Err(TableError::NoSlots {
                    name: spec.name.clone(),
                    needed: service.count,
                });
            };
            service.extent = extent;
            let mut ids = Vec::with_capacity(spec.backends.len());
            for backend in &spec.backends {
                let kept = trusted
                    .and_then(|entry| entry.backends.get(backend))
                    .copied();
                let backend_id = kept.unwrap_or_else(|| {
                    let id = fresh(&mut self.next_backend, &mut self.backend_ids);
                    let value = value_of(backend, spec.key.protocol, service.id);
                    steps.push(Step::PutBackend { id, backend: value });
                    id
                });
                backends.insert(*backend, backend_id);
                ids.push(backend_id);
            }
            if !ids.is_empty() {
                steps.push(Step::PutExtent { start: extent, ids });
            }
        }
        if trusted.is_none_or(|entry| entry.name.as_ref() != Some(&spec.name)) {
            steps.push(Step::PutName {
                id,
                name: spec.name.clone(),
            });
        }
        if trusted.is_none_or(|entry| entry.service != service) {
            steps.push(Step::PutService {
                key: spec.key,
                service,
            });
        }
        if let Some(entry) = &old {
            if !same_backends {
                self.rest(entry.service.extent, entry.service.count, now);
            }
            for (backend, backend_id) in &entry.backends {
                if backends.get(backend) != Some(backend_id) {
                    self.remove_backend(*backend_id, *backend, id, spec.key.protocol, changes);
                }
            }
        }
        let entry = Entry {
            owner: Some(owner.into()),
            service,
            name: Some(spec.name.clone()),
            backends,
            trusted: true,
        };
        self.entries.insert(spec.key, entry);
        Ok(())
    }

    fn remove(&mut self, key: ServiceKey, now: Duration, changes: &mut Changes) {
        let Some(entry) = self.entries.remove(&key) else {
            return;
        };
        changes.steps.push(Step::RemoveService { key });
        for (backend, id) in &entry.backends {
            self.remove_backend(*id, *backend, entry.service.id, key.protocol, changes);
        }
        changes.steps.push(Step::RemoveName {
            id: entry.service.id,
        });
        self.service_ids.remove(&entry.service.id);
        self.rest(entry.service.extent, entry.service.count, now);
    }

    fn remove_backend(
        &mut self,
        id: u32,
        backend: BackendSpec,
        service: u32,
        protocol: u8,
        changes: &mut Changes,
    ) {
        changes.steps.push(Step::RemoveBackend { id });
        self.backend_ids.remove(&id);
        if protocol == kernelet_ebpf_abi::UDP {
            changes.removed_udp.push(RemovedUdp {
                id,
                service,
                backend,
            });
        }
    }

    fn rest(&mut self, start: u32, count: u32, now: Duration) {
        if count > 0 {
            self.resting.push_back((now + GRACE, start, count));
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some((until, start, count)) = self.resting.front().copied() {
            if until > now {
                return;
            }
            self.resting.pop_front();
            self.slots.free(start, count);
        }
    }
}

/// The next id that nobody has; ids come round only after all others.
fn fresh(next: &mut u32, used: &mut HashSet<u32>) -> u32 {
    loop {
        let id = (*next).max(1);
        *next = id.wrapping_add(1);
        if used.insert(id) {
            return id;
        }
    }
}

fn value_of(spec: &BackendSpec, protocol: u8, service: u32) -> Backend {
    Backend {
        address: spec.address.into(),
        port: spec.port.to_be(),
        protocol,
        pad: 0,
        service,
    }
}

fn spec_of(backend: &Backend) -> BackendSpec {
    BackendSpec {
        address: backend.address.into(),
        port: u16::from_be(backend.port),
    }
}

/// Free slots of the array of backend ids: start → length.
#[derive(Clone, Debug)]
struct Slots {
    free: BTreeMap<u32, u32>,
}

impl Slots {
    fn new(capacity: u32) -> Self {
        Self {
            free: BTreeMap::from([(0, capacity)]),
        }
    }

    /// First fit. An empty extent needs no slot.
    fn allocate(&mut self, count: u32) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let (start, length) = self
            .free
            .iter()
            .map(|(s, l)| (*s, *l))
            .find(|(_, length)| *length >= count)?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        Some(start)
    }

    /// Marks what was found in use.
    fn take(&mut self, start: u32, count: u32) {
        let end = start.saturating_add(count);
        let overlapping: Vec<(u32, u32)> = self
            .free
            .range(..end)
            .map(|(s, l)| (*s, *l))
            .filter(|(s, l)| s + l > start)
            .collect();
        for (s, l) in overlapping {
            self.free.remove(&s);
            if s < start {
                self.free.insert(s, start - s);
            }
            if s + l > end {
                self.free.insert(end, s + l - end);
            }
        }
    }

    fn free(&mut self, start: u32, count: u32) {
        let mut start = start;
        let mut end = start + count;
        if let Some((s, l)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && s + l == start
        {
            self.free.remove(&s);
            start = s;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests;
