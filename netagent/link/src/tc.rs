//! Programs on a link's ingress: a `clsact` queueing discipline and a `bpf` filter in it. For pods' links
//! always (see `connect_pod`), for others on kernels before 6.6, which have no tcx.
//!
//! Filters have a fixed place (priority and handle), so that a new program replaces an old one there in
//! one request.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::{
    LinkError,
    netlink::{Attributes, CREATE, EXCLUSIVE, Message, Netlink, REPLACE},
};

const NEW_QDISC: u16 = 36;
const DEL_QDISC: u16 = 37;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;

const PRIORITY: u32 = 75;
const HANDLE: u32 = 0x4b;
const ALL_PROTOCOLS: u16 = 0x0003;

/// Whether the discipline had to be made: then purge removes it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clsact {
    WasThere,
    Made,
}

/// `struct tcmsg`.
fn body(ifindex: u32, handle: u32, parent: u32, info: u32, attributes: Attributes) -> Vec<u8> {
    let mut body = vec![0_u8; 4];
    for word in [ifindex, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(attributes.bytes());
    body
}

/// Runs `program` on what enters by the link, in the place of an earlier one of ours.
pub fn attach_filter(
    ifindex: u32,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<Clsact, LinkError> {
    attach(&mut Netlink::route()?, ifindex, program, name)
}

pub(crate) fn attach(
    netlink: &mut Netlink,
    ifindex: u32,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<Clsact, LinkError> {
    let what = format!("make the clsact discipline of link {ifindex}");
    let attributes = Attributes::default().text(1, "clsact");
    let make = Message::new(
        NEW_QDISC,
        CREATE | EXCLUSIVE,
        body(ifindex, CLSACT_HANDLE, CLSACT, 0, attributes),
        what,
    );
    let made = match netlink.apply(vec![make], |_, _| false) {
        Ok(()) => Clsact::Made,
        Err(error) if error.is(Errno::EEXIST) => Clsact::WasThere,
        Err(error) => return Err(error),
    };
    const DIRECT_ACTION: u32 = 1;
    let options = Attributes::default()
        .with(6, &(program.as_raw_fd() as u32).to_ne_bytes())
        .text(7, name)
        .with(8, &DIRECT_ACTION.to_ne_bytes());
    let attributes = Attributes::default().text(1, "bpf").nested(2, options);
    let filter = Message::new(
        NEW_FILTER,
        CREATE | REPLACE,
        body(ifindex, HANDLE, INGRESS, place(), attributes),
        format!("attach {name} to link {ifindex}"),
    );
    netlink.apply(vec![filter], |_, _| false)?;
    Ok(made)
}

fn place() -> u32 {
    PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be())
}

/// Removes our filter and, if it was `made` by us, the discipline. What is gone already is no error.
pub fn detach_filter(ifindex: u32, clsact: Clsact) -> Result<(), LinkError> {
    let mut netlink = Netlink::route()?;
    let mut messages = vec![Message::new(
        DEL_FILTER,
        0,
        body(
            ifindex,
            HANDLE,
            INGRESS,
            place(),
            Attributes::default().text(1, "bpf"),
        ),
        format!("remove our filter from link {ifindex}"),
    )];
    if clsact == Clsact::Made {
        messages.push(Message::new(
            DEL_QDISC,
            0,
            body(ifindex, CLSACT_HANDLE, CLSACT, 0, Attributes::default()),
            format!("remove the clsact discipline of link {ifindex}"),
        ));
    }
    netlink.apply(messages, |_, error| {
        matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
        )
    })
}
