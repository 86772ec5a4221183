//! The commands (CNI specification, section 2).

use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use kernelet_link::{
    GATEWAY_V4, GATEWAY_V6, NODE_MAC, PodLink, connect_pod, disconnect_pods, host_routes,
    observe_pod, pod_links, pod_mac, uplinks,
};
use kernelet_net_plan::{IpamError, link_name};
use serde_json::json;

use crate::{
    config::{Config, NEWEST, SUPPORTED, Target, uid},
    error::{CniError, Code},
    network,
    result::{AddResult, Interface, Ip, Route},
    state::{State, now},
};

const DEFAULT_MTU: u32 = 1500;

/// Runs the command that the environment names; the answer goes to standard output.
pub fn run(input: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, CniError> {
    let command = env("CNI_COMMAND")
        .ok_or_else(|| CniError::new(Code::InvalidEnvironment, "CNI_COMMAND is not set"))?;
    if command == "VERSION" {
        // Answered to whatever version asks.
        return Ok(json!({"cniVersion": NEWEST, "supportedVersions": SUPPORTED}).to_string());
    }
    let config = Config::parse(input)?;
    match command.as_str() {
        "ADD" => add(&config, &Target::parse(env)?),
        "DEL" => del(&config, &Target::parse(env)?).map(|()| String::new()),
        "CHECK" => check(&config, &Target::parse(env)?).map(|()| String::new()),
        "GC" if config.is_at_least_1_1() => gc(&config).map(|()| String::new()),
        "STATUS" if config.is_at_least_1_1() => status(&config).map(|()| String::new()),
        other => Err(CniError::new(
            Code::InvalidEnvironment,
            format!(
                "CNI_COMMAND {other:?} is not known in version {}",
                config.cni_version
            ),
        )),
    }
}

fn open_state(config: &Config) -> Result<State, CniError> {
    State::open(&config.state_dir.join(&config.name), &config.ranges)
}

fn open_netns(target: &Target) -> Result<OwnedFd, CniError> {
    let path: &Path = target
        .netns
        .as_deref()
        .ok_or_else(|| CniError::new(Code::InvalidEnvironment, "CNI_NETNS is not set"))?;
    File::open(path)
        .map(Into::into)
        .map_err(|source| CniError::io(format!("open the namespace {}", path.display()), source))
}

fn add(config: &Config, target: &Target) -> Result<String, CniError> {
    let netns = open_netns(target)?;
    let uid = target.uid();
    let mut state = open_state(config)?;
    let addresses = state
        .ipam
        .allocate(&uid, &[], now())
        .map_err(|error| match error {
            IpamError::NoRange => CniError::new(Code::InvalidConfiguration, "ranges is empty"),
            error => CniError::new(Code::TryAgainLater, error.to_string()),
        })?;
    // Before anything has the address: a crash may waste one, never give it twice.
    state.save()?;
    let link = link(config, target, addresses)?;
    let connected = network::ensure(config, &state)
        .and_then(|()| connect_pod(&link, netns.as_fd(), None).map_err(Into::into));
    if let Err(error) = connected {
        // The runtime may call DEL or not; half an attachment is of no use either way. Should this
        // fail as well, the first error is the one to tell.
        let _ = disconnect_pods(&config.instance_id(), std::slice::from_ref(&link.name));
        state.ipam.release(&uid, now());
        let _ = state.save();
        return Err(error);
    }
    let result = add_result(config, target, &link);
    Ok(serde_json::to_string(&result).expect("plain strings and numbers are always JSON"))
}

fn link(config: &Config, target: &Target, addresses: Vec<IpAddr>) -> Result<PodLink, CniError> {
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => {
            let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
            uplinks(nowhere)?
                .iter()
                .map(|uplink| uplink.mtu)
                .min()
                .unwrap_or(DEFAULT_MTU)
        }
    };
    Ok(PodLink {
        instance_id: config.instance_id(),
        uid: target.uid(),
        pod: target.label.clone(),
        name: link_name(&target.uid()),
        pod_end: target.ifname.clone(),
        addresses,
        node_addresses: config.node_addresses.clone(),
        mtu,
    })
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn add_result(config: &Config, target: &Target, link: &PodLink) -> AddResult {
    let mtu = config.is_at_least_1_1().then_some(link.mtu);
    let before_1_0 = config.cni_version.starts_with("0.");
    let sandbox = target
        .netns
        .as_ref()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let interfaces = vec![
        Interface {
            name: link.name.clone(),
            mac: mac(NODE_MAC),
            mtu,
            sandbox: String::new(),
        },
        Interface {
            name: link.pod_end.clone(),
            mac: mac(pod_mac(&link.addresses)),
            mtu,
            sandbox,
        },
    ];
    let gateway = |address: &IpAddr| match address {
        IpAddr::V4(_) => IpAddr::from(GATEWAY_V4),
        IpAddr::V6(_) => IpAddr::from(GATEWAY_V6),
    };
    AddResult {
        cni_version: config.cni_version.clone(),
        interfaces,
        ips: link
            .addresses
            .iter()
            .map(|address| Ip {
                version: before_1_0.then(|| if address.is_ipv4() { "4" } else { "6" }.to_owned()),
                address: format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }),
                gateway: Some(gateway(address)),
                interface: Some(1),
            })
            .collect(),
        routes: link
            .addresses
            .iter()
            .map(|address| Route {
                dst: if address.is_ipv4() {
                    "0.0.0.0/0"
                } else {
                    "::/0"
                }
                .into(),
                gw: Some(gateway(address)),
            })
            .collect(),
        dns: serde_json::Map::new(),
    }
}

