//! Transports, sizes, upstreams, and what doesn't deserve an answer.

mod support;

use std::{
    fs,
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, rdata::A as AData},
};
use kernelet_dns::Upstreams;
use support::{
    Cluster, RecordType, Upstream, ask_tcp, ask_udp, ask_udp_sized, knows_example, question,
    reply_to, service, slice, with_edns,
};
use tokio::net::UdpSocket;

const A: RecordType = RecordType::A;

fn data(answer: &Message) -> Vec<String> {
    answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[tokio::test]
async fn udp_and_tcp_give_the_same_answer() {
    let cluster = Cluster::start().await;
    cluster.set("default", "web", service!({"clusterIP": "10.96.0.20"}), &[]);
    let question = question("web.default.svc.cluster.local", A);
    let (udp, tcp) = (
        ask_udp(cluster.address, &question).await,
        ask_tcp(cluster.address, &question).await,
    );
    assert_eq!(data(&udp), ["10.96.0.20"]);
    assert_eq!(udp, tcp);
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_udp_is_cut_and_comes_whole_over_tcp() {
    let cluster = Cluster::start().await;
    let addresses: Vec<String> = (0..200).map(|i| format!("10.244.0.{i}")).collect();
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| ("", address.as_str(), true))
        .collect();
    cluster.set(
        "default",
        "many",
        service!({"clusterIP": "None"}),
        &[slice(&endpoints, &[])],
    );
    let question = question("many.default.svc.cluster.local", A);

    let (plain, size) = ask_udp_sized(cluster.address, &question).await;
    assert!(plain.metadata.truncation && size <= 512, "{size} bytes");
    let (larger, size) = ask_udp_sized(cluster.address, &with_edns(question.clone(), 4096)).await;
    assert!(larger.metadata.truncation && size <= 1232, "{size} bytes");
    assert!(larger.answers.len() > plain.answers.len());
    assert!(larger.edns.is_some());
    let whole = ask_tcp(cluster.address, &question).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[tokio::test]
async fn names_outside_the_cluster_are_asked_upstream() {
    let cluster = Cluster::start().await;
    cluster.check("www.example.com", A, &["192.0.2.1"]).await;
    let nothing = cluster.ask("nothing.example.com", A).await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
    let over_tcp = ask_tcp(cluster.address, &question("www.example.com", A)).await;
    assert_eq!(data(&over_tcp), ["192.0.2.1"]);
    // Names of the cluster never leave it.
    let before = cluster.upstream_questions();
    cluster.ask("nothing.default.svc.cluster.local", A).await;
    cluster.ask("cluster.local", A).await;
    assert_eq!(cluster.upstream_questions(), before);
}

#[tokio::test]
async fn a_truncated_answer_from_upstream_is_passed_on_and_tcp_gets_the_whole() {
    let upstream = Upstream::with_tcp(
        |question| {
            let mut answer = reply_to(question);
            answer.metadata.truncation = true;
            Some(answer)
        },
        |question| {
            let mut answer = reply_to(question);
            let name = question.queries[0].name.clone();
            answer.add_answer(Record::from_rdata(
                name,
                60,
                RData::A(AData([192, 0, 2, 7].into())),
            ));
            Some(answer)
        },
    )
    .await;
    let cluster = Cluster::with_upstreams(Upstreams::Fixed(vec![upstream.address])).await;
    let question = question("large.example.com", A);
    assert!(
        ask_udp(cluster.address, &question)
            .await
            .metadata
            .truncation
    );
    assert_eq!(
        data(&ask_tcp(cluster.address, &question).await),
        ["192.0.2.7"]
    );
    // An alias is resolved whole, since nobody could ask again for its part.
    cluster.set(
        "default",
        "large",
        service!({"type": "ExternalName", "externalName": "large.example.com"}),
        &[],
    );
    cluster
        .check(
            "large.default.svc.cluster.local",
            A,
            &["large.example.com.", "192.0.2.7"],
        )
        .await;
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_fails_or_is_silent() {
    let failing = Upstream::start(|question| {
        let mut answer = reply_to(question);
        answer.metadata.response_code = ResponseCode::ServFail;
        Some(answer)
    })
    .await;
    let silent = Upstream::start(|_| None).await;
    let good = Upstream::start(knows_example).await;
    let upstreams = vec![failing.address, silent.address, good.address];
    let cluster = Cluster::with_upstreams(Upstreams::Fixed(upstreams)).await;
    cluster.check("www.example.com", A, &["192.0.2.1"]).await;
    assert!(failing.questions() >= 1 && silent.questions() >= 1);
}

#[tokio::test]
async fn without_upstreams_the_cluster_is_still_served_and_the_rest_is_denied_at_once() {
    let cluster = Cluster::with_upstreams(Upstreams::Fixed(vec![])).await;
    cluster.set("default", "web", service!({"clusterIP": "10.96.0.20"}), &[]);
    cluster
        .check("web.default.svc.cluster.local", A, &["10.96.0.20"])
        .await;
    // At once, also for musl, which takes no other answer for one.
    let start = Instant::now();
    let answer = cluster.ask("www.example.com", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn answers_to_other_questions_are_not_believed() {
    let liar = Upstream::start(|question| {
        let mut answer = reply_to(question);
        answer.metadata.id ^= 1;
        let name = question.queries[0].name.clone();
        answer.add_answer(Record::from_rdata(
            name,
            60,
            RData::A(AData([6, 6, 6, 6].into())),
        ));
        Some(answer)
    })
    .await;
    let cluster = Cluster::with_upstreams(Upstreams::Fixed(vec![liar.address])).await;
    let answer = cluster.ask("www.example.com", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(liar.questions() >= 1);
}

/// Where the resolver that sends everything back to us sends it.
static BACK_TO: OnceLock<SocketAddr> = OnceLock::new();

#[tokio::test]
async fn an_upstream_that_asks_us_in_turn_is_dropped() {
    let relay = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = relay.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = relay.recv_from(&mut buffer).await {
            // The first question, the probe, may come before the test has the address.
            while BACK_TO.get().is_none() {
                tokio::task::yield_now().await;
            }
            let back_to = BACK_TO.wait();
            let question = buffer[..length].to_vec();
            let onward = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            onward.send_to(&question, back_to).await.expect("sends");
            let mut answer = vec![0; 65_535];
            let wait = tokio::time::timeout(Duration::from_secs(1), onward.recv(&mut answer)).await;
            if let Ok(Ok(length)) = wait {
                relay
                    .send_to(&answer[..length], client)
                    .await
                    .expect("sends");
            }
        }
    });
    let good = Upstream::start(knows_example).await;
    let cluster = Cluster::with_upstreams(Upstreams::Fixed(vec![address, good.address])).await;
    BACK_TO.set(cluster.address).expect("set once");
    // The probe is on its way since the start; from the moment it is through, one good upstream is left.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let start = Instant::now();
        let answer = cluster.ask("www.example.com", A).await;
        if data(&answer) == ["192.0.2.1"] && start.elapsed() < Duration::from_millis(500) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the looping upstream is still asked: {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_hosts_resolvers_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("resolv.conf");
    let cluster = Cluster::with_upstreams(Upstreams::ResolvConf(file.clone())).await;
    let code = async || {
        let answer = cluster.ask("www.example.com", A).await;
        answer.metadata.response_code
    };
    // No file, and then only our own address: nobody is asked, and nothing waits.
    assert_eq!(code().await, ResponseCode::NXDomain);
    fs::write(&file, "nameserver 10.96.0.10\n").expect("writes");
    assert_eq!(code().await, ResponseCode::NXDomain);
    // An address where nobody answers on port 53: somebody was asked.
    fs::write(&file, "nameserver 127.7.7.7\nnameserver 10.96.0.10\n").expect("writes");
    assert_eq!(code().await, ResponseCode::ServFail);
    fs::remove_file(&file).expect("removes");
    assert_eq!(code().await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_is_not_a_question_gets_an_error_or_nothing_and_does_no_harm() {
    let cluster = Cluster::start().await;
    cluster.set("default", "web", service!({"clusterIP": "10.96.0.20"}), &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    for noise in [
        &b""[..],
        b"x",
        &[0; 11],
        &[0xff; 12],
        &[0xff; 600],
        &[0; 12],
    ] {
        socket.send_to(noise, cluster.address).await.expect("sends");
    }
    let mut update = question("web.default.svc.cluster.local", A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(
        ask_udp(cluster.address, &update)
            .await
            .metadata
            .response_code,
        ResponseCode::NotImp
    );
    let mut chaos = question("web.default.svc.cluster.local", A);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(
        ask_udp(cluster.address, &chaos)
            .await
            .metadata
            .response_code,
        ResponseCode::Refused
    );
    let mut response = question("web.default.svc.cluster.local", A);
    response.metadata.message_type = MessageType::Response;
    socket
        .send_to(&response.to_vec().expect("encodes"), cluster.address)
        .await
        .expect("sends");
    cluster
        .check("web.default.svc.cluster.local", A, &["10.96.0.20"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_changes_all_the_time_is_never_half_there() {
    let cluster = std::sync::Arc::new(Cluster::start().await);
    let states = [
        service!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}),
        service!({"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"]}),
    ];
    cluster.set("default", "web", states[0].clone(), &[]);
    let writer = {
        let cluster = cluster.clone();
        tokio::task::spawn_blocking(move || {
            for i in 0..20_000 {
                cluster.set("default", "web", states[i % 2].clone(), &[]);
            }
        })
    };
    while !writer.is_finished() {
        let answer = cluster.ask("web.default.svc.cluster.local", A).await;
        let found = data(&answer);
        assert!(
            found == ["10.96.0.1"] || found == ["10.96.0.2"],
            "{found:?}"
        );
    }
    writer.await.expect("writes");
    cluster
        .check(
            "2.0.96.10.in-addr.arpa",
            RecordType::PTR,
            &["web.default.svc.cluster.local."],
        )
        .await;
}
