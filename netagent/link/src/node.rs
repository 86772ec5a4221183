//! The node's own side: its addresses, its uplinks, and the routes that are the node's and not a pod's.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use crate::{
    LinkError,
    netlink::{CREATE, Message, Netlink, REPLACE},
    pod::ROUTE_PROTOCOL,
};

/// A link that a default route goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub ifindex: u32,
    pub name: String,
    pub mtu: u32,
    pub is_ipv4: bool,
    pub is_ipv6: bool,
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
    let mut netlink = Netlink::route()?;
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

/// The links of the default routes.
pub fn uplinks() -> Result<Vec<Uplink>, LinkError> {
    let mut netlink = Netlink::route()?;
    let mut found: Vec<Uplink> = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for route in routes(&mut netlink, family)? {
            if route.header.destination_prefix_length != 0
                || route.header.kind != RouteType::Unicast
                || route.header.table != RouteHeader::RT_TABLE_MAIN
            {
                continue;
            }
            for ifindex in outgoing(&route) {
                if !found.iter().any(|uplink| uplink.ifindex == ifindex) {
                    let (name, mtu) = name_and_mtu(&mut netlink, ifindex)?;
                    found.push(Uplink {
                        ifindex,
                        name,
                        mtu,
                        is_ipv4: false,
                        is_ipv6: false,
                    });
                }
                let uplink = found
                    .iter_mut()
                    .find(|uplink| uplink.ifindex == ifindex)
                    .expect("it was there or was just added");
                match family {
                    AddressFamily::Inet => uplink.is_ipv4 = true,
                    _ => uplink.is_ipv6 = true,
                }
            }
        }
    }
    Ok(found)
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

fn name_and_mtu(netlink: &mut Netlink, ifindex: u32) -> Result<(String, u32), LinkError> {
    let what = format!("look at link {ifindex}");
    let mut get = LinkMessage::default();
    get.header.index = ifindex;
    let reply = netlink.get(Message::route(
        RouteNetlinkMessage::GetLink(get),
        0,
        what.clone(),
    ))?;
    let (mut name, mut mtu) = (String::new(), 1500);
    if let RouteNetlinkMessage::NewLink(link) = reply.route(&what)? {
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(found) => name = found,
                LinkAttribute::Mtu(found) => mtu = found,
                _ => {}
            }
        }
    }
    Ok((name, mtu))
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
