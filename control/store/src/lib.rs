//! Revisioned key-value store with etcd's semantics.
