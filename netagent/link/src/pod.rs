//! A pod's link: one veth pair, the pod's end made directly in its namespace as `eth0`; addresses,
//! routes and permanent neighbours on both sides, so that no first packet waits for anybody.
//!
//! Everything carries whose it is: the node's end has the alias `kernelet:<instance>:<uid>:<ns>/<name>`
//! (a restarted agent and purge read it), routes carry [`ROUTE_PROTOCOL`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use nix::errno::Errno;

use crate::{
    LinkError,
    netlink::{CREATE, EXCLUSIVE, Message, Netlink, REPLACE},
    netns, node, tc,
};

/// Marks every route of ours.
pub const ROUTE_PROTOCOL: u8 = 75;

/// What pods have as their gateway; it stands for the node's end of their link.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The node's ends share one address: no two of them are on one segment.
pub const NODE_MAC: [u8; 6] = [0xee, 0xee, 0xee, 0xee, 0xee, 0xee];

const ALIAS: &str = "kernelet";
/// `IFALIASZ` less its zero byte.
const ALIAS_LENGTH: usize = 255;

/// A pod's link, wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub instance_id: String,
    pub uid: String,
    /// `namespace/name`.
    pub pod: String,
    /// The node's end.
    pub name: String,
    /// The pod's end: `eth0`, unless somebody wants another name.
    pub pod_end: String,
    /// One a family.
    pub addresses: Vec<IpAddr>,
    /// The source of what the node sends to the pod, if it has one of the family.
    pub node_addresses: Vec<IpAddr>,
    pub mtu: u32,
}

/// A pod's link, there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLinkObserved {
    pub uid: String,
    /// `namespace/name`, cut where an alias ends; the uid alone is the identity.
    pub pod: String,
    pub name: String,
    pub ifindex: u32,
    /// By the routes over it.
    pub addresses: Vec<IpAddr>,
}

/// What the data plane needs of a connected pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    pub ifindex: u32,
    pub netns_cookie: u64,
}

/// A local prefix and the IPv4 address's or the IPv6 address's last bytes: unique on the node, and the same
/// after every restart.
pub fn pod_mac(addresses: &[IpAddr]) -> [u8; 6] {
    match addresses.first() {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            [0x0a, 0x58, a, b, c, d]
        }
        Some(IpAddr::V6(v6)) => {
            let o = v6.octets();
            [0x0a, 0x59, o[12], o[13], o[14], o[15]]
        }
        None => [0x0a, 0x58, 0, 0, 0, 0],
    }
}

fn alias(link: &PodLink) -> String {
    let mut alias = format!("{ALIAS}:{}:{}:{}", link.instance_id, link.uid, link.pod);
    alias.truncate(ALIAS_LENGTH);
    alias
}

/// A program for what the pod sends, and its name.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pub program: BorrowedFd<'a>,
    pub name: &'a str,
}

/// Connects the pod, or completes what an earlier call began: a repeated call changes nothing.
///
/// The filter is attached while the link is down, and in `clsact`: there it costs nothing, while on a
/// link that is up, or by tcx, the kernel waits for a grace period of RCU with everybody's network
/// changes locked out (10 to 20 ms a pod, one after the other).
pub fn connect_pod(
    link: &PodLink,
    netns: BorrowedFd<'_>,
    filter: Option<Filter<'_>>,
) -> Result<Connected, LinkError> {
    let mut node = Netlink::route()?;
    let ifindex = match make_pair(&mut node, link, netns) {
        Ok(()) => find(&mut node, &link.name)?.map(|(index, _)| index),
        Err(error) if error.is(Errno::EEXIST) => complete_pair(&mut node, link, netns)?,
        Err(error) => return Err(error),
    };
    let ifindex = ifindex.ok_or_else(|| {
        LinkError::new(format!("find link {}, just made", link.name), Errno::ENODEV)
    })?;
    if let Some(filter) = filter {
        tc::attach(&mut node, ifindex, filter.program, filter.name)?;
    }
    // Before the pod's side is up: what it sends first must not meet a half-made node side.
    node_side(&mut node, link, ifindex)?;
    let netns_cookie = netns::in_netns(netns, || {
        pod_side(link)?;
        netns::own_cookie()
    })?;
    Ok(Connected {
        ifindex,
        netns_cookie,
    })
}

