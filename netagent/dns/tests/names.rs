//! The names of the specification, asked for over the wire.

mod support;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use support::{Cluster, service};

use RecordType::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT};

const NXDOMAIN: ResponseCode = ResponseCode::NXDomain;

/// A cluster with one Service of each sort.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.set("default", "web", service!({
        "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00::20"],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9000}],
    }), &[]);
    cluster.set(
        "default",
        "v4",
        service!({"clusterIP": "10.96.0.21", "ports": [{"port": 80}]}),
        &[],
    );
    cluster.set(
        "data",
        "db",
        service!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
        &[support::slice(
            &[
                ("db-0", "10.244.0.5", true),
                ("db-1", "10.244.0.6", true),
                ("db-2", "10.244.0.7", false),
                ("", "10.244.0.8", true),
            ],
            &[("sql", 5432)],
        )],
    );
    cluster.set("data", "empty", service!({"clusterIP": "None"}), &[]);
    cluster.set(
        "default",
        "alias",
        service!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
        &[],
    );
    cluster.set(
        "default",
        "outside",
        service!({"type": "ExternalName", "externalName": "www.example.com"}),
        &[],
    );
    cluster
}

#[tokio::test]
async fn a_service_has_its_virtual_addresses() {
    let cluster = cluster().await;
    cluster
        .check("web.default.svc.cluster.local", A, &["10.96.0.20"])
        .await;
    cluster
        .check("web.default.svc.cluster.local", AAAA, &["fd00::20"])
        .await;
    cluster
        .check("WEB.Default.SVC.cluster.LOCAL", A, &["10.96.0.20"])
        .await;
    let answer = cluster.ask("web.default.svc.cluster.local", A).await;
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].ttl, 5);
}

