//! What must hold before anything is made: each failure is one line with its remedy.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use anyhow::{Context, bail};
use nix::{ifaddrs::getifaddrs, sys::utsname::uname, unistd::geteuid};

/// The oldest kernel that has what we use (cgroup.kill came with 5.14, the rest earlier).
const KERNEL_FLOOR: (u32, u32) = (5, 15);

/// Checks what a node needs of the machine.
pub fn node() -> anyhow::Result<()> {
    root("makes namespaces, cgroups and eBPF programs")?;
    kernel()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .context("cannot read /proc/self/mountinfo; mount /proc")?;
    if !mounts.lines().any(|line| line.contains(" - cgroup2 ")) {
        bail!(
            "no cgroup2 file system is mounted here; if this is inside `ip netns exec`, which hides /sys's mounts, \
             use `nsenter --net=/run/netns/NAME`, else mount one: `mount -t cgroup2 none /sys/fs/cgroup`"
        );
    }
    features()
}

/// What the kernel must be built with, each asked for by a call that makes nothing.
fn features() -> anyhow::Result<()> {
    const INSIDE: &str = "inside a container, run it privileged";
    // Asking for the type loads its module where it is one.
    if let Err(error) = kernelet_sys::mount::fs_open("overlay") {
        bail!(
            "this kernel has no overlayfs, or keeps it from this process ({}): boot one with CONFIG_OVERLAY_FS; {INSIDE}",
            error.errno
        );
    }
    if let Err(error) = kernelet_maps::supported() {
        bail!(
            "{:#}: boot a kernel with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_NET_CLS_ACT; {INSIDE}",
            anyhow::Error::new(error)
        );
    }
    Ok(())
}

pub fn root(why: &str) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        bail!("this must run as root, because it {why}; run it with sudo");
    }
    Ok(())
}

fn kernel() -> anyhow::Result<()> {
    let name = uname().context("cannot ask for the kernel's version")?;
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_FLOOR {
        bail!(
            "the kernel is {release}; kernelet needs {}.{} or newer",
            KERNEL_FLOOR.0,
            KERNEL_FLOOR.1
        );
    }
    Ok(())
}

/// The address under which others reach this machine: the default route's source address; with no default
/// route, the first global address.
pub fn node_ip() -> anyhow::Result<IpAddr> {
    // Connecting a datagram socket sends nothing; the kernel only looks up the route. The targets are
    // documentation addresses (RFC 5737, RFC 3849), which nothing but a default route leads to.
    for (bind, target) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let source = UdpSocket::bind(bind).and_then(|socket| {
            socket.connect(target)?;
            socket.local_addr()
        });
        if let Ok(source) = source
            && is_global(source.ip())
        {
            return Ok(source.ip());
        }
    }
    let addresses = getifaddrs().context("cannot list this machine's addresses")?;
    let mut candidates = addresses.filter_map(|interface| {
        let address = interface.address?;
        address
            .as_sockaddr_in()
            .map(|v4| IpAddr::from(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
            .filter(|ip| is_global(*ip))
    });
    candidates
        .next()
        .context("this machine has no global address; give one with --node-ip")
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()),
    }
}

/// Opens a port, or says who may have it.
pub fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            anyhow::anyhow!(
                "port {} is taken by another program (`ss -ltnp sport = :{}` shows it); choose another with {option}",
                address.port(),
                address.port(),
            )
        } else {
            anyhow::Error::new(error).context(format!("cannot listen on {address}"))
        }
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_the_remedy() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen(first.local_addr().unwrap(), "--api-port")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is taken") && error.contains("--api-port"),
            "{error}"
        );
    }
}
