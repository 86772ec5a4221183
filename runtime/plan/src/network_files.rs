//! The texts of a pod's `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.

use std::{fmt::Write as _, net::IpAddr};

use crate::Wanted;

/// The host name inside the pod: at most 63 characters, as the kernel and DNS want it.
pub fn hostname(wanted: &Wanted, node_name: &str) -> String {
    let spec = wanted.spec();
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return name.clone();
    }
    if wanted.host_network() {
        return node_name.to_owned();
    }
    let name = spec
        .hostname
        .as_deref()
        .filter(|n| !n.is_empty())
        .unwrap_or(wanted.name());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `host.subdomain.namespace.svc.domain`, for pods of a subdomain.
pub fn fqdn(wanted: &Wanted, host: &str, cluster_domain: &str) -> Option<String> {
    let subdomain = wanted
        .spec()
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())?;
    wanted.spec().hostname_override.is_none().then(|| {
        format!(
            "{host}.{subdomain}.{}.svc.{cluster_domain}",
            wanted.namespace()
        )
    })
}

/// `/etc/hosts`; `host_file`: the node's own, which a pod on the host's network gets.
pub fn hosts(
    wanted: &Wanted,
    ips: &[IpAddr],
    host: &str,
    cluster_domain: &str,
    host_file: &str,
) -> String {
    let mut text = if wanted.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            let _ = match fqdn(wanted, host, cluster_domain) {
                Some(fqdn) => writeln!(text, "{ip}\t{fqdn}\t{host}"),
                None => writeln!(text, "{ip}\t{host}"),
            };
        }
        text
    };
    let aliases = wanted.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(
                text,
                "{}\t{}",
                alias.ip,
                alias.hostnames.as_deref().unwrap_or_default().join("\t")
            );
        }
    }
    text
}

/// The parts of a resolver's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads the node's `/etc/resolv.conf`; the last `search` or `domain` line counts.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search" | "domain") => resolver.searches = words.collect(),
                Some("options") => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// glibc reads no more than three name servers; upstream keeps to that, and to these bounds for searches.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

/// `/etc/resolv.conf` by `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(
    wanted: &Wanted,
    cluster_dns: &[IpAddr],
    cluster_domain: &str,
    node: &Resolver,
) -> String {
    let spec = wanted.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !wanted.host_network(),
        _ => false,
    };
    let mut resolver = match policy {
        "None" => Resolver::default(),
        _ if cluster && !cluster_dns.is_empty() => {
            let namespace = wanted.namespace();
            let mut searches = vec![
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ];
            searches.extend(node.searches.iter().filter(|s| *s != ".").cloned());
            Resolver {
                servers: cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => node.clone(),
    };
    if let Some(own) = &spec.dns_config {
        resolver
            .servers
            .extend(own.nameservers.iter().flatten().cloned());
        resolver
            .searches
            .extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.clone() else {
                continue;
            };
            let text = match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            };
            let same = |o: &String| {
                o == &name
                    || o.strip_prefix(&name)
                        .is_some_and(|rest| rest.starts_with(':'))
            };
            resolver.options.retain(|o| !same(o));
            resolver.options.push(text);
        }
    }
    for list in [&mut resolver.servers, &mut resolver.searches] {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|item| seen.insert(item.clone()));
    }
    resolver.servers.truncate(MAX_SERVERS);
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_LENGTH {
        resolver.searches.pop();
    }
    resolver.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wanted;
    use serde_json::json;

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let wanted = wanted(json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"subdomain": "sub", "containers": [], "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}));
        let ips = ["10.244.0.5".parse().expect("ip")];
        let text = hosts(&wanted, &ips, "p", "cluster.local", "");
        assert!(
            text.contains("\n10.244.0.5\tp.sub.ns.svc.cluster.local\tp\n"),
            "{text}"
        );
        assert!(
            text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
            "{text}"
        );
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn long_names_are_cut_to_what_a_host_name_may_be() {
        let wanted = wanted(
            json!({"metadata": {"name": format!("{}-{}", "a".repeat(62), "b")}, "spec": {"containers": []}}),
        );
        assert_eq!(hostname(&wanted, "n"), "a".repeat(62));
    }

    #[test]
    fn the_resolver_follows_policy_and_config() {
        let node = Resolver::parse(
            "# c\nnameserver 9.9.9.9\nsearch corp.example\noptions edns0 ndots:2\n",
        );
        let dns = ["10.96.0.10".parse().expect("ip")];
        let rows = [
            (
                json!({}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n",
            ),
            (
                json!({"dnsPolicy": "Default"}),
                "search corp.example\nnameserver 9.9.9.9\noptions edns0 ndots:2\n",
            ),
            (
                json!({"hostNetwork": true}),
                "search corp.example\nnameserver 9.9.9.9\noptions edns0 ndots:2\n",
            ),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x.y"], "options": [{"name": "debug"}]}}),
                "search x.y\nnameserver 1.1.1.1\noptions debug\n",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:1\n",
            ),
        ];
        for (spec, expected) in rows {
            let mut full = json!({"containers": []});
            full.as_object_mut()
                .expect("object")
                .append(spec.clone().as_object_mut().expect("object"));
            let wanted =
                wanted(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": full}));
            assert_eq!(
                resolv_conf(&wanted, &dns, "cluster.local", &node),
                expected,
                "{spec}"
            );
        }
    }
}
