//! Address ranges: parsing, membership, enumeration. Both families.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A range of addresses, `10.244.0.0/23`. The host bits are zero: parsing clears them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address range (expected address/prefix, as in 10.244.0.0/23)")]
pub struct CidrError(String);

impl Cidr {
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = width(address);
        if prefix > width {
            return None;
        }
        let address = from_bits(address, bits(address) & mask(width, prefix));
        Some(Self { address, prefix })
    }

    /// The range that holds just this address.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            prefix: width(address),
        }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && bits(address) & mask(width(address), self.prefix) == bits(self.address)
    }

    /// An IPv4 prefix's mask.
    pub fn mask_v4(prefix: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(32, prefix) as u32)
    }

    /// How many addresses the range has, saturating.
    pub fn size(&self) -> u128 {
        1u128
            .checked_shl(u32::from(width(self.address) - self.prefix))
            .unwrap_or(u128::MAX)
    }

    /// The address at `offset` from the start, if the range is that long.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| from_bits(self.address, bits(self.address) + offset))
    }

    /// How far `address` stands from the start.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| bits(address) - bits(self.address))
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(width: u8, prefix: u8) -> u128 {
    let all = if width == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let host = all.checked_shr(u32::from(prefix)).unwrap_or(0);
    all & !host
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address = address.parse().map_err(|_| error())?;
        let prefix = prefix.parse().map_err(|_| error())?;
        Self::new(address, prefix).ok_or_else(error)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn membership_counts_only_the_prefix() {
        let check = |range: &str, address: &str, expect: bool| {
            assert_eq!(
                cidr(range).contains(ip(address)),
                expect,
                "{address} in {range}"
            );
        };
        check("10.244.0.0/23", "10.244.1.255", true);
        check("10.244.0.0/23", "10.244.2.0", false);
        check("0.0.0.0/0", "192.0.2.1", true);
        check("192.0.2.1/32", "192.0.2.1", true);
        check("192.0.2.1/32", "192.0.2.2", false);
        check("fd00::/64", "fd00::ffff", true);
        check("fd00::/64", "fd00:1::", false);
        check("::/0", "::1", true);
        check("::/0", "127.0.0.1", false);
    }

    #[test]
    fn host_bits_are_cleared_and_sizes_add_up() {
        assert_eq!(cidr("10.244.3.7/23").to_string(), "10.244.2.0/23");
        assert_eq!(Cidr::mask_v4(16), Ipv4Addr::new(255, 255, 0, 0));
        assert_eq!(Cidr::mask_v4(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(cidr("10.244.2.0/23").size(), 512);
        assert_eq!(cidr("10.244.2.0/23").nth(511), Some(ip("10.244.3.255")));
        assert_eq!(cidr("10.244.2.0/23").nth(512), None);
        assert_eq!(cidr("10.244.2.0/23").offset(ip("10.244.3.0")), Some(256));
        assert_eq!(cidr("fd00::/64").nth(2), Some(ip("fd00::2")));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
