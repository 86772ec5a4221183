//! What agent and shim say to each other. Each must stand what the other one, taken over, could send.

use kernelet_shim::protocol::{Message, Request};
use serde::{Serialize, de::DeserializeOwned};

/// The first byte chooses the side.
pub fn packets(data: &[u8]) {
    let Some((side, packet)) = data.split_first() else {
        return;
    };
    match side % 3 {
        0 => there_and_back::<Request>(packet),
        1 => there_and_back::<Message>(packet),
        _ => whole(packet),
    }
}

/// What was decoded is encoded and decoded again, and is the same bytes.
fn there_and_back<T: Serialize + DeserializeOwned>(packet: &[u8]) {
    let Ok(message) = postcard::from_bytes::<T>(packet) else {
        return;
    };
    let bytes = postcard::to_stdvec(&message).expect("what was decoded can be encoded");
    let again: T = postcard::from_bytes(&bytes).expect("what was encoded can be decoded");
    let second = postcard::to_stdvec(&again).expect("it can be encoded again");
    assert_eq!(bytes, second);
}

/// A packet with its header, over a socket.
fn whole(packet: &[u8]) {
    use std::os::fd::AsFd;
    let (ours, theirs) = kernelet_sys::socket::pair().expect("a pair of sockets");
    // Its length is bounded by the socket's buffer; an empty one is the end of the connection.
    let packet = &packet[..packet.len().min(32 << 10)];
    if kernelet_sys::socket::send(ours.as_fd(), packet, &[]).is_ok() {
        let _ = kernelet_shim::wire::receive::<Request>(theirs.as_fd());
    }
}
