//! The schema-driven walk over a plain tree.
