//! Our own nftables table, and a look at everybody else's, over netlink.
//!
//! The table masquerades what pods send to the outside, and nothing else: Services are never
//! translated here. It is replaced whole, in one transaction.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::{
    LinkError,
    netlink::{APPEND, Attributes, CREATE, Message, Netlink, attributes},
};

const NFTABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = NFTABLES;
const DEL_TABLE: u16 = NFTABLES | 2;
const NEW_CHAIN: u16 = NFTABLES | 3;
const GET_CHAIN: u16 = NFTABLES | 4;
const NEW_RULE: u16 = NFTABLES | 6;
const GET_RULE: u16 = NFTABLES | 7;
const DEL_RULE: u16 = NFTABLES | 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;

const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: i32 = 100;
const VERDICT_ACCEPT: u32 = 1;
const REGISTER: u32 = 1;

/// A range of addresses: its first one and the length of its prefix.
pub type Range = (IpAddr, u8);

/// The header of each netfilter message.
fn body(family: u8, resource: u16, attributes: Attributes) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(resource.to_be_bytes());
    body.extend(attributes.bytes());
    body
}

fn batch(messages: Vec<Message>, what: &str) -> Result<(), LinkError> {
    let edge = |kind| Message::new(kind, 0, body(0, 10, Attributes::default()), what);
    Netlink::open(NETLINK_NETFILTER)?.apply_batch(edge(BATCH_BEGIN), messages, edge(BATCH_END))
}

fn table_name(instance_id: &str) -> String {
    format!("kernelet-{instance_id}")
}

/// Makes the instance's table masquerade what comes from `pods` and goes to none of `inside`.
pub fn put_masquerade(
    instance_id: &str,
    pods: &[Range],
    inside: &[Range],
) -> Result<(), LinkError> {
    let table = table_name(instance_id);
    let name = || Attributes::default().text(1, &table);
    let what = "write the masquerading table";
    let mut messages = vec![
        // Made first, so that there is something to delete; all in one transaction.
        Message::new(NEW_TABLE, CREATE, body(FAMILY_INET, 0, name()), what),
        Message::new(DEL_TABLE, 0, body(FAMILY_INET, 0, name()), what),
        Message::new(NEW_TABLE, CREATE, body(FAMILY_INET, 0, name()), what),
        Message::new(
            NEW_CHAIN,
            CREATE,
            body(
                FAMILY_INET,
                0,
                Attributes::default()
                    .text(1, &table)
                    .text(3, "postrouting")
                    .nested(
                        4,
                        Attributes::default()
                            .be32(1, HOOK_POSTROUTING)
                            .be32(2, PRIORITY_SRCNAT as u32),
                    )
                    .be32(5, VERDICT_ACCEPT)
                    .text(7, "nat"),
            ),
            what,
        ),
    ];
    for pod_range in pods {
        let mut rule = Rule::default()
            .family(pod_range.0)
            .address(Field::Source, *pod_range, true);
        for range in inside
            .iter()
            .filter(|range| range.0.is_ipv4() == pod_range.0.is_ipv4())
        {
            rule = rule.address(Field::Destination, *range, false);
        }
        let attributes = rule
            .masquerade()
            .attributes(&table, "postrouting", "pods to the outside");
        messages.push(Message::new(
            NEW_RULE,
            CREATE | APPEND,
            body(FAMILY_INET, 0, attributes),
            what,
        ));
    }
    batch(messages, what)
}

