//! Holds the dependency edges against cargo metadata.
