//! Which pod gets which address.
//!
//! Addresses are given out in order, round and round, so that one that was released rests as long as
//! possible: connections, caches and name servers elsewhere still know its old owner. The agent stores
//! nothing: after a restart, what is attached is claimed again, and the round goes on behind it. A
//! program that runs once a pod, as a CNI plugin does, keeps the value itself in a file.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::Cidr;

/// How long a released address is left alone while there are others.
pub const REST: Duration = Duration::from_secs(60);

/// The addresses of one node's pods. Times are a monotonic clock's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ipam {
    ranges: Vec<Range>,
    owners: BTreeMap<IpAddr, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Range {
    cidr: Cidr,
    /// Where the search for the next address begins.
    next: u128,
    resting: HashMap<IpAddr, Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("no free address in {0}")]
    Full(Cidr),
    #[error("the node has no pod address range yet")]
    NoRange,
    #[error("{address} belongs to {owner} already")]
    Taken { address: IpAddr, owner: String },
}

impl Ipam {
    pub fn new(ranges: &[Cidr]) -> Self {
        let mut ipam = Self::default();
        ipam.set_ranges(ranges);
        ipam
    }

    pub fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    pub fn ranges(&self) -> impl Iterator<Item = Cidr> {
        self.ranges.iter().map(|range| range.cidr)
    }

    /// Takes the ranges that addresses come from now; owners keep what they have.
    pub fn set_ranges(&mut self, ranges: &[Cidr]) {
        self.ranges = ranges
            .iter()
            .map(|cidr| {
                let known = self.ranges.iter().find(|range| range.cidr == *cidr);
                known.cloned().unwrap_or_else(|| {
                    // Behind the last one in use: what is just before it may just have been released.
                    let last = self
                        .owners
                        .keys()
                        .rev()
                        .find_map(|address| cidr.offset(*address));
                    Range {
                        cidr: *cidr,
                        next: last.map_or(0, |last| last + 1),
                        resting: HashMap::new(),
                    }
                })
            })
            .collect();
    }

    /// Enters an address that its owner has already.
    pub fn claim(&mut self, address: IpAddr, owner: &str) -> Result<(), IpamError> {
        if let Some(known) = self.owners.get(&address)
            && known != owner
        {
            return Err(IpamError::Taken {
                address,
                owner: known.clone(),
            });
        }
        self.owners.insert(address, owner.into());
        for range in &mut self.ranges {
            range.resting.remove(&address);
            if let Some(offset) = range.cidr.offset(address) {
                range.next = range.next.max(offset + 1);
            }
        }
        Ok(())
    }

    /// One address a family for `owner`: those it has, else one of `wanted` that is free, else the next.
    pub fn allocate(
        &mut self,
        owner: &str,
        wanted: &[IpAddr],
        now: Duration,
    ) -> Result<Vec<IpAddr>, IpamError> {
        if self.ranges.is_empty() {
            return Err(IpamError::NoRange);
        }
        let mut given: Vec<IpAddr> = Vec::new();
        for index in 0..self.ranges.len() {
            let cidr = self.ranges[index].cidr;
            if given
                .iter()
                .any(|address| address.is_ipv4() == cidr.is_ipv4())
            {
                continue;
            }
            let has = self.of(owner).find(|address| cidr.contains(*address));
            let asked = wanted
                .iter()
                .copied()
                .find(|address| is_usable(&cidr, *address) && !self.owners.contains_key(address));
            let address = match has.or(asked) {
                Some(address) => address,
                None => match self.next_free(index, now) {
                    Some(address) => address,
                    // Another range of the same family may have room.
                    None if self.ranges[index + 1..]
                        .iter()
                        .any(|other| other.cidr.is_ipv4() == cidr.is_ipv4()) =>
                    {
                        continue;
                    }
                    None => {
                        return Err(IpamError::Full(cidr));
                    }
                },
            };
            given.push(address);
        }
        for address in &given {
            self.owners.insert(*address, owner.into());
        }
        Ok(given)
    }

    /// Everybody who has an address.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.owners.values().map(String::as_str)
    }

    /// Gives back all that `owner` has.
    pub fn release(&mut self, owner: &str, now: Duration) -> Vec<IpAddr> {
        let released: Vec<IpAddr> = self.of(owner).collect();
        for address in &released {
            self.owners.remove(address);
            for range in &mut self.ranges {
                if range.cidr.contains(*address) {
                    range.resting.insert(*address, now + REST);
                }
            }
        }
        released
    }

    /// An owner's addresses.
    pub fn of<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        self.owners
            .iter()
            .filter(move |(_, known)| *known == owner)
            .map(|(address, _)| *address)
    }

    fn next_free(&mut self, index: usize, now: Duration) -> Option<IpAddr> {
        let range = &mut self.ranges[index];
        range.resting.retain(|_, until| *until > now);
        let size = range.cidr.size();
        let taken = self.owners.len() as u128 + range.resting.len() as u128;
        // Nothing further can be free than behind everything that is taken or rests, and the ends.
        let steps = size.min(taken + 3);
        let mut resting: Option<(Duration, u128, IpAddr)> = None;
        for step in 0..steps {
            let offset = (range.next + step) % size;
            let Some(address) = range.cidr.nth(offset) else {
                continue;
            };
            if !is_usable(&range.cidr, address) || self.owners.contains_key(&address) {
                continue;
            }
            match range.resting.get(&address) {
                None => {
                    range.next = offset + 1;
                    return Some(address);
                }
                Some(until) => {
                    if resting.is_none_or(|(best, ..)| *until < best) {
                        resting = Some((*until, offset, address));
                    }
                }
            }
        }
        // Better one that rested a short while than none.
        let (_, offset, address) = resting?;
        range.next = offset + 1;
        range.resting.remove(&address);
        Some(address)
    }
}

