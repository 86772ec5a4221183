//! Services, endpoints, pods and nodes to links, routes and map entries; IPAM; pure.
//!
//! **Invariant:** no I/O, no clock, no randomness: time and what the kernel holds come as arguments.

mod cidr;

pub use cidr::{Cidr, CidrError};
