//! Pods on a node that is a network namespace: who reaches whom, beside whose firewall, and what is left.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use common::{Machine, NODE_IP, Netns, OUTSIDE_IP, Pod, eventually, skip};
use kernelet_attach::{HostPort, PodNetwork, Protocol};

/// Answers every connection with `name` and the client's address.
fn serve(netns: &Netns, at: &str, name: &str) -> SocketAddr {
    let (at, name) = (at.to_owned(), name.to_owned());
    let listener = netns.run(move || TcpListener::bind(at).expect("listen"));
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().expect("peer").ip();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
    address
}

/// Connects from `netns` and gives what the server says.
fn ask(netns: &Netns, to: impl Into<SocketAddr>) -> Result<String, ErrorKind> {
    let to = to.into();
    netns.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))
            .map_err(|error| error.kind())?;
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .map_err(|error| error.kind())?;
        Ok(text)
    })
}

fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

const DROP_EVERYTHING: &str = "nft 'add table inet foreign
    add chain inet foreign forward { type filter hook forward priority 0; policy drop; }
    add chain inet foreign input { type filter hook input priority 0; policy drop; }
    add rule inet foreign input iif lo accept
    add rule inet foreign input ct state established,related accept'";

fn agent_sees_chains(machine: &Machine, dropping: bool) {
    eventually("the agent has seen the chains", || {
        let row = kernelet_maps::view::node(&machine.instance_id).expect("the view");
        if (row.host_by_loopback, row.egress) == (dropping, dropping) {
            Ok(())
        } else {
            Err(format!("{row:?}"))
        }
    });
}

/// Pod to pod, pod to node, node to pod, by address and by Service.
fn check_reachability(machine: &Machine, a: (&Pod, IpAddr), b: (&Pod, IpAddr)) {
    let node: IpAddr = NODE_IP.parse().expect("an address");
    let service: IpAddr = "10.96.7.7".parse().expect("an address");
    assert_eq!(
        ask(&b.0.netns, address(a.1, 8080)),
        Ok(format!("a {}", b.1)),
        "pod to pod"
    );
    assert_eq!(
        ask(&a.0.netns, address(a.1, 8080)),
        Ok(format!("a {}", a.1)),
        "to itself"
    );
    assert_eq!(
        ask(&machine.node, address(a.1, 8080)),
        Ok(format!("a {node}")),
        "node to pod"
    );
    assert_eq!(
        ask(&b.0.netns, address(node, 9090)),
        Ok(format!("node {}", b.1)),
        "pod to node"
    );
    assert_eq!(
        ask(&b.0.netns, address(service, 80)),
        Ok(format!("a {}", b.1)),
        "pod by Service"
    );
    assert_eq!(
        ask(&a.0.netns, address(service, 80)),
        Ok(format!("a {}", a.1)),
        "hairpin"
    );
    assert_eq!(
        ask(&machine.node, address(service, 80)),
        Ok(format!("a {node}")),
        "node by Service"
    );
}

#[test]
fn pods_node_and_services_reach_each_other_also_beside_a_firewall_that_drops_everything() {
    if skip("pods_node_and_services_reach_each_other") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    assert_eq!(agent.network.unavailable(), None);
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let (ip_a, ip_b) = (agent.attach(&a).ips[0], agent.attach(&b).ips[0]);
    assert_eq!(
        agent.attach(&a).ips[0],
        ip_a,
        "attaching again changes nothing"
    );
    serve(&a.netns, "0.0.0.0:8080", "a");
    serve(&machine.node, &format!("{NODE_IP}:9090"), "node");
    machine
        .api
        .service("web", "10.96.7.7", "TCP", 80, &[(ip_a, 8080)]);
    eventually("the Service is routed", || {
        ask(
            &b.netns,
            "10.96.7.7:80".parse::<SocketAddr>().expect("address"),
        )
        .map_err(|kind| kind.to_string())
    });
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));

    machine.node.sh(DROP_EVERYTHING);
    agent_sees_chains(&machine, true);
    assert_eq!(agent.network.unavailable(), None);
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));

    machine.node.sh("nft delete table inet foreign");
    agent_sees_chains(&machine, false);
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));
}

