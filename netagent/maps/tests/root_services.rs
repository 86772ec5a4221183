//! The socket hooks against a real kernel: a namespace of this test's own, services on `lo`.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use kernelet_ebpf_abi::{Backend, NetnsKind, Service, ServiceKey, TCP, UDP, service_flags};
use kernelet_maps::{DataPlane, Features, flows::FlowReader, netns_cookie, purge, view};
use nix::sched::{CloneFlags, unshare};

fn skip(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: needs root");
    }
    !root
}

/// A namespace with `lo` up, entered by this thread (each test has its own thread).
fn own_namespace() -> u64 {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut request = libc::ifreq {
        ifr_name: [0; 16],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16,
        },
    };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the request is a whole `ifreq` naming `lo`.
    let result = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SIOCSIFFLAGS,
            &raw mut request,
        )
    };
    assert_eq!(result, 0, "lo up");
    netns_cookie(socket.as_fd()).expect("the cookie")
}

/// One instance's plane, purged at the end whatever happens.
struct Plane {
    id: String,
    plane: DataPlane,
}

impl Plane {
    fn open(name: &str) -> Self {
        let id = format!("test-{name}-{}", std::process::id());
        let plane = DataPlane::open(&id).unwrap_or_else(|error| panic!("{error:?}"));
        Self { id, plane }
    }

    /// A service with the given backends, written as the agent does.
    fn service(
        &mut self,
        id: u32,
        at: (&str, u16),
        protocol: u8,
        affinity_s: u32,
        to: &[SocketAddr],
    ) {
        let extent = id * 16;
        let ids: Vec<u32> = (0..to.len() as u32).map(|n| id * 100 + n).collect();
        for (backend, address) in ids.iter().zip(to) {
            let value = Backend {
                address: address.ip().into(),
                port: address.port().to_be(),
                protocol,
                service: id,
                ..Backend::default()
            };
            self.plane.put_backend(*backend, value).expect("backend");
        }
        self.plane.put_extent(extent, &ids).expect("extent");
        let address: IpAddr = at.0.parse().expect("an address");
        let key = ServiceKey {
            address: address.into(),
            port: at.1.to_be(),
            protocol,
            pad: 0,
        };
        let value = Service {
            id,
            extent,
            count: ids.len() as u32,
            affinity_s,
            flags: service_flags::CLUSTER_IP,
        };
        self.plane
            .put_name(id, &format!("default/s{id}:p"))
            .expect("name");
        self.plane.put_service(key, value).expect("service");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        assert_eq!(purge(&self.id), Vec::<String>::new());
        assert!(
            !std::path::Path::new("/sys/fs/bpf/kernelet")
                .join(&self.id)
                .exists()
        );
    }
}

fn echo_tcp() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(address.to_string().as_bytes());
        }
    });
    address
}

fn echo_udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(address.to_string().as_bytes(), from);
        }
    });
    address
}

fn answer(stream: &mut TcpStream) -> SocketAddr {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text.parse().expect("an address")
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    socket
}

#[test]
fn a_connection_to_a_service_reaches_every_backend_and_shows_the_service_as_its_peer() {
    if skip("a_connection_to_a_service_reaches_every_backend") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("tcp");
    let backends = [echo_tcp(), echo_tcp(), echo_tcp()];
    plane.service(7, ("10.96.0.7", 80), TCP, 0, &backends);

    // Not our namespace yet: untouched, and without a route there.
    let error = TcpStream::connect("10.96.0.7:80").expect_err("no translation yet");
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);

    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect("10.96.0.7:80").expect("connect");
        assert_eq!(
            stream.peer_addr().expect("peer"),
            "10.96.0.7:80".parse().expect("address")
        );
        seen.insert(answer(&mut stream));
    }
    assert_eq!(
        seen,
        backends.into_iter().collect(),
        "all backends are used"
    );

    // The same through an IPv6 socket with a mapped address.
    let mut stream = TcpStream::connect("[::ffff:10.96.0.7]:80").expect("connect mapped");
    assert_eq!(
        stream.peer_addr().expect("peer"),
        "[::ffff:10.96.0.7]:80".parse().expect("address")
    );
    assert!(backends.contains(&answer(&mut stream)));

    let rows = view::services(&plane.id).expect("the view");
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].name.as_str(), rows[0].backends.len()),
        ("default/s7:p", 3)
    );
    let rows = view::backends(&plane.id).expect("the view");
    assert!(
        rows.iter()
            .all(|row| row.service == "default/s7:p" && backends.contains(&row.address))
    );
}

