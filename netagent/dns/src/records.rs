//! Everything the cluster's DNS knows, updated Service by Service.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{service::ServiceRecords, sharded::Sharded};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
}

impl ServiceKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// A name that an address leads back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub service: ServiceKey,
    pub host: Option<String>,
}

/// A handle; clones share the records.
#[derive(Clone)]
pub struct Records(Arc<Inner>);

struct Inner {
    services: Sharded<ServiceKey, Arc<ServiceRecords>>,
    /// How many Services a namespace has: a namespace with one exists as a name.
    namespaces: Sharded<String, usize>,
    pointers: Sharded<IpAddr, Arc<Vec<Pointer>>>,
    synced: AtomicBool,
    writing: Mutex<()>,
}

impl Default for Records {
    fn default() -> Self {
        Self::new()
    }
}

impl Records {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            services: Sharded::new(),
            namespaces: Sharded::new(),
            pointers: Sharded::new(),
            synced: AtomicBool::new(false),
            writing: Mutex::new(()),
        }))
    }

    /// Says that all Services have been entered once. Until then a name that isn't known is answered with a failure,
    /// which clients try again, and not with "doesn't exist", which they remember.
    pub fn set_synced(&self) {
        self.0.synced.store(true, Ordering::Release);
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.0.synced.load(Ordering::Acquire)
    }

    /// Enters, replaces or (with `None`) removes a Service.
    pub fn set(&self, key: &ServiceKey, records: Option<ServiceRecords>) {
        let _writing = self.lock();
        let new = records.map(Arc::new);
        let old = self.0.services.set(key, new.clone());
        if old == new {
            return;
        }
        let count = self.0.namespaces.get(&key.namespace).unwrap_or(0);
        let after = count + usize::from(new.is_some()) - usize::from(old.is_some());
        if after != count {
            self.0
                .namespaces
                .set(&key.namespace, (after > 0).then_some(after));
        }
        let reverse = |records: &Option<Arc<ServiceRecords>>| {
            records
                .as_deref()
                .map(ServiceRecords::reverse)
                .unwrap_or_default()
        };
        let (before, now) = (reverse(&old), reverse(&new));
        for (ip, host) in before.iter().filter(|pointer| !now.contains(pointer)) {
            let gone = Pointer {
                service: key.clone(),
                host: host.clone(),
            };
            self.change_pointers(*ip, |pointers| pointers.retain(|pointer| *pointer != gone));
        }
        for (ip, host) in now.iter().filter(|pointer| !before.contains(pointer)) {
            let added = Pointer {
                service: key.clone(),
                host: host.clone(),
            };
            self.change_pointers(*ip, |pointers| pointers.push(added.clone()));
        }
    }

    fn change_pointers(&self, ip: IpAddr, change: impl FnOnce(&mut Vec<Pointer>)) {
        let mut pointers = self
            .0
            .pointers
            .get(&ip)
            .map(|known| Vec::clone(&known))
            .unwrap_or_default();
        change(&mut pointers);
        self.0
            .pointers
            .set(&ip, (!pointers.is_empty()).then(|| Arc::new(pointers)));
    }

    /// The lock guards no data of its own; a writer that panicked has left each map whole.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Arc<ServiceRecords>> {
        self.0.services.get(key)
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.0.namespaces.get(&namespace.to_owned()).is_some()
    }

    pub(crate) fn pointers(&self, ip: IpAddr) -> Option<Arc<Vec<Pointer>>> {
        self.0.pointers.get(&ip)
    }
}
