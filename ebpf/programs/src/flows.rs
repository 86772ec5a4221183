//! Telling what was decided: a counter always, the whole flow while somebody listens.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use kernelet_ebpf_abi::{Flow, Reason};

use crate::tables::{CONFIG, COUNTERS, FLOWS};

/// Counts `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is this CPU's own element, alive as long as the map.
        unsafe { *counter += 1 };
    }
}

/// Whether somebody reads the ring: one load of a word that is nearly always in the cache.
#[inline(always)]
pub fn wanted() -> bool {
    match CONFIG.get(0) {
        Some(config) => {
            config.flows_until_ns != 0
                // SAFETY: no argument, no memory.
                && unsafe { bpf_ktime_get_ns() } < config.flows_until_ns
        }
        None => false,
    }
}

/// Writes the flow; when the ring is full, the reader sees it by the counters.
#[inline(always)]
pub fn emit(fill: impl FnOnce(*mut Flow)) {
    if let Some(mut entry) = FLOWS.reserve::<Flow>(0) {
        let flow = entry.as_mut_ptr();
        // SAFETY: `reserve` gave `size_of::<Flow>()` bytes that nobody else sees before `submit`; all
        // zero is a valid `Flow`.
        unsafe {
            let words = flow.cast::<u64>();
            for index in 0..size_of::<Flow>() / 8 {
                words.add(index).write_volatile(0);
            }
            (*flow).at_ns = bpf_ktime_get_ns();
        }
        fill(flow);
        entry.submit(0);
    }
}