#[test]
fn a_service_without_backends_refuses_tcp_and_udp_at_once() {
    if skip("a_service_without_backends_refuses_tcp_and_udp_at_once") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("none");
    plane
        .plane
        .put_netns(cookie, NetnsKind::Node)
        .expect("netns");
    plane.service(8, ("10.96.0.8", 80), TCP, 0, &[]);
    plane.service(9, ("10.96.0.8", 80), UDP, 0, &[]);
    let mut flows = FlowReader::open(&plane.id).expect("flows");

    let error = TcpStream::connect("10.96.0.8:80").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = udp().connect("10.96.0.8:80").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = udp().send_to(b"x", "10.96.0.8:80").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let rows = flows.read(Duration::from_millis(500)).expect("flows");
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(
        rows.iter()
            .all(|row| row.reason == "no-backend" && row.dropped)
    );
    assert_eq!(rows[0].service.as_deref(), Some("default/s8:p"));
    assert_eq!(rows[0].pid, Some(std::process::id()));
    let counters = view::counters(&plane.id).expect("counters");
    assert_eq!(
        counters
            .iter()
            .find(|row| row.reason == "no-backend")
            .map(|row| row.count),
        Some(3)
    );
}

#[test]
fn a_kernel_without_set_retval_refuses_with_a_permission_error() {
    if skip("a_kernel_without_set_retval_refuses_with_a_permission_error") {
        return;
    }
    let cookie = own_namespace();
    let id = format!("test-old-{}", std::process::id());
    let features = Features { set_retval: false };
    let plane = DataPlane::open_on(&id, features).unwrap_or_else(|error| panic!("{error:?}"));
    let mut plane = Plane { id, plane };
    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    plane.service(14, ("10.96.0.14", 80), TCP, 0, &[]);
    let error = TcpStream::connect("10.96.0.14:80").expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn udp_answers_carry_the_service_address_and_direct_answers_their_own() {
    if skip("udp_answers_carry_the_service_address") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("udp");
    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    let backends = [echo_udp(), echo_udp()];
    plane.service(10, ("10.96.0.10", 53), UDP, 0, &backends);
    let service: SocketAddr = "10.96.0.10:53".parse().expect("address");
    let mut buffer = [0; 64];
    let text = |buffer: &[u8]| -> SocketAddr {
        std::str::from_utf8(buffer)
            .expect("text")
            .parse()
            .expect("address")
    };

    // Unconnected: the socket stays on one backend, whose answers look like the service's.
    let socket = udp();
    let mut first = None;
    for _ in 0..20 {
        socket.send_to(b"x", service).expect("send");
        let (length, from) = socket.recv_from(&mut buffer).expect("receive");
        assert_eq!(from, service);
        let backend = text(&buffer[..length]);
        assert_eq!(
            *first.get_or_insert(backend),
            backend,
            "one conversation, one backend"
        );
    }
    // The same socket asks that backend itself: now the answer is the backend's.
    let backend = first.expect("an answer");
    socket.send_to(b"x", backend).expect("send");
    assert_eq!(socket.recv_from(&mut buffer).expect("receive").1, backend);
    // And the service again.
    socket.send_to(b"x", service).expect("send");
    assert_eq!(socket.recv_from(&mut buffer).expect("receive").1, service);

    // Connected.
    let socket = udp();
    socket.connect(service).expect("connect");
    assert_eq!(socket.peer_addr().expect("peer"), service);
    socket.send(b"x").expect("send");
    assert_eq!(socket.recv_from(&mut buffer).expect("receive").1, service);
    // Connected anew, to a backend itself.
    socket.connect(backend).expect("connect");
    assert_eq!(socket.peer_addr().expect("peer"), backend);
    socket.send(b"x").expect("send");
    assert_eq!(socket.recv_from(&mut buffer).expect("receive").1, backend);

    // An IPv6 socket sends through the v4 hooks and receives through the v6 ones.
    let socket = UdpSocket::bind("[::]:0").expect("bind");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    let mapped: SocketAddr = "[::ffff:10.96.0.10]:53".parse().expect("address");
    socket.send_to(b"x", mapped).expect("send");
    let (_, from) = socket.recv_from(&mut buffer).expect("receive");
    assert_eq!(from, mapped);
}

#[test]
fn affinity_holds_a_client_until_its_backend_goes() {
    if skip("affinity_holds_a_client_until_its_backend_goes") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("affinity");
    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    let backends = [echo_tcp(), echo_tcp(), echo_tcp(), echo_tcp()];
    plane.service(11, ("10.96.0.11", 80), TCP, 3600, &backends);
    let connect = || answer(&mut TcpStream::connect("10.96.0.11:80").expect("connect"));
    let first = connect();
    for _ in 0..30 {
        assert_eq!(connect(), first);
    }
    let rows = view::affinity(&plane.id).expect("the view");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].backend, Some(first));
    assert_eq!(rows[0].client, format!("netns:{cookie}"));

    // Its backend goes: the service is swapped, then the id is removed.
    let gone = backends
        .iter()
        .position(|address| *address == first)
        .expect("known") as u32;
    let ids: Vec<u32> = (0..4).filter(|n| *n != gone).map(|n| 1100 + n).collect();
    plane.plane.put_extent(4000, &ids).expect("extent");
    let address: IpAddr = Ipv4Addr::new(10, 96, 0, 11).into();
    let key = ServiceKey {
        address: address.into(),
        port: 80_u16.to_be(),
        protocol: TCP,
        pad: 0,
    };
    let value = Service {
        id: 11,
        extent: 4000,
        count: 3,
        affinity_s: 3600,
        flags: 1,
    };
    plane.plane.put_service(key, value).expect("service");
    plane.plane.remove_backend(1100 + gone).expect("remove");
    let second = connect();
    assert_ne!(second, first);
    for _ in 0..30 {
        assert_eq!(connect(), second);
    }
}

