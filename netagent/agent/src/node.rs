//! The node's own side of the pod network: routes, settings, masquerading, and what stands in the way.
//! Put in place at start, and again whenever the kernel tells that somebody changed something.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use kernelet_ebpf_abi::config_flags;
use kernelet_link::{
    Firewall, LinkError, Range, Sysctls, Uplink, firewall, host_routes, node_addresses,
    put_docker_accept, put_masquerade, put_unreachable, remove_docker_accept, restore_pod, uplinks,
};
use kernelet_maps::EntryError;
use kernelet_net_plan::Cidr;
use tracing::{info, warn};

use crate::{
    firewall::{Judgement, judge},
    hooks::{self, HookError},
    kernel::Kernel,
    pods,
};

/// `lo` has this index in every namespace.
const LOOPBACK: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("set up the node's network")]
    Link(#[from] LinkError),
    #[error("write the data plane's maps")]
    Entry(#[from] EntryError),
    #[error("serve the uplinks")]
    Hook(#[from] HookError),
}

/// The node's side, as it was last put in place.
pub struct NodeSide {
    instance_id: String,
    node_ip: IpAddr,
    run_dir: PathBuf,
    cluster_cidrs: Vec<Cidr>,
    service_cidrs: Vec<Cidr>,
    pod_cidrs: Vec<Cidr>,
    sysctls: Sysctls,
    masqueraded: Vec<Range>,
    /// Why the node's stack can't masquerade, if so.
    no_masquerade: Option<String>,
    /// The programs can stand in for the node's stack on every way out.
    can_bypass: bool,
    judgement: Judgement,
}

fn range(cidr: &Cidr) -> Range {
    (cidr.address(), cidr.prefix())
}

/// Where the record of changed settings stands.
pub fn sysctl_record(run_dir: &Path) -> PathBuf {
    run_dir.join("net").join("sysctls.json")
}

impl NodeSide {
    pub fn new(
        instance_id: &str,
        node_ip: IpAddr,
        cluster_cidrs: &[Cidr],
        service_cidrs: &[Cidr],
        run_dir: &Path,
    ) -> Result<Self, LinkError> {
        Ok(Self {
            instance_id: instance_id.into(),
            node_ip,
            run_dir: run_dir.into(),
            cluster_cidrs: cluster_cidrs.to_vec(),
            service_cidrs: service_cidrs.to_vec(),
            pod_cidrs: Vec::new(),
            sysctls: Sysctls::open(&sysctl_record(run_dir))?,
            masqueraded: Vec::new(),
            no_masquerade: None,
            can_bypass: false,
            judgement: Judgement::default(),
        })
    }

    /// Why pods can't reach everything, if so.
    pub fn blocked(&self) -> Option<String> {
        self.judgement.blocked.clone()
    }

    /// This node's pod ranges are known.
    pub fn set_pod_cidrs(&mut self, kernel: &Kernel, cidrs: &[Cidr]) -> Result<(), NodeError> {
        self.pod_cidrs = cidrs.to_vec();
        self.routes(kernel)?;
        self.masquerade()?;
        self.look_at_firewall(kernel)
    }

    /// Everything, from scratch.
    pub fn sync(&mut self, kernel: &Kernel) -> Result<(), NodeError> {
        self.addresses(kernel)?;
        self.uplinks(kernel)?;
        self.routes(kernel)?;
        self.masquerade()?;
        self.look_at_firewall(kernel)
    }

    /// The node's own addresses: node ports and host ports are open there, and pods' packets to them
    /// are for the node.
    pub fn addresses(&self, kernel: &Kernel) -> Result<(), NodeError> {
        let own: Vec<IpAddr> = node_addresses()?
            .into_iter()
            .filter(|address| address.is_global && !address.address.is_loopback())
            .map(|address| address.address)
            .collect();
        Ok(kernel.plane().sync_host_addresses(&own)?)
    }

    /// Answers to pods come in by the uplinks and are forwarded; node ports are served there.
    pub fn uplinks(&mut self, kernel: &Kernel) -> Result<Vec<Uplink>, NodeError> {
        let uplinks = uplinks(self.node_ip)?;
        let own = node_addresses()?;
        let address = |uplink: &Uplink| {
            let mut on_it = own
                .iter()
                .filter(|own| own.ifindex == uplink.ifindex && own.is_global)
                .filter_map(|own| match own.address {
                    IpAddr::V4(v4) => Some(v4),
                    IpAddr::V6(_) => None,
                })
                .collect::<Vec<_>>();
            // The node's own address first, if it is one of several.
            on_it.sort_by_key(|v4| IpAddr::V4(*v4) != self.node_ip);
            on_it.first().copied()
        };
        let served: Vec<(u32, Ipv4Addr)> = uplinks
            .iter()
            .filter(|uplink| uplink.is_ethernet)
            .filter_map(|uplink| Some((uplink.ifindex, address(uplink)?)))
            .collect();
        {
            let mut plane = kernel.plane();
            for gone in plane.uplinks()? {
                if !served.iter().any(|(ifindex, _)| *ifindex == gone) {
                    hooks::detach_uplink(gone, &self.run_dir)?;
                }
            }
            plane.sync_uplinks(&served)?;
            for (ifindex, _) in &served {
                hooks::attach_uplink(&plane, *ifindex, &self.run_dir)?;
            }
        }
        self.can_bypass = uplinks
            .iter()
            .filter(|uplink| uplink.is_ipv4)
            .all(|uplink| served.iter().any(|(ifindex, _)| *ifindex == uplink.ifindex));
        for uplink in &uplinks {
            if uplink.is_ipv4 {
                let key = format!("net/ipv4/conf/{}/forwarding", uplink.name);
                self.sysctls.set(&key, "1")?;
            }
            if uplink.is_ipv6 && self.cluster_cidrs.iter().any(|cidr| !cidr.is_ipv4()) {
                // Forwarding makes a host ignore router advertisements and lose its default route,
                // unless told to listen all the same.
                let key = format!("net/ipv6/conf/{}/accept_ra", uplink.name);
                if std::fs::read_to_string(Path::new("/proc/sys").join(&key))
                    .is_ok_and(|value| value.trim() == "1")
                {
                    self.sysctls.set(&key, "2")?;
                }
                self.sysctls.set("net/ipv6/conf/all/forwarding", "1")?;
            }
        }
        Ok(uplinks)
    }

    /// Service addresses that no hook translated and pods that are gone fail at once; routes to pods
    /// that somebody removed come back.
    pub fn routes(&self, kernel: &Kernel) -> Result<(), NodeError> {
        for cidr in self.service_cidrs.iter().chain(&self.pod_cidrs) {
            put_unreachable(cidr.address(), cidr.prefix())?;
        }
        let there = host_routes()?;
        let missing: Vec<_> = {
            let pods = kernel.pods();
            pods.attached
                .values()
                .filter(|pod| {
                    pod.link
                        .addresses
                        .iter()
                        .any(|address| !there.contains(&(*address, pod.ifindex)))
                })
                .map(|pod| (pod.id.uid.clone(), pod.link.clone(), pod.ifindex))
                .collect()
        };
        for (uid, link, ifindex) in missing {
            match restore_pod(&link, ifindex) {
                Ok(()) => info!(link = link.name, "a pod's route was gone and is back"),
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                    match pods::rewire(kernel, &self.instance_id, &uid) {
                        Ok(()) => info!(link = link.name, "a pod's link was gone and is back"),
                        Err(error) => warn!(
                            error = &error as &dyn std::error::Error,
                            link = link.name,
                            "cannot put a pod's link back"
                        ),
                    }
                }
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        link = link.name,
                        "cannot put a pod's route back"
                    );
                }
            }
        }
        Ok(())
    }

    fn masquerade(&mut self) -> Result<(), NodeError> {
        let pods: Vec<Range> = self.pod_cidrs.iter().map(range).collect();
        if pods.is_empty() || pods == self.masqueraded {
            return Ok(());
        }
        let inside: Vec<Range> = self.cluster_cidrs.iter().map(range).collect();
        self.no_masquerade = match put_masquerade(&self.instance_id, &pods, &inside) {
            Ok(()) => None,
            // Without nftables in the kernel the programs do it; the judgement says so or complains.
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the node's stack can't masquerade"
                );
                Some(format!("{error}: {}", error.source))
            }
        };
        self.masqueraded = pods;
        Ok(())
    }

    /// Looks at everybody's chains and does what they ask for.
    pub fn look_at_firewall(&mut self, kernel: &Kernel) -> Result<(), NodeError> {
        let found = match firewall(&self.instance_id) {
            Ok(found) => found,
            Err(_) if self.no_masquerade.is_some() => Firewall::default(),
            Err(error) => return Err(error.into()),
        };
        if !found.own_table && !self.masqueraded.is_empty() && self.no_masquerade.is_none() {
            info!("the masquerading table was gone and is back");
            self.masqueraded.clear();
            self.masquerade()?;
        }
        let judgement = judge(
            &found,
            &self.pod_cidrs,
            self.can_bypass,
            self.no_masquerade.as_deref(),
        );
        if judgement.host_by_loopback {
            self.let_loopback_take_pods()?;
        }
        let cluster = self
            .cluster_cidrs
            .iter()
            .find_map(|cidr| match cidr.address() {
                IpAddr::V4(v4) => Some((v4, Cidr::mask_v4(cidr.prefix()))),
                IpAddr::V6(_) => None,
            });
        kernel.plane().set_config(|config| {
            config.loopback_ifindex = LOOPBACK;
            let mut flag = |flag: u32, on: bool| {
                if on {
                    config.flags |= flag
                } else {
                    config.flags &= !flag
                }
            };
            flag(config_flags::HOST_BY_LOOPBACK, judgement.host_by_loopback);
            flag(config_flags::EGRESS, judgement.egress);
            if let Some((network, mask)) = cluster {
                config.cluster_network = u32::from_ne_bytes(network.octets());
                config.cluster_mask = u32::from_ne_bytes(mask.octets());
            }
        })?;
        if judgement.docker_entry {
            let pods: Vec<Range> = self.pod_cidrs.iter().map(range).collect();
            put_docker_accept(&self.instance_id, &pods)?;
        } else if self.judgement.docker_entry {
            remove_docker_accept(&self.instance_id)?;
        }
        if judgement != self.judgement {
            match &judgement.blocked {
                Some(why) => warn!(why, "somebody's firewall stands in the way of pods"),
                None => info!(?judgement, "firewalls judged"),
            }
            self.judgement = judgement;
        }
        Ok(())
    }

    /// A strict reverse path filter would throw away what pods send in by the loopback: the way back
    /// to them is another link. Loose on `lo` alone overrules a strict default.
    fn let_loopback_take_pods(&mut self) -> Result<(), LinkError> {
        let strict = |key: &str| {
            std::fs::read_to_string(Path::new("/proc/sys").join(key))
                .is_ok_and(|value| value.trim() == "1")
        };
        if strict("net/ipv4/conf/all/rp_filter") || strict("net/ipv4/conf/lo/rp_filter") {
            self.sysctls.set("net/ipv4/conf/lo/rp_filter", "2")?;
        }
        Ok(())
    }
}
