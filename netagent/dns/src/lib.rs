//! The cluster's DNS: names of Services and pods from memory, everything else from the host's resolvers.
//!
//! [`Records`] is what is known, kept current by the network agent; [`ServiceRecords::build`] derives a Service's part of
//! it from the API objects and is pure, and so is the lookup. [`Dns`] serves it over UDP and TCP.
//!
//! Source: "Kubernetes DNS-Based Service Discovery" 1.1.0.
//!
//! **Invariant:** a lookup takes no lock and touches one Service; a change copies one small part of the index.

mod answer;
mod config;
mod forward;
mod handler;
mod records;
mod server;
mod service;
mod sharded;

pub use config::{DnsConfig, Upstreams};
pub use records::{Records, ServiceKey};
pub use server::{Dns, DnsError};
pub use service::{Endpoint, Port, ServiceRecords};
