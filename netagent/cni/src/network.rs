//! What a network needs on the node beside its containers' links: there while it has a container.

use kernelet_link::{LinkError, Range, Sysctls, put_masquerade, remove_table, uplinks};
use kernelet_net_plan::Cidr;

use crate::{config::Config, error::CniError, state::State};

fn range(cidr: &Cidr) -> Range {
    (cidr.address(), cidr.prefix())
}

fn sysctls(state: &State) -> Result<Sysctls, LinkError> {
    Sysctls::open(&state.folder().join("sysctls.json"))
}

/// Puts it in place; repeated for each container, since somebody may have flushed it.
pub fn ensure(config: &Config, state: &State) -> Result<(), CniError> {
    if !config.ip_masq {
        return Ok(());
    }
    let ranges: Vec<Range> = config.ranges.iter().map(range).collect();
    let inside: Vec<Range> = config
        .ranges
        .iter()
        .chain(&config.inside)
        .map(range)
        .collect();
    put_masquerade(&config.instance_id(), &ranges, &inside)?;
    // Answers come in by the uplinks and are forwarded.
    let mut sysctls = sysctls(state)?;
    let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
    let own = config.node_addresses.first().copied().unwrap_or(nowhere);
    for uplink in uplinks(own)?.iter().filter(|uplink| uplink.is_ipv4) {
        sysctls.set(&format!("net/ipv4/conf/{}/forwarding", uplink.name), "1")?;
    }
    Ok(())
}

/// The last container is gone.
pub fn remove(config: &Config, state: &State) -> Result<(), CniError> {
    remove_table(&config.instance_id())?;
    match sysctls(state)?.restore().into_iter().next() {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}