#[tokio::test]
async fn an_existing_name_without_such_a_record_is_an_empty_answer_with_a_start_of_authority() {
    let cluster = cluster().await;
    for (name, ty) in [
        ("v4.default.svc.cluster.local", AAAA),
        ("web.default.svc.cluster.local", TXT),
        ("default.svc.cluster.local", A),
        ("svc.cluster.local", A),
        ("cluster.local", A),
        ("_tcp.web.default.svc.cluster.local", A),
        ("_http._tcp.web.default.svc.cluster.local", A),
        ("db.data.svc.cluster.local", AAAA),
        ("db-0.db.data.svc.cluster.local", AAAA),
        ("10-244-0-5.data.pod.cluster.local", AAAA),
        ("20.0.96.10.in-addr.arpa", A),
    ] {
        cluster
            .check_negative(name, ty, ResponseCode::NoError)
            .await;
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_told_as_one_so_that_the_search_list_goes_on() {
    let cluster = cluster().await;
    for name in [
        "nothing.default.svc.cluster.local",
        "web.nowhere.svc.cluster.local",
        "nowhere.svc.cluster.local",
        // What a resolver with `search default.svc.cluster.local …` and ndots:5 tries first.
        "web.default.svc.default.svc.cluster.local",
        "web.default.svc.cluster.local.default.svc.cluster.local",
        "www.example.com.default.svc.cluster.local",
        "www.example.com.svc.cluster.local",
        "www.example.com.cluster.local",
        "example.cluster.local",
        "nobody.db.data.svc.cluster.local",
        // Not ready.
        "db-2.db.data.svc.cluster.local",
        "_nothing._tcp.web.default.svc.cluster.local",
        "_http._udp.web.default.svc.cluster.local",
        "not-an-address.default.pod.cluster.local",
        // A headless Service without ready endpoints.
        "empty.data.svc.cluster.local",
    ] {
        for ty in [A, AAAA, SRV] {
            cluster.check_negative(name, ty, NXDOMAIN).await;
        }
    }
}

#[tokio::test]
async fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let cluster = cluster().await;
    let all = ["10.244.0.5", "10.244.0.6", "10.244.0.8"];
    cluster.check("db.data.svc.cluster.local", A, &all).await;
    cluster
        .check("db-0.db.data.svc.cluster.local", A, &["10.244.0.5"])
        .await;
    cluster
        .check("10-244-0-8.db.data.svc.cluster.local", A, &["10.244.0.8"])
        .await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..6 {
        first.insert(
            cluster.ask("db.data.svc.cluster.local", A).await.answers[0]
                .data
                .to_string(),
        );
    }
    assert_eq!(
        first.len(),
        3,
        "each address comes first in turn: {first:?}"
    );
}

#[tokio::test]
async fn named_ports_have_service_records_with_the_addresses_of_their_targets() {
    let cluster = cluster().await;
    let web = "web.default.svc.cluster.local.";
    cluster
        .check(
            "_http._tcp.web.default.svc.cluster.local",
            SRV,
            &[&format!("0 100 80 {web}")],
        )
        .await;
    cluster
        .check(
            "_dns._udp.web.default.svc.cluster.local",
            SRV,
            &[&format!("0 100 53 {web}")],
        )
        .await;
    cluster
        .check(
            "_sql._tcp.db.data.svc.cluster.local",
            SRV,
            &[
                "0 100 5432 10-244-0-8.db.data.svc.cluster.local.",
                "0 100 5432 db-0.db.data.svc.cluster.local.",
                "0 100 5432 db-1.db.data.svc.cluster.local.",
            ],
        )
        .await;
    let answer = cluster
        .ask("_sql._tcp.db.data.svc.cluster.local", SRV)
        .await;
    let mut additional: Vec<String> = answer
        .additionals
        .iter()
        .map(|it| format!("{} {}", it.name, it.data))
        .collect();
    additional.sort();
    assert_eq!(
        additional,
        [
            "10-244-0-8.db.data.svc.cluster.local. 10.244.0.8",
            "db-0.db.data.svc.cluster.local. 10.244.0.5",
            "db-1.db.data.svc.cluster.local. 10.244.0.6",
        ]
    );
}

#[tokio::test]
async fn addresses_lead_back_to_names() {
    let cluster = cluster().await;
    cluster
        .check(
            "20.0.96.10.in-addr.arpa",
            PTR,
            &["web.default.svc.cluster.local."],
        )
        .await;
    cluster
        .check(
            "5.0.244.10.in-addr.arpa",
            PTR,
            &["db-0.db.data.svc.cluster.local."],
        )
        .await;
    cluster
        .check(
            "8.0.244.10.in-addr.arpa",
            PTR,
            &["10-244-0-8.db.data.svc.cluster.local."],
        )
        .await;
    let v6 = format!("0.2.{}d.f.ip6.arpa", "0.".repeat(28));
    cluster
        .check(&v6, PTR, &["web.default.svc.cluster.local."])
        .await;
}

#[tokio::test]
async fn the_cluster_itself_and_its_pods_have_names() {
    let cluster = cluster().await;
    cluster
        .check("dns-version.cluster.local", TXT, &["1.1.0"])
        .await;
    cluster
        .check("10-244-0-99.default.pod.cluster.local", A, &["10.244.0.99"])
        .await;
    cluster
        .check("cluster.local", NS, &["ns.dns.cluster.local."])
        .await;
    cluster
        .check("ns.dns.cluster.local", A, &["10.96.0.10"])
        .await;
    let answer = cluster.ask("cluster.local", SOA).await;
    assert_eq!(answer.answers.len(), 1);
    cluster
        .check_negative("cluster.local", HINFO, ResponseCode::NoError)
        .await;
}

#[tokio::test]
async fn an_alias_comes_with_what_it_leads_to() {
    let cluster = cluster().await;
    let web = "web.default.svc.cluster.local.";
    cluster
        .check("alias.default.svc.cluster.local", A, &[web, "10.96.0.20"])
        .await;
    cluster
        .check("alias.default.svc.cluster.local", CNAME, &[web])
        .await;
    // Answered by the upstream of the test.
    cluster
        .check(
            "outside.default.svc.cluster.local",
            A,
            &["www.example.com.", "192.0.2.1"],
        )
        .await;
}

#[tokio::test]
async fn a_change_is_seen_at_once_and_a_service_that_is_gone_leaves_nothing_behind() {
    let cluster = cluster().await;
    cluster.set(
        "default",
        "v4",
        service!({"clusterIP": "10.96.0.99", "ports": [{"port": 80}]}),
        &[],
    );
    cluster
        .check("v4.default.svc.cluster.local", A, &["10.96.0.99"])
        .await;
    cluster
        .check(
            "99.0.96.10.in-addr.arpa",
            PTR,
            &["v4.default.svc.cluster.local."],
        )
        .await;
    cluster.remove("data", "db");
    cluster.remove("data", "empty");
    for name in [
        "db.data.svc.cluster.local",
        "db-0.db.data.svc.cluster.local",
        "data.svc.cluster.local",
    ] {
        cluster.check_negative(name, A, NXDOMAIN).await;
    }
    // The upstream of the test doesn't know these either, but it is asked now.
    let before = cluster.upstream_questions();
    cluster.ask("5.0.244.10.in-addr.arpa", PTR).await;
    assert_eq!(cluster.upstream_questions(), before + 1);
}

#[tokio::test]
async fn before_everything_is_known_no_name_is_denied() {
    let cluster = Cluster::unsynced().await;
    cluster.set("default", "web", service!({"clusterIP": "10.96.0.20"}), &[]);
    cluster
        .check("web.default.svc.cluster.local", A, &["10.96.0.20"])
        .await;
    let answer = cluster.ask("later.default.svc.cluster.local", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    cluster.synced();
    cluster
        .check_negative("later.default.svc.cluster.local", A, NXDOMAIN)
        .await;
}
