//! The maps. Their names and layouts are the contract with the agent (`ebpf/abi`).

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use kernelet_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Config, Connected, LocalPod, Nat, Netns, Reason, Service,
    ServiceKey, ServiceName, Sticky, StickyKey, Tuple, UdpKey, UdpOrigin, Uplink, capacity,
};

#[map]
pub static NETNS: HashMap<u64, Netns> =
    HashMap::with_max_entries(capacity::NETNS, BPF_F_NO_PREALLOC);

// Not preallocated: a preallocated hash hands a reader an element that was freed and given to another
// key while it is being read; these are freed only after all readers are gone.
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> =
    HashMap::with_max_entries(capacity::SERVICES, BPF_F_NO_PREALLOC);

#[map]
pub static BACKENDS: HashMap<u32, Backend> =
    HashMap::with_max_entries(capacity::BACKENDS, BPF_F_NO_PREALLOC);

#[map]
pub static EXTENTS: Array<u32> = Array::with_max_entries(capacity::EXTENTS, 0);

/// Only views read it.
#[map]
pub static NAMES: HashMap<u32, ServiceName> =
    HashMap::with_max_entries(capacity::SERVICES, BPF_F_NO_PREALLOC);

#[map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(capacity::AFFINITY, 0);

#[map]
pub static UDP_ORIGIN: LruHashMap<UdpKey, UdpOrigin> =
    LruHashMap::with_max_entries(capacity::UDP, 0);

#[map]
pub static STICKY: LruHashMap<StickyKey, Sticky> = LruHashMap::with_max_entries(capacity::UDP, 0);

#[btf_map]
pub static CONNECTED: SkStorage<Connected> = SkStorage::new();

#[map]
pub static PODS: HashMap<Address, LocalPod> =
    HashMap::with_max_entries(capacity::PODS, BPF_F_NO_PREALLOC);

/// The node's own addresses.
#[map]
pub static HOST_ADDRESSES: HashMap<Address, u32> =
    HashMap::with_max_entries(capacity::HOST_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub static UPLINKS: HashMap<u32, Uplink> =
    HashMap::with_max_entries(capacity::UPLINKS, BPF_F_NO_PREALLOC);

#[map]
pub static NAT: LruHashMap<Tuple, Nat> = LruHashMap::with_max_entries(capacity::NAT, 0);

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub static FLOWS: RingBuf = RingBuf::with_byte_size(capacity::FLOW_BYTES, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
