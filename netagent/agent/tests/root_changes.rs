//! What happens to connections and sockets when a Service's backends change, and how fast.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use common::{Machine, NODE_IP, Netns, Pod, eventually, skip};
use serde_json::json;

const SERVICE: &str = "10.96.9.9:80";

fn service() -> SocketAddr {
    SERVICE.parse().expect("an address")
}

/// Echoes bytes on every connection, with the server's name in front of each answer.
fn echo_tcp(netns: &Netns, name: &'static str) {
    let listener = netns.run(|| TcpListener::bind("0.0.0.0:8080").expect("listen"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).is_ok() {
                    if stream.write_all(name.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn echo_udp(netns: &Netns, name: &'static str) {
    let socket = netns.run(|| UdpSocket::bind("0.0.0.0:8080").expect("bind"));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

fn say(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"x")?;
    let mut name = [0; 1];
    stream.read_exact(&mut name)?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

struct Two {
    machine: Machine,
    agent: common::Agent,
    a: (Pod, IpAddr),
    b: (Pod, IpAddr),
    client: Pod,
}

/// Two servers and a client.
fn two(protocol: &str) -> Two {
    let machine = Machine::new();
    let agent = machine.start();
    let (a, b, client) = (Pod::new("a"), Pod::new("b"), Pod::new("client"));
    let (ip_a, ip_b) = (agent.attach(&a).ips[0], agent.attach(&b).ips[0]);
    agent.attach(&client);
    for (pod, name) in [(&a, "a"), (&b, "b")] {
        echo_tcp(&pod.netns, name);
        echo_udp(&pod.netns, name);
    }
    machine.api.service(
        "web",
        "10.96.9.9",
        protocol,
        80,
        &[(ip_a, 8080), (ip_b, 8080)],
    );
    wait_for_backends(&machine, 2);
    Two {
        machine,
        agent,
        a: (a, ip_a),
        b: (b, ip_b),
        client,
    }
}

fn wait_for_backends(machine: &Machine, count: usize) {
    eventually("the backends are in the map", || {
        let rows = kernelet_maps::view::services(&machine.instance_id).expect("the view");
        match rows.iter().find(|row| row.address == service()) {
            Some(row) if row.backends.len() == count => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn an_open_connection_survives_every_change_of_backends() {
    if skip("an_open_connection_survives_every_change_of_backends") {
        return;
    }
    let two = two("TCP");
    let mut streams: Vec<TcpStream> = (0..8)
        .map(|_| {
            two.client
                .netns
                .run(|| TcpStream::connect(service()).expect("connect"))
        })
        .collect();
    let names: Vec<String> = streams
        .iter_mut()
        .map(|stream| say(stream).expect("an answer"))
        .collect();
    assert!(names.iter().any(|name| name == "a") && names.iter().any(|name| name == "b"));
    // One goes, then both, then one is back: who is connected stays so.
    for backends in [vec![two.b.1], vec![], vec![two.a.1]] {
        let backends: Vec<_> = backends.into_iter().map(|ip| (ip, 8080)).collect();
        two.machine.api.endpoints("web", "TCP", &backends);
        wait_for_backends(&two.machine, backends.len());
        for (stream, name) in streams.iter_mut().zip(&names) {
            assert_eq!(say(stream).as_ref().ok(), Some(name));
        }
        let fresh = two
            .client
            .netns
            .run(|| TcpStream::connect(service()).map_err(|error| error.kind()));
        match backends.first() {
            None => assert_eq!(fresh.expect_err("refused"), ErrorKind::ConnectionRefused),
            Some((ip, _)) => {
                let expect = if *ip == two.a.1 { "a" } else { "b" };
                assert_eq!(
                    say(&mut fresh.expect("connect")).expect("an answer"),
                    expect
                );
            }
        }
    }
}

#[test]
fn a_udp_socket_of_a_removed_backend_is_ended_and_others_are_left_alone() {
    if skip("a_udp_socket_of_a_removed_backend_is_ended") {
        return;
    }
    let two = two("UDP");
    let ask = |socket: &UdpSocket| -> std::io::Result<String> {
        socket.send(b"x")?;
        let mut buffer = [0; 8];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    for netns in [&two.client.netns, &two.machine.node] {
        two.machine
            .api
            .endpoints("web", "UDP", &[(two.a.1, 8080), (two.b.1, 8080)]);
        wait_for_backends(&two.machine, 2);
        let connect = |to: SocketAddr, bind: &str| {
            let bind = bind.to_owned();
            let socket = netns.run(move || {
                let socket = UdpSocket::bind(bind).expect("bind");
                socket.connect(to).expect("connect");
                socket
            });
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .expect("timeout");
            socket
        };
        let mut sockets: Vec<UdpSocket> = (0..8).map(|_| connect(service(), "0.0.0.0:0")).collect();
        // Through an IPv6 socket with a mapped address as well.
        sockets.push(connect(
            format!("[::ffff:{}]:80", service().ip())
                .parse()
                .expect("address"),
            "[::]:0",
        ));
        let direct = connect(SocketAddr::new(two.a.1, 8080), "0.0.0.0:0");
        let unconnected = netns.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
        unconnected
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        let names: Vec<String> = sockets
            .iter()
            .map(|socket| ask(socket).expect("an answer"))
            .collect();
        assert!(names.iter().any(|name| name == "a") && names.iter().any(|name| name == "b"));
        unconnected.send_to(b"x", service()).expect("send");
        unconnected.recv_from(&mut [0; 8]).expect("an answer");

        two.machine.api.endpoints("web", "UDP", &[(two.b.1, 8080)]);
        wait_for_backends(&two.machine, 1);
        for (socket, name) in sockets.iter().zip(&names) {
            if name == "a" {
                let error = eventually("the socket is ended", || match ask(socket) {
                    Err(error) => Ok(error),
                    Ok(answer) => Err(answer),
                });
                assert!(
                    matches!(
                        error.raw_os_error(),
                        Some(libc::ECONNABORTED | libc::EDESTADDRREQ | libc::ENOTCONN)
                    ),
                    "{error}"
                );
            } else {
                assert_eq!(
                    ask(socket).expect("an answer"),
                    "b",
                    "its backend is still one"
                );
            }
        }
        assert_eq!(
            ask(&direct).expect("an answer"),
            "a",
            "it never used the Service"
        );
        unconnected.send_to(b"x", service()).expect("send");
        let mut buffer = [0; 8];
        let (length, _) = unconnected.recv_from(&mut buffer).expect("an answer");
        assert_eq!(
            &buffer[..length],
            b"b",
            "an unconnected one goes to the next backend"
        );
    }
    drop(two.agent);
}

#[test]
fn a_node_port_is_reached_from_outside_with_the_clients_address() {
    if skip("a_node_port_is_reached_from_outside") {
        return;
    }
    let two = two("TCP");
    two.machine.api.put(
        "services",
        json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"name": "web", "namespace": "default", "uid": "uid-web"},
            "spec": {"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"], "type": "NodePort",
                "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30099}]},
        }),
    );
    let at: SocketAddr = format!("{NODE_IP}:30099").parse().expect("an address");
    eventually("the node port is open", || {
        two.machine
            .outside
            .run(move || TcpStream::connect_timeout(&at, Duration::from_millis(300)).map(drop))
            .map_err(|error| error.to_string())
    });
    two.machine.node.sh("nft 'add table inet foreign
         add chain inet foreign forward { type filter hook forward priority 0; policy drop; }
         add chain inet foreign input { type filter hook input priority 0; policy drop; }'");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let mut stream = two
            .machine
            .outside
            .run(move || TcpStream::connect(at).expect("connect"));
        seen.insert(say(&mut stream).expect("an answer"));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    // The server sees who is there.
    let listener = two
        .a
        .0
        .netns
        .run(|| TcpListener::bind("0.0.0.0:8081").expect("listen"));
    two.machine.api.endpoints("web", "TCP", &[(two.a.1, 8081)]);
    wait_for_backends(&two.machine, 1);
    let client = two
        .machine
        .outside
        .run(move || TcpStream::connect(at).expect("connect"));
    let (_, peer) = listener.accept().expect("accept");
    assert_eq!(Some(peer), client.local_addr().ok());
}

/// The median time from an endpoint's change to the map, beside that many other Services.
fn median_change(services: u32) -> Duration {
    let machine = Machine::new();
    let one: Vec<(IpAddr, u16)> = vec![(IpAddr::from([10, 244, 9, 1]), 80)];
    for number in 0..services {
        let ip = format!("10.96.{}.{}", 100 + number / 250, number % 250 + 1);
        machine
            .api
            .service(&format!("s{number}"), &ip, "TCP", 80, &one);
    }
    machine.api.service("web", "10.96.9.9", "TCP", 80, &one);
    let agent = machine.start();
    eventually("all Services are in", || {
        let rows = kernelet_maps::view::services(&machine.instance_id).expect("the view");
        // Beside them: the canary, the DNS's two, and ours.
        if rows.len() as u32 == services + 4 {
            Ok(())
        } else {
            Err(rows.len().to_string())
        }
    });
    let mut took = Vec::new();
    for round in 0..101_u32 {
        let count = 2 + round % 2;
        let backends: Vec<(IpAddr, u16)> = (1..=count)
            .map(|last| (IpAddr::from([10, 244, 9, last as u8]), 80))
            .collect();
        let begin = Instant::now();
        machine.api.endpoints("web", "TCP", &backends);
        let look = || {
            kernelet_maps::view::backends_of(&machine.instance_id, service(), 6)
                .expect("the view")
                .map(|backends| backends.len())
        };
        while look() != Some(count as usize) {
            assert!(begin.elapsed() < Duration::from_secs(30), "it never came");
            std::thread::yield_now();
        }
        took.push(begin.elapsed());
    }
    drop(agent);
    took.sort();
    println!(
        "{services} Services: p50 {:?}, p99 {:?}",
        took[50], took[99]
    );
    took[50]
}

#[test]
fn an_endpoint_change_costs_the_same_at_any_number_of_services() {
    if skip("an_endpoint_change_costs_the_same_at_any_number_of_services") {
        return;
    }
    let (few, many) = (median_change(10), median_change(2000));
    assert!(
        many < few * 3 + Duration::from_millis(1),
        "10 Services: {few:?}, 2000 Services: {many:?}"
    );
}