/// One request makes both ends: udev has no moment to rename or readdress them, and the pod's end
/// never exists in the node's namespace.
fn make_pair(node: &mut Netlink, link: &PodLink, netns: BorrowedFd<'_>) -> Result<(), LinkError> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(link.pod_end.clone()),
        LinkAttribute::Address(pod_mac(&link.addresses).to_vec()),
        LinkAttribute::Mtu(link.mtu),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(link.name.clone()),
        LinkAttribute::Address(NODE_MAC.to_vec()),
        LinkAttribute::Mtu(link.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let make = Message::route(
        RouteNetlinkMessage::NewLink(pair),
        CREATE | EXCLUSIVE,
        format!("make link {}", link.name),
    );
    node.apply(vec![make], |_, _| false)
}

/// Alias, no IPv6 link-local address (nothing needs it, and making one costs a second), up.
fn set_up(link: &PodLink, ifindex: u32) -> Message {
    let mut set = LinkMessage::default();
    set.header.index = ifindex;
    set.header.flags = LinkFlags::Up;
    set.header.change_mask = LinkFlags::Up;
    set.attributes = vec![
        LinkAttribute::IfAlias(alias(link)),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]),
    ];
    Message::route(
        RouteNetlinkMessage::SetLink(set),
        0,
        format!("set up link {}", link.name),
    )
}

/// A link of that name is there: ours for this pod and namespace (kept), or a remainder (made anew).
fn complete_pair(
    node: &mut Netlink,
    link: &PodLink,
    netns: BorrowedFd<'_>,
) -> Result<Option<u32>, LinkError> {
    let found = find(node, &link.name)?;
    if let Some((ifindex, found_alias)) = &found {
        let peer = netns::in_netns(netns, || {
            let mut pod = Netlink::route()?;
            Ok(find_peer(&mut pod, &link.pod_end)?.map(|(_, node_ifindex)| node_ifindex))
        })?;
        // One without an alias was left by a crash right after it was made.
        let ours = found_alias
            .as_deref()
            .is_none_or(|found| is_of(found, &link.instance_id));
        if !ours {
            return Err(LinkError::new(
                format!("make link {}, which is somebody else's", link.name),
                Errno::EEXIST,
            ));
        }
        if peer == Some(*ifindex) {
            return Ok(Some(*ifindex));
        }
        remove_all(node, &[*ifindex])?;
    }
    make_pair(node, link, netns)?;
    Ok(find(node, &link.name)?.map(|(index, _)| index))
}

fn node_side(node: &mut Netlink, link: &PodLink, ifindex: u32) -> Result<(), LinkError> {
    // What the pod sends to anywhere else is forwarded, whatever the machine's own default is. Its
    // source is checked by our own program, so that the machine's reverse path filter needn't.
    let conf = format!("/proc/sys/net/ipv4/conf/{}", link.name);
    for (key, value) in [("forwarding", "1"), ("rp_filter", "0")] {
        std::fs::write(format!("{conf}/{key}"), value)
            .map_err(|source| LinkError::new(format!("write {value} to {conf}/{key}"), source))?;
    }
    let mac = pod_mac(&link.addresses);
    let mut messages = vec![set_up(link, ifindex)];
    for address in &link.addresses {
        messages.push(neighbour(ifindex, *address, mac));
        messages.push(pod_route(link, ifindex, *address));
    }
    node.apply(messages, |_, _| false)
}

fn pod_route(link: &PodLink, ifindex: u32, address: IpAddr) -> Message {
    let mut route = route_to(address, ifindex);
    route.header.scope = RouteScope::Link;
    if let Some(source) = link
        .node_addresses
        .iter()
        .find(|source| source.is_ipv4() == address.is_ipv4())
    {
        route
            .attributes
            .push(RouteAttribute::PrefSource(RouteAddress::from(*source)));
    }
    Message::route(
        RouteNetlinkMessage::NewRoute(route),
        CREATE | REPLACE,
        format!("add the route to pod {address}"),
    )
}

/// Inside the pod's namespace.
fn pod_side(link: &PodLink) -> Result<(), LinkError> {
    let mut pod = Netlink::route()?;
    let (eth0, _) = find_peer(&mut pod, &link.pod_end)?.ok_or_else(|| {
        LinkError::new(format!("find {} in the pod", link.pod_end), Errno::ENODEV)
    })?;
    if link.addresses.iter().any(IpAddr::is_ipv6) {
        // Ours are static; a router's advertisement would add another.
        let key = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.pod_end);
        std::fs::write(&key, "0")
            .map_err(|source| LinkError::new(format!("write 0 to {key}"), source))?;
    }
    let mut messages = vec![up(1, "lo"), no_link_local(eth0)];
    for address in &link.addresses {
        messages.push(host_address(eth0, *address));
    }
    messages.push(up(eth0, &link.pod_end));
    for address in &link.addresses {
        let gateway: IpAddr = match address {
            IpAddr::V4(_) => GATEWAY_V4.into(),
            IpAddr::V6(_) => GATEWAY_V6.into(),
        };
        messages.push(neighbour(eth0, gateway, NODE_MAC));
        let mut to_gateway = route_to(gateway, eth0);
        to_gateway.header.scope = RouteScope::Link;
        messages.push(Message::route(
            RouteNetlinkMessage::NewRoute(to_gateway),
            CREATE | REPLACE,
            "add the pod's route to its gateway",
        ));
        let mut default = route_to(gateway, eth0);
        default.header.destination_prefix_length = 0;
        default.attributes = vec![
            RouteAttribute::Oif(eth0),
            RouteAttribute::Gateway(RouteAddress::from(gateway)),
            RouteAttribute::PrefSource(RouteAddress::from(*address)),
        ];
        messages.push(Message::route(
            RouteNetlinkMessage::NewRoute(default),
            CREATE | REPLACE,
            "add the pod's default route",
        ));
    }
    pod.apply(messages, |_, _| false)
}

