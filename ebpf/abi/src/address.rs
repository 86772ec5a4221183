//! One address type for both families.

/// An IPv6 address in network byte order, as four words; IPv4 is `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u32; 4]);

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From the word that the kernel holds (network byte order).
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && u32::from_be(self.0[3]) == 1
        }
    }

    /// The IPv4 address as the kernel's word.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let octets = match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        core::net::Ipv6Addr::from(octets).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in [
            "10.96.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::10:2",
            "fe80::1",
        ] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn an_ipv4_word_of_the_kernel_is_the_mapped_address() {
        let word = u32::from_ne_bytes([10, 96, 0, 1]);
        let address = Address::v4(word);
        assert_eq!(
            IpAddr::from(address),
            "10.96.0.1".parse::<IpAddr>().expect("an address")
        );
        assert_eq!(
            address,
            Address::from("10.96.0.1".parse::<IpAddr>().expect("an address"))
        );
        assert!(address.is_v4());
        assert_eq!(address.v4_word(), word);
    }

    #[test]
    fn loopback_is_known_in_both_families() {
        let is =
            |text: &str| Address::from(text.parse::<IpAddr>().expect("an address")).is_loopback();
        assert!(is("127.0.0.1") && is("127.8.9.1") && is("::1"));
        assert!(!is("128.0.0.1") && !is("::2") && !is("0.0.0.1") && !is("fd00::1"));
    }
}
