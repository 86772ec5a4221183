//! Netlink, network namespaces, nftables.
