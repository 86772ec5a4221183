//! Netlink, network namespaces, nftables.

mod error;

pub use error::LinkError;
