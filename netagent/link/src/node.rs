//! The node's own side: its addresses, its uplinks, and the routes that are the node's and not a pod's.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use crate::{
    LinkError,
    netlink::{CREATE, Message, Netlink, REPLACE},
    pod::ROUTE_PROTOCOL,
};

/// A link that leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub ifindex: u32,
    pub name: String,
    pub mtu: u32,
    pub is_ipv4: bool,
    pub is_ipv6: bool,
    /// Packets on it begin with an Ethernet header.
    pub is_ethernet: bool,
}

/// An address of the node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    pub address: IpAddr,
    pub ifindex: u32,
    /// Neither loopback nor link-local.
    pub is_global: bool,
}

pub fn node_addresses() -> Result<Vec<NodeAddress>, LinkError> {
    addresses(&mut Netlink::route()?)
}

pub(crate) fn addresses(netlink: &mut Netlink) -> Result<Vec<NodeAddress>, LinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut found = Vec::new();
    for message in netlink.dump_route(request, "list the addresses")? {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        // On a point-to-point link `Address` is the other end; `Local` is always this one.
        let local = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
        let any = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
        if let Some(address) = local.or(any) {
            found.push(NodeAddress {
                address,
                ifindex: message.header.index,
                is_global: message.header.scope == AddressScope::Universe,
            });
        }
    }
    Ok(found)
}

/// The links that lead outside: those of the default routes, and the one with the node's address.
pub fn uplinks(node_ip: IpAddr) -> Result<Vec<Uplink>, LinkError> {
    let mut netlink = Netlink::route()?;
    // By index: whether IPv4 and IPv6 go that way.
    let mut families: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for ifindex in default_links_of(&mut netlink, family)? {
            let known = families.entry(ifindex).or_default();
            known.0 |= family == AddressFamily::Inet;
            known.1 |= family == AddressFamily::Inet6;
        }
    }
    for own in addresses(&mut netlink)?
        .iter()
        .filter(|own| own.address == node_ip)
    {
        let known = families.entry(own.ifindex).or_default();
        known.0 |= node_ip.is_ipv4();
        known.1 |= node_ip.is_ipv6();
    }
    let mut found = Vec::new();
    for (ifindex, (is_ipv4, is_ipv6)) in families {
        let link = look_at(&mut netlink, ifindex)?;
        if link.header.flags.contains(LinkFlags::Loopback) {
            continue;
        }
        let mut uplink = Uplink {
            ifindex,
            name: String::new(),
            mtu: 1500,
            is_ipv4,
            is_ipv6,
            is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => uplink.name = name,
                LinkAttribute::Mtu(mtu) => uplink.mtu = mtu,
                _ => {}
            }
        }
        found.push(uplink);
    }
    Ok(found)
}

/// The links of the default routes of both families.
pub(crate) fn default_links(netlink: &mut Netlink) -> Result<Vec<u32>, LinkError> {
    let mut all = default_links_of(netlink, AddressFamily::Inet)?;
    all.extend(default_links_of(netlink, AddressFamily::Inet6)?);
    Ok(all)
}

fn default_links_of(netlink: &mut Netlink, family: AddressFamily) -> Result<Vec<u32>, LinkError> {
    Ok(routes(netlink, family)?
        .iter()
        .filter(|route| {
            route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && route.header.table == RouteHeader::RT_TABLE_MAIN
        })
        .flat_map(outgoing)
        .collect())
}

fn outgoing(route: &RouteMessage) -> Vec<u32> {
    let mut all = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => all.push(*index),
            RouteAttribute::MultiPath(hops) => {
                all.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    all
}

fn routes(netlink: &mut Netlink, family: AddressFamily) -> Result<Vec<RouteMessage>, LinkError> {
    let mut get = RouteMessage::default();
    get.header.address_family = family;
    let replies = netlink.dump_route(RouteNetlinkMessage::GetRoute(get), "list the routes")?;
    Ok(replies
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
        .collect())
}

fn look_at(netlink: &mut Netlink, ifindex: u32) -> Result<LinkMessage, LinkError> {
    let what = format!("look at link {ifindex}");
    let mut get = LinkMessage::default();
    get.header.index = ifindex;
    let reply = netlink.get(Message::route(
        RouteNetlinkMessage::GetLink(get),
        0,
        what.clone(),
    ))?;
    match reply.route(&what)? {
        RouteNetlinkMessage::NewLink(link) => Ok(link),
        _ => Err(LinkError::new(what, nix::errno::Errno::ENODEV)),
    }
}

/// What is sent into `network` and to nothing more precise in it fails at once and never leaves the
/// machine: addresses of Services that no hook translated, addresses of pods that are gone.
pub fn put_unreachable(network: IpAddr, prefix: u8) -> Result<(), LinkError> {
    let what = format!("add the unreachable route {network}/{prefix}");
    let message = RouteNetlinkMessage::NewRoute(unreachable(network, prefix));
    Netlink::route()?.apply(
        vec![Message::route(message, CREATE | REPLACE, what)],
        |_, _| false,
    )
}

fn unreachable(network: IpAddr, prefix: u8) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = if network.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    route.header.destination_prefix_length = prefix;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    route.header.kind = RouteType::Unreachable;
    route.attributes = vec![RouteAttribute::Destination(RouteAddress::from(network))];
    route
}

/// Removes every route of ours from the calling thread's namespace.
pub fn remove_routes() -> Result<(), LinkError> {
    let mut netlink = Netlink::route()?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let ours = routes(&mut netlink, family)?
            .into_iter()
            .filter(|route| route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL))
            .map(|route| {
                Message::route(
                    RouteNetlinkMessage::DelRoute(route),
                    0,
                    "remove a route of ours",
                )
            })
            .collect();
        netlink.apply(ours, |_, error| error.raw_os_error() == Some(libc::ESRCH))?;
    }
    Ok(())
}