#[test]
fn node_ports_are_translated_on_the_nodes_addresses_and_loopback_only_for_the_node() {
    if skip("node_ports_are_translated") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("nodeport");
    let backend = echo_tcp();
    plane.service(12, ("0.0.0.0", 30080), TCP, 0, &[backend]);
    plane
        .plane
        .put_netns(cookie, NetnsKind::Node)
        .expect("netns");
    let mut stream = TcpStream::connect("127.0.0.1:30080").expect("loopback, from the node");
    assert_eq!(answer(&mut stream), backend);

    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    let error = TcpStream::connect("127.0.0.1:30080").expect_err("a pod's loopback is its own");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let node: IpAddr = Ipv4Addr::new(192, 0, 2, 77).into();
    plane.plane.sync_host_addresses(&[node]).expect("addresses");
    let mut stream = TcpStream::connect("192.0.2.77:30080").expect("node address, from a pod");
    assert_eq!(answer(&mut stream), backend);
    plane.plane.sync_host_addresses(&[]).expect("addresses");
    TcpStream::connect("192.0.2.77:30080").expect_err("no longer the node's address");
}

#[test]
fn a_second_open_adopts_maps_and_links_and_keeps_routing() {
    if skip("a_second_open_adopts_maps_and_links") {
        return;
    }
    let cookie = own_namespace();
    let mut plane = Plane::open("adopt");
    plane
        .plane
        .put_netns(cookie, NetnsKind::Pod)
        .expect("netns");
    let backend = echo_tcp();
    plane.service(13, ("10.96.0.13", 80), TCP, 0, &[backend]);
    let links = || -> Vec<_> {
        let folder = format!("/sys/fs/bpf/kernelet/{}/1/links", plane.id);
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("links")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = links();
    assert_eq!(before.len(), 8);
    let id = plane.id.clone();
    let mut second = DataPlane::open(&id).expect("open again");
    assert_eq!(links(), before);
    let observed = second.observe().expect("observe");
    assert_eq!(observed.services.len(), 1);
    assert_eq!(observed.extents[0].1, vec![1300]);
    let mut stream = TcpStream::connect("10.96.0.13:80").expect("connect");
    assert_eq!(answer(&mut stream), backend);
    // One program a hook, not two: a change made by the second is the only truth.
    second
        .remove_service(observed.services[0].0)
        .expect("remove");
    TcpStream::connect("10.96.0.13:80").expect_err("gone");
}
