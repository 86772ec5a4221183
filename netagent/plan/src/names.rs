//! Names that are made from other names, the same on every run.

/// The node's end of a pod's link: `kl` and 48 bits of a hash of the pod's uid (links' names have at
/// most 15 bytes).
pub fn link_name(pod_uid: &str) -> String {
    // FNV-1a: stable over releases and machines, which a `Hasher` of the standard library isn't.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in pod_uid.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("kl{:012x}", hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_name_is_stable_and_fits() {
        let name = link_name("3f1c2a34-9d0c-4a51-8c63-0a3f6cf6f9aa");
        assert_eq!(name, link_name("3f1c2a34-9d0c-4a51-8c63-0a3f6cf6f9aa"));
        assert!(name.len() <= 15, "{name}");
        assert_ne!(name, link_name("3f1c2a34-9d0c-4a51-8c63-0a3f6cf6f9ab"));
    }
}
