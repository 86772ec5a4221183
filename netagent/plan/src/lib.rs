//! Services, endpoints, pods and nodes to links, routes and map entries; IPAM; pure.
//!
//! **Invariant:** no I/O, no clock, no randomness: time and what the kernel holds come as arguments.

mod cidr;
mod ipam;
mod names;
mod services;
mod table;

pub use cidr::{Cidr, CidrError};
pub use ipam::{Ipam, IpamError, REST};
pub use names::link_name;
pub use services::{BackendSpec, NodeView, ServiceSpec, any, key, service_specs};
pub use table::{Changes, Found, GRACE, RemovedUdp, Step, Table, TableError};
