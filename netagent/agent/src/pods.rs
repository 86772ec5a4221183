//! Attaching and detaching pods: addresses, links, and the pods' entries in the data plane.
//!
//! Each step may be the last one before a crash, and each can be repeated: what is there is found by
//! the link's alias and the routes over it, never by a file.

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use kernelet_attach::{AttachError, AttachRequest, Attached, PodId, Protocol};
use kernelet_ebpf_abi::{NetnsKind, TCP, UDP, service_flags};
use kernelet_link::{
    Connected, Filter, LinkError, PodLink, connect_pod, disconnect_pods, pod_links,
};
use kernelet_maps::PacketProgram;
use kernelet_net_plan::{BackendSpec, IpamError, ServiceSpec, any, key, link_name};
use tracing::{info, warn};

use crate::{
    hooks,
    kernel::{Kernel, Pod},
};

/// What all pods of the node share.
#[derive(Clone, Debug)]
pub struct PodDefaults {
    pub instance_id: String,
    pub node_ip: IpAddr,
    pub mtu: u32,
}

fn step<E: std::error::Error + Send + Sync + 'static>(
    step: &'static str,
    pod: &PodId,
) -> impl FnOnce(E) -> AttachError {
    let pod = format!("{}/{}", pod.namespace, pod.name);
    move |source| AttachError::Step {
        step,
        pod,
        source: Box::new(source),
    }
}

fn service_owner(uid: &str) -> String {
    // No Service's owner name begins so: a namespace has no '#'.
    format!("#pod:{uid}")
}

/// Connects the pod. When it answers, the pod's namespace is in the data plane's maps.
pub fn attach(
    kernel: &Kernel,
    defaults: &PodDefaults,
    request: AttachRequest,
) -> Result<Attached, AttachError> {
    let uid = request.pod.uid.clone();
    let label = format!("{}/{}", request.pod.namespace, request.pod.name);
    let addresses = {
        let now = kernel.now();
        let mut pods = kernel.pods();
        match pods.ipam.allocate(&uid, &request.wanted_ips, now) {
            Ok(addresses) => addresses,
            Err(IpamError::NoRange) => {
                return Err(AttachError::NotReady {
                    reason: "the node has no pod address range yet (spec.podCIDRs)".into(),
                });
            }
            Err(IpamError::Full(range)) => {
                return Err(AttachError::NoAddress {
                    range: range.to_string(),
                    pod: label,
                });
            }
            Err(error @ IpamError::Taken { .. }) => {
                return Err(step("choose an address", &request.pod)(error));
            }
        }
    };
    let link = PodLink {
        instance_id: defaults.instance_id.clone(),
        uid: uid.clone(),
        pod: label,
        name: link_name(&uid),
        pod_end: "eth0".into(),
        addresses: addresses.clone(),
        node_addresses: vec![defaults.node_ip],
        mtu: defaults.mtu,
    };
    let host_ports =
        host_ports(&request, &addresses).map_err(step("open the host ports", &request.pod))?;
    let connected = wire(kernel, &link, &request.netns)
        .map_err(step("connect the pod's network namespace", &request.pod))?;
    kernel
        .set_services(&service_owner(&uid), &host_ports)
        .map_err(step("open the host ports", &request.pod))?;
    let attached = Attached {
        ips: addresses,
        host_link: link.name.clone(),
    };
    kernel.pods().attached.insert(
        uid,
        Pod {
            id: request.pod,
            link,
            ifindex: connected.ifindex,
            netns_cookie: connected.netns_cookie,
            netns: Some(request.netns),
        },
    );
    kernel.netns_reached(connected.netns_cookie);
    Ok(attached)
}

/// Makes or completes the link, with its program, and enters the pod into the data plane.
fn wire(kernel: &Kernel, link: &PodLink, netns: &OwnedFd) -> Result<Connected, WireError> {
    // The program stays loaded as long as the data plane, whose lock isn't held meanwhile.
    let program = kernel
        .packet_program(PacketProgram::FromPod)
        .map_err(WireError::Program)?;
    let filter = Filter {
        program: program.as_fd(),
        name: PacketProgram::FromPod.name(),
    };
    let connected = connect_pod(link, netns.as_fd(), Some(filter))?;
    let mut plane = kernel.plane();
    // The namespace first: a pod that can be reached must be able to answer by Services too.
    plane.put_netns(connected.netns_cookie, NetnsKind::Pod)?;
    for address in &link.addresses {
        plane.put_pod(*address, connected.ifindex, connected.netns_cookie)?;
    }
    Ok(connected)
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("take the program for the pod's packets")]
    Program(#[source] std::io::Error),
    #[error("make the link")]
    Link(#[from] LinkError),
    #[error("enter the pod into the data plane")]
    Entry(#[from] kernelet_maps::EntryError),
}

/// Somebody removed a live pod's link: it is made anew.
pub fn rewire(kernel: &Kernel, instance_id: &str, uid: &str) -> Result<(), WireError> {
    let known = kernel
        .pods()
        .attached
        .get(uid)
        .and_then(|pod| Some((pod.link.clone(), pod.netns.clone()?)));
    // Without its namespace's descriptor, the node will attach it again and so repair it.
    let Some((link, netns)) = known else {
        return Ok(());
    };
    let connected = wire(kernel, &link, &netns)?;
    let still_attached = match kernel.pods().attached.get_mut(uid) {
        Some(pod) => {
            pod.ifindex = connected.ifindex;
            true
        }
        None => false,
    };
    if !still_attached {
        // Detached meanwhile: what was just made is nobody's.
        let mut plane = kernel.plane();
        for address in &link.addresses {
            plane.remove_pod(*address)?;
        }
        plane.remove_netns(connected.netns_cookie)?;
        drop(plane);
        disconnect_pods(instance_id, &[link.name])?;
    }
    Ok(())
}

/// A host port is a virtual address of its own: the node's, with one backend.
fn host_ports(
    request: &AttachRequest,
    addresses: &[IpAddr],
) -> Result<Vec<ServiceSpec>, HostPortError> {
    let mut specs = Vec::new();
    for port in &request.host_ports {
        let protocol = match port.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => return Err(HostPortError::Sctp(port.host_port)),
        };
        for address in addresses {
            let at = match port.host_ip {
                Some(ip) if ip.is_unspecified() => any(address.is_ipv4()),
                Some(ip) if ip.is_ipv4() == address.is_ipv4() => ip,
                Some(_) => continue,
                None => any(address.is_ipv4()),
            };
            let backend = BackendSpec {
                address: *address,
                port: port.container_port,
            };
            specs.push(ServiceSpec {
                key: key(at, port.host_port, protocol),
                name: format!(
                    "{}/{}:{}",
                    request.pod.namespace, request.pod.name, port.host_port
                ),
                affinity_s: 0,
                flags: service_flags::HOST_PORT,
                backends: [backend].into(),
            });
        }
    }
    Ok(specs)
}

#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    #[error("host port {0} is for SCTP, which is not routed")]
    Sctp(u16),
}