/// Never an error because something is gone already, the namespace included.
fn del(config: &Config, target: &Target) -> Result<(), CniError> {
    let mut state = open_state(config)?;
    remove(config, &mut state, &target.uid())?;
    settle(config, &state)
}

fn remove(config: &Config, state: &mut State, uid: &str) -> Result<(), CniError> {
    disconnect_pods(&config.instance_id(), &[link_name(uid)])?;
    state.ipam.release(uid, now());
    state.save()
}

/// With the last container, what the network had on the node goes too.
fn settle(config: &Config, state: &State) -> Result<(), CniError> {
    if state.ipam.owners().next().is_none() {
        network::remove(config, state)
    } else {
        Ok(())
    }
}

fn check(config: &Config, target: &Target) -> Result<(), CniError> {
    let netns = open_netns(target)?;
    let differs = |what: String| Err(CniError::new(Code::Different, what));
    let wanted: Vec<IpAddr> = match &config.prev_result {
        Some(result) => result.ips.iter().filter_map(Ip::ip).collect(),
        None => {
            return Err(CniError::new(
                Code::InvalidConfiguration,
                "CHECK needs prevResult",
            ));
        }
    };
    let Some(found) = observe_pod(netns.as_fd(), &target.ifname)? else {
        return differs(format!("{} is not in the namespace", target.ifname));
    };
    let ours = pod_links(&config.instance_id())?
        .into_iter()
        .find(|link| link.uid == target.uid() && link.ifindex == found.node_ifindex);
    let Some(ours) = ours else {
        return differs(format!("{} does not lead to this network", target.ifname));
    };
    for address in wanted {
        if !found.addresses.contains(&address) {
            return differs(format!(
                "{} does not have the address {address}",
                target.ifname
            ));
        }
        if !host_routes()?.contains(&(address, ours.ifindex)) {
            return differs(format!(
                "the node has no route to {address} over {}",
                ours.name
            ));
        }
    }
    if !found.has_default_route {
        return differs(format!("there is no default route over {}", target.ifname));
    }
    Ok(())
}

/// Removes every attachment that isn't in the list; goes on past errors, the first is told.
fn gc(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid_attachments else {
        return Err(CniError::new(
            Code::InvalidConfiguration,
            "GC needs cni.dev/valid-attachments",
        ));
    };
    let valid: Vec<String> = valid
        .iter()
        .map(|known| uid(&known.container_id, &known.ifname))
        .collect();
    let mut state = open_state(config)?;
    let links = pod_links(&config.instance_id())?;
    let mut all: Vec<String> = state.ipam.owners().map(str::to_owned).collect();
    all.extend(links.into_iter().map(|link| link.uid));
    all.sort();
    all.dedup();
    let mut result = Ok(());
    for stale in all.iter().filter(|uid| !valid.contains(uid)) {
        let removed = remove(config, &mut state, stale);
        if result.is_ok() {
            result = removed;
        }
    }
    result.and_then(|()| settle(config, &state))
}

/// Whether an ADD would find what it needs.
fn status(config: &Config) -> Result<(), CniError> {
    let not_available = |message: String| Err(CniError::new(Code::NotAvailable, message));
    if config.ranges.is_empty() {
        return not_available("ranges is empty".into());
    }
    if !nix::unistd::geteuid().is_root() {
        return not_available("the plugin does not run as root".into());
    }
    let mut state = open_state(config)?;
    // Tried, and not kept.
    match state.ipam.allocate("status", &[], now()) {
        Ok(_) => Ok(()),
        Err(error) => not_available(error.to_string()),
    }
}
