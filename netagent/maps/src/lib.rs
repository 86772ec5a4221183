//! Loads the eBPF programs, applies map entries, pins.
