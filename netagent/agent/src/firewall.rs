//! What other programs' firewall rules mean for pods, and what to do about it. Pure.
//!
//! A `drop` in anybody's base chain is final: no rule of ours, in whatever chain and at whatever
//! priority, saves a packet that meets it. So pods' traffic either doesn't pass there (pod to pod, and
//! with the outside over Ethernet: past the node's stack; pod to node: in by the loopback), or the
//! chain's owner has a place for exceptions, or the node says what stands in the way and how to open it.

use kernelet_link::{DropChain, Firewall, Hook};
use kernelet_net_plan::Cidr;

/// What to do beside the rules that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Pods reach the node's own addresses by its loopback.
    pub host_by_loopback: bool,
    /// Use Docker's chain for other people's rules.
    pub docker_entry: bool,
    /// The programs translate pods' conversations with the outside themselves.
    pub egress: bool,
    /// Pods can't reach the outside: why, and the command that opens it.
    pub blocked: Option<String>,
}

/// `can_bypass`: on every way out, the programs can do what the node's stack would. `no_masquerade`: why
/// that can't.
pub fn judge(
    found: &Firewall,
    pods: &[Cidr],
    can_bypass: bool,
    no_masquerade: Option<&str>,
) -> Judgement {
    // They translate IPv4 only.
    let can_bypass = can_bypass && pods.iter().all(Cidr::is_ipv4);
    let forward: Vec<&DropChain> = found.drops(Hook::Forward).collect();
    let is_dockers = |chain: &DropChain| chain.family == "ip" && chain.table == "filter";
    // Docker's own FORWARD chain drops, and asks DOCKER-USER first.
    let docker_entry = found.docker_user && forward.iter().any(|chain| is_dockers(chain));
    let range = pods
        .first()
        .map_or_else(|| "<pod range>".to_owned(), Cidr::to_string);
    let in_the_way = forward
        .iter()
        .find(|chain| !(docker_entry && is_dockers(chain)));
    let blocked = if let Some(chain) = in_the_way {
        Some(format!(
            "chain {} of nftables table {} {} drops forwarded packets, so pods can't reach the outside; \
             open it with: nft insert rule {} {} {} ip saddr {range} accept; \
             nft insert rule {} {} {} ct state established,related accept",
            chain.chain,
            chain.family,
            chain.table,
            chain.family,
            chain.table,
            chain.chain,
            chain.family,
            chain.table,
            chain.chain,
        ))
    } else if found.firewalld {
        Some(format!(
            "firewalld decides over forwarded packets; let pods pass with: \
             firewall-cmd --permanent --zone=trusted --add-source={range} && firewall-cmd --reload"
        ))
    } else {
        no_masquerade.map(|why| format!("pods can't reach the outside: {why}"))
    };
    // What can't be read may drop anything; passing it by harms nobody.
    let unreadable = found.legacy_filter;
    Judgement {
        host_by_loopback: found.drops(Hook::Input).next().is_some()
            || found.firewalld
            || unreadable,
        docker_entry,
        egress: (blocked.is_some() || unreadable) && can_bypass,
        blocked: blocked.filter(|_| !can_bypass),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, chain: &str, hook: Hook) -> DropChain {
        DropChain {
            family: "ip",
            table: table.into(),
            chain: chain.into(),
            hook,
        }
    }

    fn pods() -> Vec<Cidr> {
        vec!["10.244.0.0/23".parse().expect("a range")]
    }

    #[test]
    fn nothing_in_the_way_needs_nothing() {
        assert_eq!(
            judge(&Firewall::default(), &pods(), true, None),
            Judgement::default()
        );
    }

    #[test]
    fn a_dropping_forward_chain_is_named_with_the_command_that_opens_it() {
        let found = Firewall {
            drops: vec![chain("mine", "fwd", Hook::Forward)],
            ..Firewall::default()
        };
        let judgement = judge(&found, &pods(), false, None);
        let why = judgement.blocked.expect("blocked");
        assert!(why.contains("chain fwd of nftables table ip mine"), "{why}");
        assert!(
            why.contains("nft insert rule ip mine fwd ip saddr 10.244.0.0/23 accept"),
            "{why}"
        );
        assert!(!judgement.host_by_loopback);
    }

    #[test]
    fn a_dropping_forward_chain_is_passed_by_where_the_programs_can() {
        let found = Firewall {
            drops: vec![chain("mine", "fwd", Hook::Forward)],
            ..Firewall::default()
        };
        let egress = Judgement {
            egress: true,
            ..Judgement::default()
        };
        assert_eq!(judge(&found, &pods(), true, None), egress);
        let both = [pods(), vec!["fd00::/64".parse().expect("a range")]].concat();
        assert!(
            judge(&found, &both, true, None).blocked.is_some(),
            "IPv6 is not translated"
        );
    }

    #[test]
    fn without_nftables_in_the_kernel_the_programs_stand_in() {
        let why = Some("write the masquerading table: no such protocol");
        let found = Firewall::default();
        assert!(judge(&found, &pods(), true, why).egress);
        let blocked = judge(&found, &pods(), false, why).blocked.expect("blocked");
        assert!(blocked.contains("no such protocol"), "{blocked}");
    }

    #[test]
    fn a_dropping_input_chain_sends_pods_by_the_loopback() {
        let found = Firewall {
            drops: vec![chain("mine", "in", Hook::Input)],
            ..Firewall::default()
        };
        assert_eq!(
            judge(&found, &pods(), false, None),
            Judgement {
                host_by_loopback: true,
                ..Judgement::default()
            }
        );
    }

    #[test]
    fn docker_has_a_place_for_us_but_only_in_its_own_chain() {
        let docker = chain("filter", "FORWARD", Hook::Forward);
        let found = Firewall {
            drops: vec![docker.clone()],
            docker_user: true,
            ..Firewall::default()
        };
        assert_eq!(
            judge(&found, &pods(), false, None),
            Judgement {
                docker_entry: true,
                ..Judgement::default()
            }
        );
        let found = Firewall {
            drops: vec![docker, chain("mine", "fwd", Hook::Forward)],
            docker_user: true,
            ..Firewall::default()
        };
        let judgement = judge(&found, &pods(), false, None);
        assert!(judgement.docker_entry);
        assert!(judgement.blocked.expect("blocked").contains("mine"));
    }

    #[test]
    fn what_iptables_legacy_has_cannot_be_read_and_is_passed_by() {
        let found = Firewall {
            legacy_filter: true,
            ..Firewall::default()
        };
        let judgement = judge(&found, &pods(), true, None);
        assert!(judgement.egress && judgement.host_by_loopback && judgement.blocked.is_none());
        let judgement = judge(&found, &pods(), false, None);
        assert!(!judgement.egress && judgement.blocked.is_none());
    }

    #[test]
    fn firewalld_is_told_of_by_its_own_command() {
        let found = Firewall {
            firewalld: true,
            ..Firewall::default()
        };
        let judgement = judge(&found, &pods(), false, None);
        assert!(judgement.host_by_loopback);
        assert!(
            judgement
                .blocked
                .expect("blocked")
                .contains("--add-source=10.244.0.0/23")
        );
    }
}
