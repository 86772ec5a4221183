//! The maps as typed handles. One place knows each map's name, key and value.

use std::path::Path;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use kernelet_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, Config, LocalPod, Nat, Netns, Service, ServiceKey,
    ServiceName, Sticky, StickyKey, Tuple, UdpKey, UdpOrigin, Uplink,
};

use crate::LoadError;

/// Lets aya copy an `abi` type as bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<T>(pub T);

// SAFETY: only used with `abi`'s types and integers: `repr(C)`, without implicit padding (their sizes
// are asserted against the sum of their fields), valid for every bit pattern.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// Every map that is pinned, by its name in the object.
pub(crate) const NAMES: [&str; 16] = [
    "NETNS",
    "SERVICES",
    "BACKENDS",
    "EXTENTS",
    "NAMES",
    "AFFINITY",
    "UDP_ORIGIN",
    "STICKY",
    "CONNECTED",
    "PODS",
    "HOST_ADDRESSES",
    "UPLINKS",
    "NAT",
    "CONFIG",
    "FLOWS",
    "COUNTERS",
];

pub(crate) struct Hash<K, V>(HashMap<MapData, Raw<K>, Raw<V>>);

impl<K: Copy + 'static, V: Copy + 'static> Hash<K, V> {
    pub fn get(&self, key: K) -> Result<Option<V>, MapError> {
        absent(self.0.get(&Raw(key), 0)).map(|value| value.map(|Raw(value)| value))
    }

    pub fn put(&mut self, key: K, value: V) -> Result<(), MapError> {
        self.0.insert(Raw(key), Raw(value), 0)
    }

    /// Whether it was there.
    pub fn remove(&mut self, key: K) -> Result<bool, MapError> {
        absent(self.0.remove(&Raw(key))).map(|removed| removed.is_some())
    }

    /// Everything; entries that come or go meanwhile may or may not be in it.
    pub fn all(&self) -> Result<Vec<(K, V)>, MapError> {
        self.0
            .iter()
            .map(|entry| entry.map(|(Raw(key), Raw(value))| (key, value)))
            .collect()
    }
}

fn absent<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn pinned(pins: &Path, name: &'static str) -> Result<MapData, LoadError> {
    MapData::from_pin(pins.join(name))
        .map_err(|source| LoadError::step(format!("open the pinned map {name}"), source))
}

fn hash<K: Copy + 'static, V: Copy + 'static>(
    pins: &Path,
    name: &'static str,
    lru: bool,
) -> Result<Hash<K, V>, LoadError> {
    let data = pinned(pins, name)?;
    let map = if lru {
        Map::LruHashMap(data)
    } else {
        Map::HashMap(data)
    };
    HashMap::try_from(map)
        .map(Hash)
        .map_err(|source| LoadError::step(format!("open the pinned map {name}"), source))
}

macro_rules! opener {
    ($($function:ident -> $type:ty = $open:expr;)+) => {
        $(pub(crate) fn $function(pins: &Path) -> Result<$type, LoadError> {
            let open: fn(&Path) -> Result<$type, LoadError> = $open;
            open(pins)
        })+
    };
}

opener! {
    netns -> Hash<u64, Netns> = |pins| hash(pins, "NETNS", false);
    services -> Hash<ServiceKey, Service> = |pins| hash(pins, "SERVICES", false);
    backends -> Hash<u32, Backend> = |pins| hash(pins, "BACKENDS", false);
    names -> Hash<u32, ServiceName> = |pins| hash(pins, "NAMES", false);
    affinity -> Hash<AffinityKey, Affinity> = |pins| hash(pins, "AFFINITY", true);
    udp_origin -> Hash<UdpKey, UdpOrigin> = |pins| hash(pins, "UDP_ORIGIN", true);
    sticky -> Hash<StickyKey, Sticky> = |pins| hash(pins, "STICKY", true);
    pods -> Hash<Address, LocalPod> = |pins| hash(pins, "PODS", false);
    uplinks -> Hash<u32, Uplink> = |pins| hash(pins, "UPLINKS", false);
    nat -> Hash<Tuple, Nat> = |pins| hash(pins, "NAT", true);
    host_addresses -> Hash<Address, u32> = |pins| hash(pins, "HOST_ADDRESSES", false);
}

fn opened<T>(name: &'static str, map: Result<T, MapError>) -> Result<T, LoadError> {
    map.map_err(|source| LoadError::step(format!("open the pinned map {name}"), source))
}

pub(crate) fn extents(pins: &Path) -> Result<Array<MapData, u32>, LoadError> {
    opened(
        "EXTENTS",
        Array::try_from(Map::Array(pinned(pins, "EXTENTS")?)),
    )
}

pub(crate) fn config(pins: &Path) -> Result<Array<MapData, Raw<Config>>, LoadError> {
    opened(
        "CONFIG",
        Array::try_from(Map::Array(pinned(pins, "CONFIG")?)),
    )
}

pub(crate) fn flows(pins: &Path) -> Result<RingBuf<MapData>, LoadError> {
    opened(
        "FLOWS",
        RingBuf::try_from(Map::RingBuf(pinned(pins, "FLOWS")?)),
    )
}

pub(crate) fn counters(pins: &Path) -> Result<PerCpuArray<MapData, u64>, LoadError> {
    opened(
        "COUNTERS",
        PerCpuArray::try_from(Map::PerCpuArray(pinned(pins, "COUNTERS")?)),
    )
}