fn up(ifindex: u32, name: &str) -> Message {
    let mut set = LinkMessage::default();
    set.header.index = ifindex;
    set.header.flags = LinkFlags::Up;
    set.header.change_mask = LinkFlags::Up;
    Message::route(
        RouteNetlinkMessage::SetLink(set),
        0,
        format!("set up {name}"),
    )
}

fn no_link_local(ifindex: u32) -> Message {
    let mut set = LinkMessage::default();
    set.header.index = ifindex;
    set.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
    )])];
    Message::route(
        RouteNetlinkMessage::SetLink(set),
        0,
        "turn off the pod's link-local address",
    )
}

fn host_address(ifindex: u32, address: IpAddr) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.scope = AddressScope::Universe;
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            // Duplicate detection would make it unusable for a second.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    Message::route(
        RouteNetlinkMessage::NewAddress(message),
        CREATE | REPLACE,
        format!("add address {address}"),
    )
}

fn neighbour(ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(v6)
        }
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Message::route(
        RouteNetlinkMessage::NewNeighbour(message),
        CREATE | REPLACE,
        format!("add the neighbour {address}"),
    )
}

/// A host route of ours in the main table.
fn route_to(address: IpAddr, ifindex: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    route.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(address)),
        RouteAttribute::Oif(ifindex),
    ];
    route
}

/// The node's end of that name: index and alias.
fn find(node: &mut Netlink, name: &str) -> Result<Option<(u32, Option<String>)>, LinkError> {
    let what = format!("find link {name}");
    let mut get = LinkMessage::default();
    get.attributes = vec![LinkAttribute::IfName(name.into())];
    match node.get(Message::route(
        RouteNetlinkMessage::GetLink(get),
        0,
        what.clone(),
    )) {
        Ok(reply) => match reply.route(&what)? {
            RouteNetlinkMessage::NewLink(link) => Ok(Some((link.header.index, link_alias(&link)))),
            _ => Ok(None),
        },
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn link_alias(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfAlias(alias) => Some(alias.clone()),
            _ => None,
        })
}

/// The pod's end: its index, and the index of its other end.
fn find_peer(pod: &mut Netlink, name: &str) -> Result<Option<(u32, u32)>, LinkError> {
    let mut get = LinkMessage::default();
    get.attributes = vec![LinkAttribute::IfName(name.into())];
    let what = "find the pod's end of its link";
    match pod.get(Message::route(RouteNetlinkMessage::GetLink(get), 0, what)) {
        Ok(reply) => match reply.route(what)? {
            RouteNetlinkMessage::NewLink(link) => {
                let peer = link
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::Link(index) => Some(*index),
                        _ => None,
                    });
                Ok(Some((link.header.index, peer.unwrap_or(0))))
            }
            _ => Ok(None),
        },
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes links, all with one wait for RCU, which takes most of the time of removing one.
fn remove_all(node: &mut Netlink, links: &[u32]) -> Result<(), LinkError> {
    /// Whatever is in this group is about to go. Nobody else uses such a number ("klet").
    const DOOMED: u32 = 0x6b6c_6574;
    let mut messages: Vec<Message> = links
        .iter()
        .map(|ifindex| {
            let mut link = LinkMessage::default();
            link.header.index = *ifindex;
            link.attributes = vec![LinkAttribute::Group(DOOMED)];
            let what = format!("mark link {ifindex} for removal");
            Message::route(RouteNetlinkMessage::SetLink(link), 0, what)
        })
        .collect();
    let mut group = LinkMessage::default();
    group.attributes = vec![LinkAttribute::Group(DOOMED)];
    messages.push(Message::route(
        RouteNetlinkMessage::DelLink(group),
        0,
        "remove the marked links",
    ));
    // One that is gone already is what was wanted.
    node.apply(messages, |_, error| {
        error.raw_os_error() == Some(libc::ENODEV)
    })
}

