//! Nodes: their pod ranges, their health, and what becomes of pods on unhealthy ones.

mod cidr;
pub(crate) mod eviction;
mod health;
pub(crate) mod ipam;
pub(crate) mod lifecycle;

pub use cidr::BadCidr;
pub(crate) use cidr::Cidr;
