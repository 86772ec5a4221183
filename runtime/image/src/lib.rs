//! Images: load, verify, unpack, snapshot, prune.
