//! The programs for packets where the kernel has no tcx: in a filter of `clsact`.

mod common;

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use common::{Machine, Pod, skip};
use kernelet_link::{Clsact, PodLink, attach_filter, connect_pod, detach_filter};
use kernelet_maps::{DataPlane, PacketProgram};

#[test]
fn pods_reach_each_other_past_a_dropping_forward_chain_by_a_filter() {
    if skip("pods_reach_each_other_past_a_dropping_forward_chain_by_a_filter") {
        return;
    }
    let machine = Machine::new();
    machine.node.sh("nft 'add table inet foreign
         add chain inet foreign forward { type filter hook forward priority 0; policy drop; }'");
    let pods = [Pod::new("a"), Pod::new("b")];
    let netns = [pods[0].netns.fd(), pods[1].netns.fd()];
    let instance_id = machine.instance_id.clone();
    machine.node.run(move || {
        let mut plane = DataPlane::open(&instance_id).expect("the data plane");
        for (index, netns) in netns.iter().enumerate() {
            let address: IpAddr = [10, 244, 0, index as u8 + 1].into();
            let link = PodLink {
                instance_id: instance_id.clone(),
                uid: format!("uid-{index}"),
                pod: "default/x".into(),
                name: format!("klclsact{index}"),
                pod_end: "eth0".into(),
                addresses: vec![address],
                node_addresses: Vec::new(),
                mtu: 1500,
            };
            let connected =
                connect_pod(&link, std::os::fd::AsFd::as_fd(netns), None).expect("connect");
            let program = PacketProgram::FromPod;
            let attach = || {
                attach_filter(connected.ifindex, plane.program(program), program.name())
                    .expect("attach")
            };
            assert_eq!(attach(), Clsact::Made);
            assert_eq!(
                attach(),
                Clsact::WasThere,
                "a second one takes the first one's place"
            );
            plane
                .put_pod(address, connected.ifindex, connected.netns_cookie)
                .expect("enter");
        }
    });
    let filters = machine.node.sh("tc filter show dev klclsact0 ingress");
    assert_eq!(filters.matches("direct-action").count(), 1, "{filters}");

    let at: SocketAddr = "10.244.0.1:8080".parse().expect("an address");
    let listener = pods[0]
        .netns
        .run(move || TcpListener::bind(at).expect("listen"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.expect("accept").write_all(b"x");
        }
    });
    pods[1]
        .netns
        .run(move || TcpStream::connect_timeout(&at, Duration::from_secs(2)).expect("connect"));

    machine.node.run(move || {
        let index: u32 = nix::net::if_::if_nametoindex("klclsact0").expect("the link");
        detach_filter(index, Clsact::Made).expect("detach");
        detach_filter(index, Clsact::Made).expect("again");
    });
    let left = machine.node.sh("tc qdisc show dev klclsact0");
    assert!(!left.contains("clsact"), "{left}");
}
