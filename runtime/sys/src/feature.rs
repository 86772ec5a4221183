//! What this kernel can do beyond the floor (5.15), asked once and remembered.

use std::sync::OnceLock;

/// overlayfs takes layers one by one (`lowerdir+`), so that neither their number nor the length of
/// their paths is bounded. Kernel 6.8. (A trial would not tell: a legacy context accepts any key.)
pub fn overlay_lowerdir_append() -> bool {
    kernel_version() >= (6, 8)
}

/// Major and minor of the running kernel; (0, 0) if it can't be read.
pub fn kernel_version() -> (u32, u32) {
    static KNOWN: OnceLock<(u32, u32)> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let name = nix::sys::utsname::uname().ok();
        let release = name
            .as_ref()
            .and_then(|name| name.release().to_str())
            .unwrap_or_default();
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    })
}
