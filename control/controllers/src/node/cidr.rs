//! Cutting the cluster's address range into nodes' ranges. Pure.

use std::{collections::HashSet, fmt, net::IpAddr, str::FromStr};

/// An address range, as its first address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cidr {
    first: IpAddr,
    prefix: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.244.0.0/16")]
pub struct BadCidr(String);

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let cidr = Self {
            first: address,
            prefix,
        };
        if prefix > cidr.width() {
            return Err(bad());
        }
        Ok(cidr.at(cidr.number() & cidr.mask()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Cidr {
    pub(crate) fn is_v4(&self) -> bool {
        self.first.is_ipv4()
    }

    fn width(&self) -> u8 {
        if self.is_v4() { 32 } else { 128 }
    }

    fn number(&self) -> u128 {
        match self.first {
            IpAddr::V4(address) => u32::from(address).into(),
            IpAddr::V6(address) => address.into(),
        }
    }

    fn mask(&self) -> u128 {
        u128::MAX
            .checked_shl((self.width() - self.prefix).into())
            .unwrap_or(0)
    }

    fn at(&self, number: u128) -> Self {
        let first = match self.first {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        };
        Self { first, ..*self }
    }

    fn overlaps(&self, other: &Self) -> bool {
        let coarser = if self.prefix < other.prefix {
            self
        } else {
            other
        };
        self.is_v4() == other.is_v4()
            && (self.number() & coarser.mask()) == (other.number() & coarser.mask())
    }

    /// The lowest range of this prefix length inside this range that none of `used` touches.
    pub(crate) fn next_free(&self, prefix: u8, used: &HashSet<Cidr>) -> Option<Cidr> {
        if prefix < self.prefix || prefix > self.width() {
            return None;
        }
        let step = 1_u128.checked_shl((self.width() - prefix).into())?;
        // At most one part per used range is taken, so one more than those must be free.
        let parts = 1_u128
            .checked_shl((prefix - self.prefix).into())
            .unwrap_or(u128::MAX);
        (0..parts).find_map(|part| {
            let candidate = Cidr {
                prefix,
                ..self.at(self.number() + part * step)
            };
            let taken =
                used.contains(&candidate) || used.iter().any(|other| other.overlaps(&candidate));
            (!taken).then_some(candidate)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    #[test]
    fn ranges_are_read_and_normalised() {
        assert_eq!(cidr("10.244.3.7/16").to_string(), "10.244.0.0/16");
        assert_eq!(cidr("fd00::1/48").to_string(), "fd00::/48");
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/x"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_lowest_free_part_is_taken() {
        let cluster = cidr("10.244.0.0/16");
        let mut used = HashSet::new();
        for expected in ["10.244.0.0/23", "10.244.2.0/23", "10.244.4.0/23"] {
            let next = cluster.next_free(23, &used).expect("room");
            assert_eq!(next.to_string(), expected);
            used.insert(next);
        }
        used.remove(&cidr("10.244.2.0/23"));
        assert_eq!(cluster.next_free(23, &used), Some(cidr("10.244.2.0/23")));
        used.insert(cidr("10.244.2.128/25"));
        assert_eq!(cluster.next_free(23, &used), Some(cidr("10.244.6.0/23")));
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let cluster = cidr("10.0.0.0/22");
        let used = [cidr("10.0.0.0/23"), cidr("10.0.2.0/23")].into();
        assert_eq!(cluster.next_free(23, &used), None);
        assert_eq!(cluster.next_free(21, &HashSet::new()), None);
    }

    #[test]
    fn v6_ranges_are_cut_as_well() {
        let cluster = cidr("fd00::/56");
        let used = [cidr("fd00::/64")].into();
        assert_eq!(cluster.next_free(64, &used), Some(cidr("fd00:0:0:1::/64")));
    }
}