/// In the range, and not one of its ends, which people read as network and broadcast address.
fn is_usable(cidr: &Cidr, address: IpAddr) -> bool {
    let Some(offset) = cidr.offset(address) else {
        return false;
    };
    let size = cidr.size();
    size <= 2 || (offset != 0 && offset != size - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn addresses_come_in_order_and_an_owner_keeps_its_own() {
        let mut ipam = Ipam::new(&[cidr("10.244.0.0/23"), cidr("fd00::/64")]);
        assert_eq!(
            ipam.allocate("a", &[], NOW),
            Ok(vec![ip("10.244.0.1"), ip("fd00::1")])
        );
        assert_eq!(
            ipam.allocate("b", &[], NOW),
            Ok(vec![ip("10.244.0.2"), ip("fd00::2")])
        );
        assert_eq!(
            ipam.allocate("a", &[], NOW),
            Ok(vec![ip("10.244.0.1"), ip("fd00::1")])
        );
    }

    #[test]
    fn a_released_address_rests_while_there_are_others_and_comes_when_there_are_none() {
        let mut ipam = Ipam::new(&[cidr("10.0.0.0/29")]);
        for owner in ["a", "b", "c", "d", "e"] {
            ipam.allocate(owner, &[], NOW).expect("room");
        }
        ipam.release("b", NOW);
        ipam.release("c", NOW + Duration::from_secs(1));
        assert_eq!(ipam.allocate("f", &[], NOW), Ok(vec![ip("10.0.0.6")]));
        // Only resting ones are left: the one that rested longest.
        assert_eq!(
            ipam.allocate("g", &[], NOW + Duration::from_secs(2)),
            Ok(vec![ip("10.0.0.2")])
        );
        assert_eq!(
            ipam.allocate("h", &[], NOW + Duration::from_secs(2)),
            Ok(vec![ip("10.0.0.3")])
        );
        assert_eq!(
            ipam.allocate("i", &[], NOW + Duration::from_secs(2)),
            Err(IpamError::Full(cidr("10.0.0.0/29")))
        );
    }

    #[test]
    fn after_a_restart_what_is_attached_is_claimed_and_the_round_goes_on_behind_it() {
        let mut ipam = Ipam::new(&[cidr("10.244.0.0/23")]);
        ipam.claim(ip("10.244.0.7"), "a").expect("free");
        assert_eq!(
            ipam.claim(ip("10.244.0.7"), "b"),
            Err(IpamError::Taken {
                address: ip("10.244.0.7"),
                owner: "a".into()
            })
        );
        assert_eq!(ipam.allocate("b", &[], NOW), Ok(vec![ip("10.244.0.8")]));
        assert_eq!(
            ipam.allocate("c", &[ip("10.244.0.3")], NOW),
            Ok(vec![ip("10.244.0.3")])
        );
        // Claimed before the range was known, as after a start without an API server.
        let mut late = Ipam::default();
        assert_eq!(late.allocate("x", &[], NOW), Err(IpamError::NoRange));
        late.claim(ip("10.244.0.9"), "a").expect("free");
        late.set_ranges(&[cidr("10.244.0.0/23")]);
        assert_eq!(late.allocate("b", &[], NOW), Ok(vec![ip("10.244.0.10")]));
    }

    proptest! {
        /// Against the plainest model: a map from owner to address.
        #[test]
        fn no_address_has_two_owners(
            operations in proptest::collection::vec((0_u8..20, any::<bool>(), 0_u64..50), 1..200)
        ) {
            let range = cidr("10.0.0.0/28");
            let mut ipam = Ipam::new(&[range]);
            let mut model: BTreeMap<String, IpAddr> = BTreeMap::new();
            let mut now = NOW;
            for (owner, attach, seconds) in operations {
                now += Duration::from_secs(seconds);
                let owner = format!("pod-{owner}");
                if attach {
                    match ipam.allocate(&owner, &[], now) {
                        Ok(addresses) => {
                            prop_assert_eq!(addresses.len(), 1);
                            let address = addresses[0];
                            prop_assert!(range.contains(address));
                            let known = *model.entry(owner.clone()).or_insert(address);
                            prop_assert_eq!(known, address, "an owner keeps its address");
                            let holders = model.values().filter(|held| **held == address).count();
                            prop_assert_eq!(holders, 1);
                        }
                        Err(error) => {
                            prop_assert_eq!(error, IpamError::Full(range));
                            prop_assert_eq!(model.len(), 14, "it is full only when it is full");
                        }
                    }
                } else {
                    let released = ipam.release(&owner, now);
                    prop_assert_eq!(released, model.remove(&owner).into_iter().collect::<Vec<_>>());
                }
            }
        }
    }
}
