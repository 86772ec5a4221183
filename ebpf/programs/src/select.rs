//! Which backend of a service: any, or the one that a client was given before.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use kernelet_ebpf_abi::{Address, Affinity, AffinityKey, Backend, Reason, Service, ServiceKey};

use crate::{
    flows,
    tables::{AFFINITY, BACKENDS, EXTENTS, SERVICES},
};

#[inline(always)]
pub fn service(key: &ServiceKey) -> Option<Service> {
    // SAFETY: `SERVICES` isn't preallocated, so that the element stays whole while it is copied.
    unsafe { SERVICES.get(key) }.copied()
}

#[inline(always)]
pub fn backend(id: u32) -> Option<&'static Backend> {
    // SAFETY: `BACKENDS` isn't preallocated: an element that was deleted stays whole until the
    // program, an RCU reader, has returned.
    unsafe { BACKENDS.get(id).map(|backend| &*(backend as *const Backend)) }
}

#[inline(always)]
pub fn any(service: &Service) -> Option<(u32, &'static Backend)> {
    if service.count == 0 {
        return None;
    }
    // SAFETY: no argument, no memory.
    let random = unsafe { bpf_get_prandom_u32() };
    let id = *EXTENTS.get(service.extent.wrapping_add(random % service.count))?;
    backend(id).map(|backend| (id, backend))
}

/// A client on the socket layer: its namespace has the address that its packets are going to have.
#[inline(always)]
pub fn by_netns(netns: u64, service: u32) -> AffinityKey {
    AffinityKey {
        client: Address([netns as u32, (netns >> 32) as u32, 0, 0]),
        service,
        by_cookie: 1,
    }
}

#[inline(always)]
pub fn affine(key: AffinityKey, service: &Service) -> Option<&'static Backend> {
    // SAFETY: no argument, no memory.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(affinity) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: the pointer is the map's element; the words are read and written whole.
        unsafe {
            let age = now.wrapping_sub((*affinity).last_ns);
            if age < u64::from(service.affinity_s) * 1_000_000_000
                && let Some(backend) = backend((*affinity).backend)
                && backend.service == service.id
            {
                (*affinity).last_ns = now;
                return Some(backend);
            }
        }
    }
    let (id, backend) = any(service)?;
    let value = Affinity { backend: id, pad: 0, last_ns: now };
    if AFFINITY.insert(key, value, 0).is_err() {
        flows::count(Reason::NoMemory);
    }
    Some(backend)
}