/// Removes the instance's table; one that isn't there is no error.
pub fn remove_table(instance_id: &str) -> Result<(), LinkError> {
    let what = "remove the masquerading table";
    let attributes = Attributes::default().text(1, &table_name(instance_id));
    let message = Message::new(DEL_TABLE, 0, body(FAMILY_INET, 0, attributes), what);
    match batch(vec![message], what) {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
}

/// The expressions of one rule.
#[derive(Default)]
struct Rule(Attributes);

impl Rule {
    fn expression(self, name: &str, data: Attributes) -> Self {
        Self(
            self.0
                .nested(1, Attributes::default().text(1, name).nested(2, data)),
        )
    }

    fn family(self, like: IpAddr) -> Self {
        const META_NFPROTO: u32 = 15;
        let family = if like.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        } as u8;
        self.expression(
            "meta",
            Attributes::default()
                .be32(2, META_NFPROTO)
                .be32(1, REGISTER),
        )
        .compare(&[family], true)
    }

    fn address(self, field: Field, (network, prefix): Range, inside: bool) -> Self {
        const NETWORK_HEADER: u32 = 1;
        let (offset, bytes) = match network {
            IpAddr::V4(v4) => (
                if field == Field::Source { 12 } else { 16 },
                v4.octets().to_vec(),
            ),
            IpAddr::V6(v6) => (
                if field == Field::Source { 8 } else { 24 },
                v6.octets().to_vec(),
            ),
        };
        let length = bytes.len() as u32;
        let mask: Vec<u8> = (0..bytes.len())
            .map(|index| {
                let bits = usize::from(prefix).saturating_sub(index * 8).min(8);
                !(0xff_u32 >> bits) as u8
            })
            .collect();
        let value = |bytes: &[u8]| Attributes::default().with(1, bytes);
        let masked: Vec<u8> = bytes
            .iter()
            .zip(&mask)
            .map(|(byte, mask)| byte & mask)
            .collect();
        self.expression(
            "payload",
            Attributes::default()
                .be32(1, REGISTER)
                .be32(2, NETWORK_HEADER)
                .be32(3, offset)
                .be32(4, length),
        )
        .expression(
            "bitwise",
            Attributes::default()
                .be32(1, REGISTER)
                .be32(2, REGISTER)
                .be32(3, length)
                .nested(4, value(&mask))
                .nested(5, value(&vec![0; bytes.len()])),
        )
        .compare(&masked, inside)
    }

    fn compare(self, value: &[u8], equal: bool) -> Self {
        self.expression(
            "cmp",
            Attributes::default()
                .be32(1, REGISTER)
                .be32(2, u32::from(!equal))
                .nested(3, Attributes::default().with(1, value)),
        )
    }

    fn masquerade(self) -> Self {
        /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two pods that connect at once don't race for a port.
        const RANDOM_FULLY: u32 = 1 << 4;
        self.expression("masq", Attributes::default().be32(1, RANDOM_FULLY))
    }

    fn accept(self) -> Self {
        let verdict = Attributes::default().be32(1, VERDICT_ACCEPT);
        let data = Attributes::default().nested(2, verdict);
        self.expression(
            "immediate",
            Attributes::default().be32(1, 0).nested(2, data),
        )
    }

    fn attributes(self, table: &str, chain: &str, comment: &str) -> Attributes {
        Attributes::default()
            .text(1, table)
            .text(2, chain)
            .nested(4, self.0)
            .with(7, &user_comment(comment))
    }
}

/// A rule's comment, as `nft` shows it.
fn user_comment(comment: &str) -> Vec<u8> {
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend(comment.as_bytes());
    data.push(0);
    data
}

/// Where somebody's chain stands in the way of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    Input,
    Forward,
}

/// A base chain, not ours, that drops what none of its rules accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub hook: Hook,
}

/// What other programs' rules in the calling thread's namespace mean for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    pub drops: Vec<DropChain>,
    /// Docker keeps a chain for other people's rules.
    pub docker_user: bool,
    /// firewalld's table is there: its zones decide, not a policy.
    pub firewalld: bool,
    /// The filter table of iptables-legacy is in use: what is in it can't be read here.
    pub legacy_filter: bool,
    /// Our own table is there.
    pub own_table: bool,
}

impl Firewall {
    pub fn drops(&self, hook: Hook) -> impl Iterator<Item = &DropChain> {
        self.drops.iter().filter(move |chain| chain.hook == hook)
    }
}

/// Reads every chain of the calling thread's namespace.
pub fn firewall(instance_id: &str) -> Result<Firewall, LinkError> {
    let own = table_name(instance_id);
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let message = Message::new(
        GET_CHAIN,
        0,
        body(0, 0, Attributes::default()),
        "list the nftables chains",
    );
    let mut found = Firewall {
        legacy_filter: has_legacy_filter(),
        ..Firewall::default()
    };
    for reply in netlink.dump(message)? {
        let Some((family, rest)) = reply.body.split_first() else {
            continue;
        };
        let family = match *family {
            FAMILY_INET => "inet",
            FAMILY_IPV4 => "ip",
            10 => "ip6",
            _ => continue,
        };
        read_chain(family, &own, rest.get(3..).unwrap_or_default(), &mut found);
    }
    Ok(found)
}