/// Removes pods' links, and with them both ends' addresses, routes, neighbours and programs. One that
/// isn't there, or isn't this instance's, is no error and stays as it is.
pub fn disconnect_pods(instance_id: &str, names: &[String]) -> Result<(), LinkError> {
    let mut node = Netlink::route()?;
    let mut ours = Vec::new();
    for name in names {
        if let Some((ifindex, Some(alias))) = find(&mut node, name)?
            && is_of(&alias, instance_id)
        {
            ours.push(ifindex);
        }
    }
    if ours.is_empty() {
        return Ok(());
    }
    remove_all(&mut node, &ours)
}

fn is_of(alias: &str, instance_id: &str) -> bool {
    let mut parts = alias.splitn(3, ':');
    parts.next() == Some(ALIAS) && parts.next() == Some(instance_id)
}

/// The pods' links of an instance that are there now.
pub fn pod_links(instance_id: &str) -> Result<Vec<PodLinkObserved>, LinkError> {
    let mut node = Netlink::route()?;
    let links = node.dump_route(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        "list the links",
    )?;
    let mut pods = Vec::new();
    for message in links {
        let RouteNetlinkMessage::NewLink(link) = message else {
            continue;
        };
        let Some(alias) = link_alias(&link) else {
            continue;
        };
        let mut parts = alias.splitn(4, ':');
        if parts.next() != Some(ALIAS) || parts.next() != Some(instance_id) {
            continue;
        }
        let (Some(uid), Some(pod)) = (parts.next(), parts.next()) else {
            continue;
        };
        let name = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
        pods.push(PodLinkObserved {
            uid: uid.into(),
            pod: pod.into(),
            name: name.unwrap_or_default(),
            ifindex: link.header.index,
            addresses: Vec::new(),
        });
    }
    if pods.is_empty() {
        return Ok(pods);
    }
    for (address, ifindex) in pod_routes(&mut node)? {
        if let Some(pod) = pods.iter_mut().find(|pod| pod.ifindex == ifindex) {
            pod.addresses.push(address);
        }
    }
    for pod in &mut pods {
        pod.addresses.sort();
    }
    Ok(pods)
}

/// Our host routes: destination and link.
pub fn host_routes() -> Result<Vec<(IpAddr, u32)>, LinkError> {
    pod_routes(&mut Netlink::route()?)
}

fn pod_routes(node: &mut Netlink) -> Result<Vec<(IpAddr, u32)>, LinkError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut get = RouteMessage::default();
        get.header.address_family = family;
        let what = "list the routes";
        for message in node.dump_route(RouteNetlinkMessage::GetRoute(get), what)? {
            let RouteNetlinkMessage::NewRoute(route) = message else {
                continue;
            };
            if route.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
                continue;
            }
            let (mut destination, mut oif) = (None, None);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                        destination = Some(IpAddr::from(*v4));
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                        destination = Some(IpAddr::from(*v6));
                    }
                    RouteAttribute::Oif(index) => oif = Some(*index),
                    _ => {}
                }
            }
            if let (Some(destination), Some(oif)) = (destination, oif) {
                found.push((destination, oif));
            }
        }
    }
    Ok(found)
}

/// Puts back the node's side of a pod's link, if somebody removed part of it.
pub fn restore_pod(link: &PodLink, ifindex: u32) -> Result<(), LinkError> {
    node_side(&mut Netlink::route()?, link, ifindex)
}

/// What a pod's namespace has of its link: the addresses on its end and whether it has a default route
/// over it; `None` when there is no such end.
pub fn observe_pod(
    netns: BorrowedFd<'_>,
    pod_end: &str,
) -> Result<Option<PodEndObserved>, LinkError> {
    netns::in_netns(netns, || {
        let mut pod = Netlink::route()?;
        let Some((ifindex, node_ifindex)) = find_peer(&mut pod, pod_end)? else {
            return Ok(None);
        };
        let addresses = node::addresses(&mut pod)?
            .into_iter()
            .filter(|address| address.ifindex == ifindex && address.is_global)
            .map(|address| address.address)
            .collect();
        let has_default_route = node::default_links(&mut pod)?.contains(&ifindex);
        Ok(Some(PodEndObserved {
            node_ifindex,
            addresses,
            has_default_route,
        }))
    })
}

/// The pod's side, there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEndObserved {
    pub node_ifindex: u32,
    pub addresses: Vec<IpAddr>,
    pub has_default_route: bool,
}