/// Takes the pod out of the data plane; its link is to go next, then `forget` ends it.
pub fn withdraw(kernel: &Kernel, pod: &PodId) -> Result<(), AttachError> {
    kernel
        .set_services(&service_owner(&pod.uid), &[])
        .map_err(step("close the host ports", pod))?;
    let addresses: Vec<IpAddr> = kernel.pods().ipam.of(&pod.uid).collect();
    let known = kernel
        .pods()
        .attached
        .get(&pod.uid)
        .map(|known| known.netns_cookie);
    let mut plane = kernel.plane();
    for address in &addresses {
        plane
            .remove_pod(*address)
            .map_err(step("remove the address", pod))?;
    }
    if let Some(cookie) = known {
        plane
            .remove_netns(cookie)
            .map_err(step("remove the network namespace", pod))?;
    }
    drop(plane);
    // Not one whose routes are put back when they go.
    kernel.pods().attached.remove(&pod.uid);
    Ok(())
}

/// The link is gone, and nothing answers under the address any more.
pub fn forget(kernel: &Kernel, pod: &PodId) {
    let now = kernel.now();
    kernel.pods().ipam.release(&pod.uid, now);
}

/// After a restart: claims what is attached, gives the links the new program, and clears the data
/// plane of pods whose links are gone.
pub fn adopt(kernel: &Kernel, defaults: &PodDefaults) -> Result<(), AdoptError> {
    let links = pod_links(&defaults.instance_id)?;
    let known: std::collections::HashMap<IpAddr, u64> = kernel
        .plane()
        .pods()?
        .into_iter()
        .map(|(address, _, cookie)| (address, cookie))
        .collect();
    let mut pods = kernel.pods();
    for found in links {
        for address in &found.addresses {
            if let Err(error) = pods.ipam.claim(*address, &found.uid) {
                warn!(%error, link = found.name, "two pods have one address");
            }
        }
        let attached = hooks::attach_pod(&kernel.plane(), found.ifindex);
        if let Err(error) = attached {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                link = found.name,
                "cannot attach the program to a pod's link"
            );
        }
        let cookie = found
            .addresses
            .iter()
            .find_map(|address| known.get(address))
            .copied();
        let (namespace, name) = found.pod.split_once('/').unwrap_or(("", &found.pod));
        let id = PodId {
            uid: found.uid.clone(),
            namespace: namespace.into(),
            name: name.into(),
        };
        let link = PodLink {
            instance_id: defaults.instance_id.clone(),
            uid: found.uid.clone(),
            pod: found.pod.clone(),
            name: found.name,
            pod_end: "eth0".into(),
            addresses: found.addresses,
            node_addresses: vec![defaults.node_ip],
            mtu: defaults.mtu,
        };
        let pod = Pod {
            id,
            link,
            ifindex: found.ifindex,
            netns_cookie: cookie.unwrap_or(0),
            netns: None,
        };
        pods.attached.insert(found.uid, pod);
    }
    let addresses: std::collections::HashSet<IpAddr> = pods
        .attached
        .values()
        .flat_map(|pod| pod.link.addresses.iter().copied())
        .collect();
    let cookies: std::collections::HashSet<u64> =
        pods.attached.values().map(|pod| pod.netns_cookie).collect();
    info!(pods = pods.attached.len(), "pods found attached");
    drop(pods);
    let mut plane = kernel.plane();
    for (address, _, _) in plane.pods()? {
        if !addresses.contains(&address) {
            plane.remove_pod(address)?;
        }
    }
    for (cookie, netns) in plane.netns()? {
        if netns.kind == NetnsKind::Pod as u32 && !cookies.contains(&cookie) {
            plane.remove_netns(cookie)?;
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("find the pods' links")]
    Link(#[from] LinkError),
    #[error("read the data plane's pods")]
    Entry(#[from] kernelet_maps::EntryError),
}