/// The tables that iptables-legacy has loaded in the calling thread's namespace.
fn has_legacy_filter() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

fn read_chain(family: &'static str, own: &str, bytes: &[u8], found: &mut Firewall) {
    let text = |value: &[u8]| {
        String::from_utf8_lossy(value)
            .trim_end_matches('\0')
            .to_owned()
    };
    let number = |value: &[u8]| value.try_into().map(u32::from_be_bytes).ok();
    let (mut table, mut chain, mut hook, mut policy) = (String::new(), String::new(), None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            1 => table = text(value),
            3 => chain = text(value),
            4 => {
                hook = attributes(value)
                    .find(|(kind, _)| *kind == 1)
                    .and_then(|(_, value)| number(value));
            }
            5 => policy = number(value),
            _ => {}
        }
    }
    found.docker_user |= family == "ip" && table == "filter" && chain == "DOCKER-USER";
    found.firewalld |= table == "firewalld";
    found.own_table |= table == own;
    let hook = match hook {
        Some(HOOK_INPUT) => Hook::Input,
        Some(HOOK_FORWARD) => Hook::Forward,
        _ => return,
    };
    if policy == Some(0) && !table.starts_with("kernelet-") {
        found.drops.push(DropChain {
            family,
            table,
            chain,
            hook,
        });
    }
}

const DOCKER_TABLE: &str = "filter";
const DOCKER_CHAIN: &str = "DOCKER-USER";

fn docker_mark(instance_id: &str) -> String {
    format!("kernelet-{instance_id}")
}

/// Lets pods' traffic through Docker's forward chain, by the chain that Docker keeps for that: one
/// entry a direction, marked as ours. Entries that are there already stay.
pub fn put_docker_accept(instance_id: &str, pods: &[Range]) -> Result<(), LinkError> {
    if !docker_rules(instance_id)?.is_empty() {
        return Ok(());
    }
    let what = "add the pods' entry to DOCKER-USER";
    let mut messages = Vec::new();
    for range in pods.iter().filter(|range| range.0.is_ipv4()) {
        for field in [Field::Source, Field::Destination] {
            let attributes = Rule::default()
                .address(field, *range, true)
                .accept()
                .attributes(DOCKER_TABLE, DOCKER_CHAIN, &docker_mark(instance_id));
            // Without `APPEND` it goes to the front.
            messages.push(Message::new(
                NEW_RULE,
                CREATE,
                body(FAMILY_IPV4, 0, attributes),
                what,
            ));
        }
    }
    batch(messages, what)
}

/// Removes what `put_docker_accept` added.
pub fn remove_docker_accept(instance_id: &str) -> Result<(), LinkError> {
    let what = "remove the pods' entry from DOCKER-USER";
    let messages: Vec<_> = docker_rules(instance_id)?
        .into_iter()
        .map(|handle| {
            let attributes = Attributes::default()
                .text(1, DOCKER_TABLE)
                .text(2, DOCKER_CHAIN)
                .with(3, &handle.to_be_bytes());
            Message::new(DEL_RULE, 0, body(FAMILY_IPV4, 0, attributes), what)
        })
        .collect();
    if messages.is_empty() {
        Ok(())
    } else {
        batch(messages, what)
    }
}

/// The handles of our entries.
fn docker_rules(instance_id: &str) -> Result<Vec<u64>, LinkError> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let ask = Attributes::default()
        .text(1, DOCKER_TABLE)
        .text(2, DOCKER_CHAIN);
    let message = Message::new(
        GET_RULE,
        0,
        body(FAMILY_IPV4, 0, ask),
        "list DOCKER-USER's rules",
    );
    let replies = match netlink.dump(message) {
        Err(error) if error.is(Errno::ENOENT) => return Ok(Vec::new()),
        replies => replies?,
    };
    let mark = user_comment(&docker_mark(instance_id));
    Ok(replies
        .iter()
        .filter_map(|reply| {
            let all = attributes(reply.body.get(4..)?);
            let (mut handle, mut ours) = (None, false);
            for (kind, value) in all {
                match kind {
                    3 => handle = value.try_into().map(u64::from_be_bytes).ok(),
                    7 => ours = value == mark,
                    _ => {}
                }
            }
            handle.filter(|_| ours)
        })
        .collect())
}