#[test]
fn pods_reach_the_outside_under_the_nodes_address() {
    if skip("pods_reach_the_outside") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let pod = Pod::new("a");
    agent.attach(&pod);
    serve(&machine.outside, &format!("{OUTSIDE_IP}:7070"), "outside");
    let outside: SocketAddr = format!("{OUTSIDE_IP}:7070").parse().expect("an address");
    assert_eq!(ask(&pod.netns, outside), Ok(format!("outside {NODE_IP}")));

    // Beside a firewall that drops it, past the node's stack: TCP, UDP, and ping.
    machine.node.sh(DROP_EVERYTHING);
    agent_sees_chains(&machine, true);
    assert_eq!(ask(&pod.netns, outside), Ok(format!("outside {NODE_IP}")));
    let server = machine
        .outside
        .run(|| UdpSocket::bind(format!("{OUTSIDE_IP}:7071")).expect("bind"));
    server
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("timeout");
    let client = pod
        .netns
        .run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
    client
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("timeout");
    let at = server.local_addr().expect("address");
    for _ in 0..3 {
        client.send_to(b"question", at).expect("send");
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).expect("receive");
        assert_eq!(
            (&buffer[..length], from.ip().to_string()),
            (b"question".as_slice(), NODE_IP.into())
        );
        server.send_to(b"answer", from).expect("answer");
        let (length, from) = client.recv_from(&mut buffer).expect("receive");
        assert_eq!((&buffer[..length], from), (b"answer".as_slice(), at));
    }
    pod.netns
        .sh(&format!("busybox ping -c 2 -W 2 {OUTSIDE_IP}"));
    // A closed port's refusal is an ICMP error for UDP and a reset for TCP.
    let closed: SocketAddr = format!("{OUTSIDE_IP}:7999").parse().expect("an address");
    assert_eq!(ask(&pod.netns, closed), Err(ErrorKind::ConnectionRefused));
    let refused = pod.netns.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        socket.connect(closed).expect("connect");
        socket.send(b"x").expect("send");
        socket.recv(&mut [0; 8]).map_err(|error| error.kind())
    });
    assert_eq!(
        refused,
        Err(ErrorKind::ConnectionRefused),
        "the quoted packet is the pod's"
    );
    // Much data, so that segmentation offload is met.
    let (sent, received) = transfer(&machine.outside, &pod.netns);
    assert_eq!(sent, received);
    let row = kernelet_maps::view::node(&machine.instance_id).expect("the view");
    assert!(row.translations >= 8, "{row:?}");

    // Somebody flushes all rules: ours are back.
    machine.node.sh("nft flush ruleset");
    agent_sees_chains(&machine, false);
    eventually("masquerading is back", || match ask(&pod.netns, outside) {
        Ok(answer) if answer == format!("outside {NODE_IP}") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// 8 MiB from `client` to `server` and back; what was sent and what came back, as checksums.
fn transfer(server: &Netns, client: &Netns) -> (u64, u64) {
    let sum = |bytes: &[u8]| {
        bytes.iter().fold(7_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        })
    };
    let listener = server.run(|| TcpListener::bind(format!("{OUTSIDE_IP}:7072")).expect("listen"));
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read");
        stream.write_all(&all).expect("write");
    });
    client.run(move || {
        let data: Vec<u8> = (0..8_u32 << 20).map(|n| (n ^ (n >> 8)) as u8).collect();
        let mut stream = TcpStream::connect(address).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        stream.write_all(&data).expect("write");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("read");
        (sum(&data), sum(&back))
    })
}

#[test]
fn a_service_address_that_no_hook_translates_fails_at_once_and_never_leaves_the_machine() {
    if skip("a_service_address_that_no_hook_translates_fails_at_once") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let pod = Pod::new("a");
    let ip = agent.attach(&pod).ips[0];
    let nowhere: SocketAddr = "10.96.200.200:80".parse().expect("an address");
    let seen = machine
        .outside
        .sh("cat /sys/class/net/eth0/statistics/rx_packets || true");
    assert!(matches!(
        ask(&machine.node, nowhere),
        Err(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)
    ));
    assert!(matches!(
        ask(&pod.netns, nowhere),
        Err(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)
    ));
    // So does the address of a pod that is gone.
    agent.detach(&pod);
    assert!(matches!(
        ask(&machine.node, address(ip, 8080)),
        Err(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)
    ));
    let _ = seen;
}

#[test]
fn a_pod_cannot_speak_from_an_address_that_is_not_its_own() {
    if skip("a_pod_cannot_speak_from_an_address_that_is_not_its_own") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let (ip_a, _) = (agent.attach(&a).ips[0], agent.attach(&b).ips[0]);
    let server = a
        .netns
        .run(move || UdpSocket::bind(address(ip_a, 5353)).expect("bind"));
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    let send = |from: &str| {
        let from = from.to_owned();
        b.netns.run(move || {
            let socket = UdpSocket::bind(from).expect("bind");
            socket.send_to(b"x", address(ip_a, 5353)).expect("send");
        });
        server.recv_from(&mut [0; 8]).map(|(_, from)| from.ip())
    };
    assert!(send("0.0.0.0:0").is_ok());
    b.netns.sh("ip address add 10.244.1.99/32 dev lo");
    assert!(send("10.244.1.99:0").is_err());
    let counters = kernelet_maps::view::counters(&machine.instance_id).expect("counters");
    let dropped = counters
        .iter()
        .find(|row| row.reason == "foreign-source")
        .expect("the row");
    assert!(dropped.count >= 1);
}

