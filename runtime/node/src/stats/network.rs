//! Counters of network interfaces.

use std::fs;

/// One interface since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The interfaces in the network namespace of a process, but for its loopback.
pub(super) fn of_process(pid: u32) -> Vec<Interface> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse(&text)
}

/// The node's own, the default route's first.
pub(crate) fn of_machine() -> Vec<Interface> {
    let mut all = parse(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default());
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    if let Some(default) = default_route(&routes) {
        all.sort_by_key(|interface| interface.name != default);
    }
    all
}

/// The interface of the route to everywhere, in `/proc/net/route`'s form.
fn default_route(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next()?;
        (words.next()? == "00000000").then_some(interface)
    })
}

fn parse(text: &str) -> Vec<Interface> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let name = name.trim();
            let counts: Vec<u64> = rest
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            let at = |index: usize| counts.get(index).copied();
            (name != "lo").then_some(Interface {
                name: name.to_owned(),
                rx_bytes: at(0)?,
                rx_packets: at(1)?,
                rx_errors: at(2)?,
                rx_dropped: at(3)?,
                tx_bytes: at(8)?,
                tx_packets: at(9)?,
                tx_errors: at(10)?,
                tx_dropped: at(11)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                            |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n";
        let expect = Interface {
            name: "eth0".to_owned(),
            rx_bytes: 1000,
            rx_packets: 10,
            rx_errors: 1,
            rx_dropped: 2,
            tx_bytes: 2000,
            tx_packets: 20,
            tx_errors: 3,
            tx_dropped: 4,
        };
        assert_eq!(parse(text), [expect]);
        let routes = "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\neth0\t00000000\t0101A8C0\n";
        assert_eq!(default_route(routes), Some("eth0"));
    }
}
