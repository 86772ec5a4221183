//! A DNS server on loopback with an upstream of its own.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use hickory_proto::rr::RecordType;
use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record, rdata::A},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kernelet_dns::{Dns, DnsConfig, Records, ServiceKey, ServiceRecords, Upstreams};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

/// A Service with this spec.
macro_rules! service {
    ($($spec:tt)+) => {
        serde_json::from_value::<k8s_openapi::api::core::v1::Service>(
            serde_json::json!({"metadata": {}, "spec": serde_json::json!($($spec)+)}),
        )
        .expect("a Service")
    };
}
pub(crate) use service;

/// An EndpointSlice: host name, address, ready; and ports.
pub fn slice(endpoints: &[(&str, &str, bool)], ports: &[(&str, i32)]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(host, address, ready)| {
            let host = (!host.is_empty()).then_some(host);
            json!({"hostname": host, "addresses": [address], "conditions": {"ready": ready}})
        })
        .collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port}))
        .collect();
    serde_json::from_value(
        json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}),
    )
    .expect("an EndpointSlice")
}

/// An upstream that knows `www.example.com` and counts questions.
pub struct Upstream {
    pub address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

/// What an upstream does with a question.
pub type Behaviour = fn(&Message) -> Option<Message>;

/// Knows `www.example.com`, and `large.example.com` over TCP only.
pub fn knows_example(question: &Message) -> Option<Message> {
    let mut answer = reply_to(question);
    let query = &question.queries[0];
    let name = query.name.to_string().to_lowercase();
    match (name.as_str(), query.query_type) {
        ("www.example.com.", RecordType::A) => {
            answer.add_answer(Record::from_rdata(
                query.name.clone(),
                60,
                RData::A(A([192, 0, 2, 1].into())),
            ));
        }
        ("www.example.com.", _) => {}
        _ => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(answer)
}

pub fn reply_to(question: &Message) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    answer
}

impl Upstream {
    /// Answers over UDP and TCP. The loop probe isn't counted.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::with_tcp(behaviour, behaviour).await
    }

    pub async fn with_tcp(over_udp: Behaviour, over_tcp: Behaviour) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = udp.local_addr().expect("an address");
        let tcp = TcpListener::bind(address)
            .await
            .expect("the same port for TCP");
        let questions = Arc::new(AtomicUsize::new(0));
        let count = questions.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).expect("a question");
                if question.queries[0].query_type != RecordType::HINFO {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                if let Some(answer) = over_udp(&question) {
                    udp.send_to(&answer.to_vec().expect("encodes"), client)
                        .await
                        .expect("sends");
                }
            }
        });
        let count = questions.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let length = stream.read_u16().await.expect("a length");
                let mut buffer = vec![0; usize::from(length)];
                stream.read_exact(&mut buffer).await.expect("a question");
                count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = over_tcp(&Message::from_vec(&buffer).expect("a question")) {
                    let bytes = answer.to_vec().expect("encodes");
                    stream.write_u16(bytes.len() as u16).await.expect("sends");
                    stream.write_all(&bytes).await.expect("sends");
                }
            }
        });
        Self { address, questions }
    }

    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

pub struct Cluster {
    pub address: SocketAddr,
    records: Records,
    upstream: Upstream,
    shutdown: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    pub async fn start() -> Self {
        let cluster = Self::unsynced().await;
        cluster.synced();
        cluster
    }

    pub async fn unsynced() -> Self {
        let upstream = Upstream::start(knows_example).await;
        let upstreams = Upstreams::Fixed(vec![upstream.address]);
        Self::serving(upstream, upstreams).await
    }

    pub async fn with_upstreams(upstreams: Upstreams) -> Self {
        let cluster = Self::serving(Upstream::start(knows_example).await, upstreams).await;
        cluster.synced();
        cluster
    }

    async fn serving(upstream: Upstream, upstreams: Upstreams) -> Self {
        let records = Records::new();
        let shutdown = CancellationToken::new();
        let config = DnsConfig {
            bind: "127.0.0.1:0".parse().expect("an address"),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            upstreams,
        };
        let dns = Dns::start(config, records.clone(), shutdown.clone())
            .await
            .expect("starts");
        Self {
            address: dns.address(),
            records,
            upstream,
            shutdown,
        }
    }

    pub fn synced(&self) {
        self.records.set_synced();
    }

    pub fn set(&self, namespace: &str, name: &str, service: Service, slices: &[EndpointSlice]) {
        let records = ServiceRecords::build(&service, slices);
        self.records
            .set(&ServiceKey::new(namespace, name), Some(records));
    }

    pub fn remove(&self, namespace: &str, name: &str) {
        self.records.set(&ServiceKey::new(namespace, name), None);
    }

    pub fn upstream_questions(&self) -> usize {
        self.upstream.questions()
    }

    pub async fn ask(&self, name: &str, ty: RecordType) -> Message {
        ask_udp(self.address, &question(name, ty)).await
    }

    /// The records' data, in any order.
    pub async fn check(&self, name: &str, ty: RecordType, wanted: &[&str]) {
        let answer = self.ask(name, ty).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{name} {ty}"
        );
        let mut found: Vec<String> = answer
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect();
        let mut wanted: Vec<String> = wanted.iter().map(|it| (*it).to_owned()).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{name} {ty}");
        let first = answer.answers[0].name.to_string();
        assert!(
            first.eq_ignore_ascii_case(&format!("{name}.")),
            "{name}: the answer is about {first}"
        );
    }

    /// Nothing, with a start of authority that says how long that holds.
    pub async fn check_negative(&self, name: &str, ty: RecordType, code: ResponseCode) {
        let answer = self.ask(name, ty).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {ty}");
        assert!(
            answer.answers.is_empty(),
            "{name} {ty}: {:?}",
            answer.answers
        );
        let [authority] = answer.authorities.as_slice() else {
            panic!("{name} {ty}: no authority")
        };
        let RData::SOA(soa) = &authority.data else {
            panic!("{name} {ty}: {authority}")
        };
        assert_eq!((authority.ttl, soa.minimum), (5, 5), "{name} {ty}");
    }
}

pub fn question(name: &str, ty: RecordType) -> Message {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, ty));
    message
}

pub fn with_edns(mut question: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(0);
    question.set_edns(edns);
    question
}

pub async fn ask_udp(server: SocketAddr, question: &Message) -> Message {
    let (answer, _) = ask_udp_sized(server, question).await;
    answer
}

/// The answer and how many bytes it had.
pub async fn ask_udp_sized(server: SocketAddr, question: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    socket.connect(server).await.expect("connects");
    socket
        .send(&question.to_vec().expect("encodes"))
        .await
        .expect("sends");
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer in time")
        .expect("receives");
    let answer = Message::from_vec(&buffer[..length]).expect("an answer");
    assert_eq!(answer.metadata.id, question.metadata.id);
    (answer, length)
}

pub async fn ask_tcp(server: SocketAddr, question: &Message) -> Message {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let bytes = question.to_vec().expect("encodes");
        stream.write_u16(bytes.len() as u16).await?;
        stream.write_all(&bytes).await?;
        let length = stream.read_u16().await?;
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await?;
        Ok::<_, std::io::Error>(buffer)
    };
    let buffer = timeout(PATIENCE, exchange)
        .await
        .expect("an answer in time")
        .expect("an exchange");
    Message::from_vec(&buffer).expect("an answer")
}