#[test]
fn a_host_port_is_open_on_the_node_for_pods_and_the_node() {
    if skip("a_host_port_is_open_on_the_node") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let port = HostPort {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 8888,
        container_port: 8080,
    };
    agent.attach_with(&a, vec![port]);
    let ip_b = agent.attach(&b).ips[0];
    serve(&a.netns, "0.0.0.0:8080", "a");
    let at: SocketAddr = format!("{NODE_IP}:8888").parse().expect("an address");
    assert_eq!(ask(&b.netns, at), Ok(format!("a {ip_b}")));
    assert_eq!(ask(&machine.node, at), Ok(format!("a {NODE_IP}")));
    let loopback: SocketAddr = "127.0.0.1:8888".parse().expect("an address");
    assert_eq!(ask(&machine.node, loopback), Ok(format!("a {NODE_IP}")));
    agent.detach(&a);
    assert_eq!(ask(&b.netns, at), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn everything_routes_on_without_an_agent_and_the_next_one_takes_over() {
    if skip("everything_routes_on_without_an_agent") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let (ip_a, ip_b) = (agent.attach(&a).ips[0], agent.attach(&b).ips[0]);
    serve(&a.netns, "0.0.0.0:8080", "a");
    serve(&machine.node, &format!("{NODE_IP}:9090"), "node");
    machine
        .api
        .service("web", "10.96.7.7", "TCP", 80, &[(ip_a, 8080)]);
    machine
        .api
        .service("old", "10.96.7.8", "TCP", 80, &[(ip_a, 8080)]);
    let old: SocketAddr = "10.96.7.8:80".parse().expect("an address");
    eventually("the Services are routed", || {
        ask(&b.netns, old).map_err(|kind| kind.to_string())
    });
    agent.stop();
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));

    // While no agent runs, a Service goes and a pod's namespace with it.
    machine.api.delete("services", "default", "old");
    let agent = machine.start();
    let mut found = agent
        .handle
        .block_on(agent.network.attached())
        .expect("the list");
    found.sort_by(|x, y| x.0.name.cmp(&y.0.name));
    assert_eq!(found.len(), 2);
    assert_eq!(
        (&found[0].0, found[0].1.ips.as_slice()),
        (&a.id, [ip_a].as_slice())
    );
    eventually("the Service that went is not routed", || {
        match ask(&b.netns, old) {
            Err(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));
    assert_eq!(
        agent.attach(&a).ips[0],
        ip_a,
        "the node attaches again, and nothing changes"
    );
    let c = Pod::new("c");
    let ip_c = agent.attach(&c).ips[0];
    assert!(ip_c != ip_a && ip_c != ip_b);
    check_reachability(&machine, (&a, ip_a), (&b, ip_b));
}

#[test]
fn a_route_that_somebody_removes_comes_back() {
    if skip("a_route_that_somebody_removes_comes_back") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let a = Pod::new("a");
    let ip = agent.attach(&a).ips[0];
    serve(&a.netns, "0.0.0.0:8080", "a");
    machine.node.sh("ip route flush proto 75");
    eventually("the pod's route is back", || {
        ask(&machine.node, address(ip, 8080)).map_err(|kind| kind.to_string())
    });
    let routes = machine.node.sh("ip route show");
    assert!(routes.contains("unreachable 10.96.0.0/16"), "{routes}");
    // So does a whole link.
    let link = kernelet_net_plan::link_name(&a.id.uid);
    machine.node.sh(&format!("ip link del {link}"));
    eventually("the pod's link is back", || {
        ask(&machine.node, address(ip, 8080)).map_err(|kind| kind.to_string())
    });
    let b = Pod::new("b");
    agent.attach(&b);
    assert!(
        ask(&b.netns, address(ip, 8080)).is_ok(),
        "also past the node's stack"
    );
}

#[test]
fn purge_leaves_the_node_as_it_was() {
    if skip("purge_leaves_the_node_as_it_was") {
        return;
    }
    let machine = Machine::new();
    let look = || {
        machine.node.sh(
            "ip -o link show | cut -d: -f2; ip -4 route show table all; ip -6 route show proto 75; ip neigh show nud permanent; bpftool net show 2>/dev/null | grep tcx || true; nft list ruleset; \
             sysctl -a 2>/dev/null | grep -E '^net.ipv[46].conf.(all|eth0|lo).(forwarding|rp_filter|accept_ra)'",
        )
    };
    machine.node.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    machine.node.sh(DROP_EVERYTHING);
    let before = look();
    let agent = machine.start();
    let a = Pod::new("a");
    agent.attach(&a);
    eventually("the agent has changed something", || {
        let now = look();
        if now == before || !now.contains("masquerade") {
            Err(now)
        } else {
            Ok(())
        }
    });
    agent.stop();
    assert_eq!(machine.purge(), Vec::<String>::new());
    assert_eq!(look(), before);
    assert!(
        !std::path::Path::new("/sys/fs/bpf/kernelet")
            .join(&machine.instance_id)
            .exists()
    );
}

/// A question for one name's A record, and the answer's addresses and code.
fn resolve(netns: &Netns, name: &str, connected: bool) -> Result<(u8, Vec<IpAddr>), ErrorKind> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    netns.run(move || {
        let server: SocketAddr = "10.96.0.10:53".parse().expect("an address");
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        if connected {
            socket.connect(server).map_err(|error| error.kind())?;
            socket.send(&question).map_err(|error| error.kind())?;
        } else {
            socket
                .send_to(&question, server)
                .map_err(|error| error.kind())?;
        }
        let mut buffer = [0; 512];
        let (length, from) = socket
            .recv_from(&mut buffer)
            .map_err(|error| error.kind())?;
        assert_eq!(from, server, "a resolver takes only its server's answers");
        let answer = &buffer[..length];
        // The answers are one A record or none, and its address ends the message.
        let addresses: Vec<IpAddr> = match answer[7] {
            0 => Vec::new(),
            _ => vec![IpAddr::from(
                <[u8; 4]>::try_from(&answer[length - 4..]).expect("four"),
            )],
        };
        Ok((answer[3] & 0xf, addresses))
    })
}

#[test]
fn names_are_resolved_from_pods_and_the_node_also_beside_a_firewall_that_drops_everything() {
    if skip("names_are_resolved_from_pods_and_the_node") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let a = Pod::new("a");
    let ip = agent.attach(&a).ips[0];
    machine
        .api
        .service("web", "10.96.7.7", "TCP", 80, &[(ip, 8080)]);
    let web: IpAddr = "10.96.7.7".parse().expect("an address");
    let check = || {
        for netns in [&a.netns, &machine.node] {
            for connected in [true, false] {
                eventually("the name is known", || {
                    match resolve(netns, "web.default.svc.cluster.local", connected) {
                        Ok((0, addresses)) if addresses == [web] => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                });
                // NXDOMAIN.
                let absent = resolve(netns, "absent.default.svc.cluster.local", connected);
                assert_eq!(absent.map(|(code, _)| code), Ok(3));
            }
        }
    };
    check();
    machine.node.sh(DROP_EVERYTHING);
    agent_sees_chains(&machine, true);
    check();
}

#[test]
fn fifty_pods_are_attached_at_once_and_detached_without_a_trace() {
    if skip("fifty_pods_are_attached_at_once") {
        return;
    }
    let machine = Machine::new();
    let agent = machine.start();
    let pods: Vec<Pod> = (0..50).map(|n| Pod::new(&format!("p{n}"))).collect();
    let attach = |pod: &Pod| {
        let request = kernelet_attach::AttachRequest {
            pod: pod.id.clone(),
            netns: pod.netns.fd(),
            host_ports: Vec::new(),
            wanted_ips: Vec::new(),
        };
        let network = agent.network.clone();
        agent
            .handle
            .spawn(async move { network.attach(request).await })
    };
    let begin = std::time::Instant::now();
    let all: Vec<_> = pods.iter().map(attach).collect();
    let mut ips = std::collections::BTreeSet::new();
    for attached in all {
        let attached = agent.handle.block_on(attached).expect("the task");
        ips.insert(attached.unwrap_or_else(|error| panic!("{error:?}")).ips[0]);
    }
    println!("50 pods attached at once in {:?}", begin.elapsed());
    assert_eq!(ips.len(), 50, "each has its own address");
    let one = std::time::Instant::now();
    agent.detach(&pods[0]);
    println!("one detached in {:?}", one.elapsed());
    let one = std::time::Instant::now();
    agent.attach(&pods[0]);
    println!("one attached in {:?}", one.elapsed());
    for pod in &pods {
        agent.detach(pod);
        agent.detach(pod);
    }
    let links = machine
        .node
        .sh("ip -o link | grep -cE '^[0-9]+: kl' || true");
    assert_eq!(links.trim(), "0");
    let rows = kernelet_maps::view::pods(&machine.instance_id).expect("the view");
    assert!(rows.is_empty(), "{rows:?}");
    assert!(
        agent
            .handle
            .block_on(agent.network.attached())
            .expect("the list")
            .is_empty()
    );
}
