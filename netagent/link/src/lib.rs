//! Netlink, network namespaces, nftables.
//!
//! **Invariant:** no `ip`, `iptables` or `nft` program is ever run, and nothing is changed that does not
//! carry our mark (an alias, a route protocol, a table's name, a rule's comment).

mod diag;
mod error;
mod netlink;
mod netns;
mod nft;
mod node;
mod pod;
mod sysctl;
mod tc;
mod watch;

pub use diag::{UdpSocketObserved, connected_udp, destroy_udp};
pub use error::LinkError;
pub use netns::{in_netns, own_cookie, own_netns};
pub use nft::{
    DropChain, Firewall, Hook, Range, firewall, put_docker_accept, put_masquerade,
    remove_docker_accept, remove_table,
};
pub use node::{NodeAddress, Uplink, node_addresses, put_unreachable, remove_routes, uplinks};
pub use pod::{
    Connected, Filter, GATEWAY_V4, GATEWAY_V6, NODE_MAC, PodEndObserved, PodLink, PodLinkObserved,
    ROUTE_PROTOCOL, connect_pod, disconnect_pods, host_routes, observe_pod, pod_links, pod_mac,
    restore_pod,
};
pub use sysctl::Sysctls;
pub use tc::{Clsact, attach_filter, detach_filter};
pub use watch::{Changed, NetworkWatch};
