//! A test-only kind with two versions and a conversion: `Widget` of `test.kernelet.io`, v1 (stored) and v1beta1.

use crate::Registry;

/// The built-in registry and `widgets`.
pub fn registry() -> Registry {
    todo!()
}
